"""The report of a run: complete, honest about what is missing, and safe to open."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from support import Outline
from support_report import evaluation, make_item, make_report, without_auroc

from medssl_monai.metrics import evaluate_predictions
from medssl_monai.report import format_table


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
