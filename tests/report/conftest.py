"""Pages of reports made up for tests."""

import numpy as np
import pytest
from support_report import make_report

from medssl_monai.metrics import evaluate_predictions
from medssl_monai.report import write_page


@pytest.fixture
def render(tmp_path):
    def render(**changes):
        path = write_page(tmp_path / "report.html", make_report(**changes))
        return path.read_text(encoding="utf-8")

    return render


@pytest.fixture(scope="module")
def findings():
    """An evaluation of 60 images: of hernia there is no positive sample, of edema no label is known."""
    rng = np.random.default_rng(0)
    target, probs = rng.integers(-1, 2, (60, 4)), rng.random((60, 4))
    target[:, 2], target[:, 3] = np.minimum(target[:, 2], 0), -1
    names = ["effusion", "mass", "hernia", "edema"]
    groups = [str(n // 3) for n in range(60)]
    return {"kind": "findings", **evaluate_predictions(probs, target, groups, names, resamples=50)}
