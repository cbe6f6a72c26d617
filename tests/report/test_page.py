"""The report of a run: complete, honest about what is missing, and safe to open."""

import base64
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support import Outline

from medssl_monai.metrics import evaluate_predictions
from medssl_monai.report import format_table, write_page


def evaluation(value, **interval):
    return {
        "n": 40,
        "groups": 20,
        "metrics": {name: {"value": value, **interval} for name in ("accuracy", "f1_macro", "auroc", "ece")},
        "undefined": {},
        "per_class": {"benign": {"n": 30, "recall": 0.5}, "malignant": {"n": 10, "recall": 0.25, "auroc": 0.75}},
        "interval": "95 % group bootstrap, 1000 resamples, seed 0",
    }


def without_auroc():
    result = evaluation(0.5)
    del result["metrics"]["auroc"]
    return {**result, "undefined": {"auroc": "only benign occurs"}}


def make_item(**changes):
    return {
        "id": "case 7",
        "rank": 1,
        "reason": "unstable",
        "scores": {"instability": 0.012345, "degree": 7.0},
        "annotated": "malignant",
        "predicted": "benign",
        "differs": True,
        "confidence": 0.625,
        "image": np.zeros((300, 200), dtype=np.uint8),
        **changes,
    }


def make_report(**changes):
    return {
        "title": "BoostMIS",
        "synthetic": False,
        "data": "lesions",
        "classes": ["benign", "malignant"],
        "section": "validation",
        "created": "2026-11-21T07:15:00+00:00",
        "seconds": 184.2,
        "command": "medssl run boostmis",
        "rounds": [
            {"round": 0, "epoch": 6, "labels": 24, "evaluation": evaluation(0.5)},
            {"round": 1, "epoch": 12, "labels": 48, "evaluation": evaluation(0.812, low=0.77, high=0.851)},
        ],
        "queries": [{"round": 0, "epoch": 6, "strategy": "boostmis", "items": [make_item()]}],
        "notes": ["The test section was not touched."],
        **changes,
    }


@pytest.fixture
def render(tmp_path):
    def render(**changes):
        path = write_page(tmp_path / "report.html", make_report(**changes))
        return path.read_text(encoding="utf-8")

    return render


def test_the_page_says_what_was_measured_on_what_and_how(render):
    text = Outline(render()).text
    for part in (
        "BoostMIS on lesions",
        "For research, not a medical device",
        "validation section: 40 images of 20 groups",
        "95 % group bootstrap, 1000 resamples, seed 0",
        "0.812 [0.770, 0.851]",
        "took 3 min 04 s",
        "medssl run boostmis",
        "The test section was not touched.",
        "calibration error (ECE)",
    ):
        assert part in text


def test_the_page_needs_nothing_but_itself(render):
    page = render()
    outline = Outline(page)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in outline.tags}
    assert all(image["src"].startswith("data:image/") for image in outline.all("img"))
    assert "url(" not in page
    assert "default-src 'none'" in page  # and the browser is told to fetch nothing


def test_text_from_files_is_no_markup(render):
    trap = '<script>alert("1")</script>\'&'
    item = make_item(id=trap, rank=trap, reason=trap, scores={trap: 0.5}, annotated=trap, predicted=trap, ask=trap)
    broken = {**evaluation(0.5), "undefined": {trap: trap}, "interval": trap, "per_class": {trap: {trap: 1}}}
    del broken["metrics"]["auroc"]
    page = render(
        **dict.fromkeys(("title", "data", "section", "created", "command"), trap),
        classes=[trap],
        notes=[trap],
        rounds=[
            {"round": 0, "epoch": 1, "labels": 2, "evaluation": {**broken, "undefined": {"auroc": trap, trap: trap}}}
        ],
        queries=[{"round": 0, "epoch": 1, "strategy": trap, "items": [item]}],
    )
    assert "<script" not in page
    assert Outline(page).text.count(trap) >= 17
    assert not {"a", "form", "base"} & {tag for tag, _ in Outline(page).tags}  # nothing to follow
    assert trap in Outline(page).all("img")[-1]["alt"]


def test_a_method_that_estimates_losses_has_a_table_and_no_other_has_one(render):
    class_of = {"be<nign": {"n": 20, "accuracy": 0.75}, "malignant": {"n": 0}}
    accepted = {"n": 20, "target_ece": 0.125, "hard_ece": 0.25, "accuracy": 0.75, "per_class": class_of}
    sections = {
        "validation": {"n": 60, "loss_correlation": -0.321, "target_ece": 0.9, "hard_ece": 0.9, "accepted": accepted},
        "unlabeled": {"n": 7, "accepted": {"n": 0}},
    }
    rounds = make_report()["rounds"]
    text = Outline(render(rounds=[rounds[0], {**rounds[1], "estimator": sections}])).text
    assert "1validation20 of 60-0.3210.1250.2500.750" in text
    assert "1unlabeled0 of 7undefinedundefinedundefinedundefined" in text
    assert "validationbe<nign200.750" in text and "validationmalignant0undefined" in text
    assert "Estimated loss" not in Outline(render(rounds=[rounds[0], {**rounds[1], "estimator": {}}])).text


def test_a_screen_reader_finds_language_alternatives_and_headers(render):
    outline = Outline(render())
    assert outline.all("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in outline.all("img"))
    assert "AUROC from 0.500 at 24 to 0.812 at 48 labels" in outline.all("img")[0]["alt"]
    assert all(cell["scope"] in ("col", "row") for cell in outline.all("th"))
    assert all("tabindex" in part for part in outline.all("div"))  # wide tables scroll by keyboard
    assert outline.all("meta")[1]["name"] == "viewport"


@pytest.mark.parametrize("synthetic", [True, False])
def test_phantoms_are_named_as_such(render, synthetic):
    page, rounds = render(synthetic=synthetic), make_report()["rounds"]
    assert ('class="banner" role="note">SYNTHETIC DATA' in page) is synthetic
    assert ("<title>SYNTHETIC DATA" in page) is synthetic
    assert format_table(rounds, synthetic=synthetic).startswith("SYNTHETIC DATA") is synthetic


def test_what_is_undefined_shows_its_reason_and_no_number(render):
    text = Outline(render(rounds=[{"round": 0, "epoch": 6, "labels": 24, "evaluation": without_auroc()}])).text
    assert "undefined: only benign occurs" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_an_image_becomes_a_small_png_of_its_shape(render):
    items = [make_item(), make_item(image=np.full((20, 30, 3), 7, dtype=np.uint8)), make_item(image=None)]
    page = render(queries=[{"round": 0, "epoch": 6, "strategy": "random", "items": items}])
    contents = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    sizes = [Image.open(io.BytesIO(base64.b64decode(content))).size for content in contents]
    assert sizes == [(107, 160), (30, 20)]  # width, height
    assert "no preview" in page


def test_a_card_tells_why_an_image_was_asked_for_and_what_came_of_it(render):
    items = [
        make_item(),
        make_item(annotated="benign", differs=False),
        make_item(annotated=None, differs=False, scores={"density": float("nan")}),
    ]
    page = render(queries=[{"round": 0, "epoch": 6, "strategy": "boostmis", "items": items}])
    text = Outline(page).text
    assert "rank 1 · unstable" in text
    assert "instability 0.0123, degree 7" in text
    assert "predicted benign (0.625)→ annotated malignant differs" in text
    assert text.count("differs") == 1
    assert "not annotated yet" in text
    assert "density undefined" in text


def test_a_page_before_the_first_round(render):
    text = Outline(render(rounds=[], queries=[], notes=[], seconds=None, classes=[], data="", command="")).text
    assert "No round has been evaluated yet." in text
    assert "Nothing has been queried yet." in text
    for absent in ("took", "BoostMIS on", "How this was made"):
        assert absent not in text


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


def test_equal_runs_give_equal_pages(render):
    assert render() == render()


def test_an_evaluation_fits_the_page(render):
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 60)
    probs = rng.dirichlet([1, 1], 60)
    result = evaluate_predictions(probs, target, [str(n // 3) for n in range(60)], resamples=20)
    text = Outline(render(rounds=[{"round": 0, "epoch": 6, "labels": 24, "evaluation": result}])).text
    metric = result["metrics"]["auroc"]
    assert f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]" in text


@pytest.fixture(scope="module")
def findings():
    """An evaluation of 60 images: of hernia there is no positive sample, of edema no label is known."""
    rng = np.random.default_rng(0)
    target, probs = rng.integers(-1, 2, (60, 4)), rng.random((60, 4))
    target[:, 2], target[:, 3] = np.minimum(target[:, 2], 0), -1
    names = ["effusion", "mass", "hernia", "edema"]
    return evaluate_predictions(probs, target, [str(n // 3) for n in range(60)], names, resamples=50)


def test_findings_have_a_row_each_and_those_left_out_are_named(render, findings):
    text = Outline(render(rounds=[{"round": 0, "epoch": 6, "labels": 24, "evaluation": findings}])).text
    assert "By finding" in text and "By class" not in text
    assert "findingpresentabsentunknownAUROC" in text.replace("\n", "")
    row = findings["per_class"]["effusion"]
    low, high = findings["per_class_intervals"]["effusion"]["auroc"]
    assert f"effusion{row['n']}{row['absent']}{row['unknown']}{row['auroc']:.3f} [{low:.3f}, {high:.3f}]" in text
    hernia = findings["per_class"]["hernia"]
    assert f"hernia0{hernia['absent']}{hernia['unknown']}undefinedundefinedundefined" in text
    assert "AUROC leaves out hernia (no positive sample); edema (no label is known)" in text
    assert "any finding" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_the_table_of_the_console_names_the_findings_that_a_mean_leaves_out(findings):
    rounds = [{"round": n, "epoch": n, "labels": 24, "evaluation": findings} for n in (0, 1)]
    lines = format_table(rounds).splitlines()
    assert lines[3:] == [
        "macro-F1 leaves out edema (no label is known)",
        "AUROC leaves out hernia (no positive sample); edema (no label is known)",
    ]


def test_the_table_of_the_console():
    rounds = make_report()["rounds"] + [{"round": 2, "epoch": 18, "labels": 72, "evaluation": without_auroc()}]
    assert format_table(rounds).splitlines() == [
        "round  labels  accuracy              macro-F1              AUROC",
        "0      24      0.500                 0.500                 0.500",
        "1      48      0.812 [0.770, 0.851]  0.812 [0.770, 0.851]  0.812 [0.770, 0.851]",
        "2      72      0.500                 0.500                 undefined",
        "AUROC undefined: only benign occurs",
    ]
    assert format_table([]) == "round  labels  accuracy  macro-F1  AUROC"


def test_importing_the_report_does_not_import_matplotlib():
    code = "import sys, medssl_monai.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
