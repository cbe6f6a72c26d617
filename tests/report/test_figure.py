"""The learning curve as a picture."""

import subprocess
import sys

import numpy as np
import pytest
from support import Outline
from support_report import evaluation

from medssl_monai.metrics import evaluate_predictions


def test_nothing_defined_still_gives_a_page(render):
    nothing = evaluate_predictions(np.empty((0, 2)), np.empty(0, dtype=int), [])
    page = render(rounds=[{"round": 0, "epoch": 6, "labels": 24, "evaluation": nothing}])
    assert "no value is defined" in Outline(page).all("img")[0]["alt"]


def test_an_interval_beside_its_value_is_drawn(render):
    beside = evaluation(0.5, low=0.6, high=0.7)  # percentile intervals may do so; matplotlib refuses negative bars
    page = render(rounds=[{"round": 0, "epoch": 6, "labels": 24, "evaluation": beside}])
    assert "image/svg+xml" in page


def test_without_matplotlib_the_page_says_how_to_get_the_figure(render, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = render()
    assert "image/svg+xml" not in page
    assert 'pip install "medssl-monai[report]"' in Outline(page).text
    assert "0.812 [0.770, 0.851]" in page


@pytest.mark.slow
def test_importing_the_report_does_not_need_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import medssl_monai.report"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
