"""Metrics of a validation pass."""

import logging

import pytest
import torch
from ignite.engine import Engine

from medssl_monai.handlers import ValidationScores
from medssl_monai.kinds import Classes, Findings, Masks

CLASSES, FINDINGS = Classes(("class 0", "class 1")), Findings(("class 0", "class 1"))


def evaluator(scores):
    """An evaluator whose batches are logits and targets of one part of the labels."""
    (part,) = scores.kinds
    engine = Engine(
        lambda engine, batch: {"pred": {part: torch.tensor(batch[0])}, "label": {part: torch.tensor(batch[1])}}
    )
    scores.attach(engine)
    return engine


def validate(*batches, kind=CLASSES, scores=None):
    """An evaluator that has been given these (logits, labels)."""
    engine = evaluator(scores or ValidationScores({"label": kind}))
    engine.run(list(batches))
    return engine


LEFT, RIGHT = [9.0, 0.0], [0.0, 9.0]


def test_metrics_are_over_the_whole_pass_and_not_means_of_batches():
    engine = validate(([LEFT, LEFT, LEFT], [0, 0, 1]), ([RIGHT], [1]))
    assert engine.state.metrics["accuracy"] == pytest.approx(3 / 4)
    assert engine.state.undefined == {}


def test_logits_become_probabilities():
    engine = validate(([[0.0, 0.0], [0.0, 0.0]], [0, 1]))
    assert engine.state.metrics["auroc"] == pytest.approx(0.5)
    assert engine.state.metrics["ece"] == pytest.approx(0.0)


def test_an_undefined_metric_is_left_out_and_says_why(caplog):
    with caplog.at_level(logging.WARNING):
        engine = validate(([LEFT, LEFT], [0, 0]))
    assert "auroc" not in engine.state.metrics
    assert engine.state.metrics["accuracy"] == 1.0
    assert "auroc" in engine.state.undefined
    assert "auroc is undefined: only class 0 occurs" in caplog.text


def test_an_undefined_metric_does_not_keep_the_value_of_the_pass_before():
    engine = evaluator(ValidationScores({"label": CLASSES}))
    engine.run([([LEFT, RIGHT], [0, 1])])
    assert engine.state.metrics["auroc"] == 1.0
    engine.run([([LEFT, LEFT], [0, 0])])
    assert "auroc" not in engine.state.metrics


def test_images_without_a_label_are_left_out():
    engine = validate(([LEFT, LEFT, RIGHT], [0, -1, 1]))
    assert engine.state.metrics["accuracy"] == 1.0
    assert engine.state.metrics["auroc"] == 1.0


def test_no_label_at_all_defines_nothing():
    engine = validate(([LEFT, RIGHT], [-1, -1]))
    assert engine.state.metrics == {}
    assert engine.state.undefined["accuracy"] == "there is no sample"


def test_every_pass_starts_anew():
    scores = ValidationScores({"label": CLASSES})
    validate(([LEFT, RIGHT], [1, 0]), scores=scores)
    assert validate(([LEFT, RIGHT], [0, 1]), scores=scores).state.metrics["accuracy"] == 1.0


def test_predictions_of_half_precision():
    engine = Engine(lambda engine, batch: batch)
    ValidationScores({"label": CLASSES}).attach(engine)
    logits = torch.tensor([LEFT, RIGHT], dtype=torch.bfloat16)
    engine.run([{"pred": {"label": logits}, "label": {"label": torch.tensor([0, 1])}}])
    assert engine.state.metrics["accuracy"] == 1.0


# ---- findings -------------------------------------------------------------------------------------------------------


def test_findings_are_each_predicted_for_itself():
    """With softmax the second finding of the first image would be at 0.5."""
    engine = validate(([[9.0, 9.0], [-9.0, 9.0]], [[1, 1], [0, 1]]), ([[-9.0, -9.0]], [[0, 0]]), kind=FINDINGS)
    assert engine.state.metrics["auroc"] == 1.0
    assert engine.state.metrics["accuracy"] == 1.0


def test_findings_without_both_outcomes_are_left_out_of_the_mean_and_named_in_one_line_per_metric(caplog):
    logits = [[9.0, 1.0, 2.0, 3.0], [-9.0, 2.0, 1.0, 3.0]]
    kind = Findings(("effusion", "mass", "hernia", "edema"))
    with caplog.at_level(logging.WARNING):
        engine = validate((logits, [[1, 0, 0, -1], [0, 0, 1, -1]]), kind=kind)
    assert engine.state.metrics["auroc"] == 0.5  # effusion 1, hernia 0
    assert engine.state.undefined["auroc of mass"] == "no positive sample"
    assert "auroc leaves out mass (no positive sample); edema (no label is known)" in caplog.messages
    assert len([line for line in caplog.messages if line.startswith("auroc")]) == 1
    assert not any("nan" in str(value) for value in engine.state.metrics.values())


def test_no_finding_with_both_outcomes_leaves_auroc_undefined_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        engine = validate(([[9.0, 1.0], [8.0, 1.0]], [[1, 0], [1, 0]]), kind=FINDINGS)
    assert "auroc" not in engine.state.metrics
    assert "auroc is undefined: no finding has both outcomes." in caplog.messages


def test_images_of_which_no_finding_is_known_are_not_counted(caplog):
    with caplog.at_level(logging.INFO):
        validate(([[9.0], [-9.0], [9.0]], [[1], [0], [-1]]), kind=Findings(("mass",)))
    assert "Validation of 2 images: " in caplog.text


# ---- masks ----------------------------------------------------------------------------------------------------------


def logits_of(mask, classes):
    return torch.nn.functional.one_hot(torch.tensor(mask), classes).movedim(-1, 1).float().tolist()


def test_dice_is_over_cases_and_not_means_of_batches(caplog):
    there, half, empty = [[1, 1, 0]], [[1, 0, 0]], [[0, 0, 0]]
    with caplog.at_level(logging.INFO):
        engine = validate(
            (logits_of([there, half], 2), [there, there]),
            (logits_of([empty], 2), [there]),
            kind=Masks(("background", "lesion")),
        )
    dice = pytest.approx((1 + 2 / 3 + 0) / 3)
    assert engine.state.metrics == {"dice": dice, "joint": dice}
    assert engine.state.undefined == {}
    assert "Validation of 3 masks: dice 0.556" in caplog.text


def test_several_classes_have_a_dice_each():
    engine = validate((logits_of([[[1, 1, 2, 0]]], 3), [[[1, 1, 2, 2]]]), kind=Masks(("background", "disc", "canal")))
    expected = {"joint": (1 + 2 / 3) / 2, "dice": (1 + 2 / 3) / 2, "dice of disc": 1.0, "dice of canal": 2 / 3}
    assert engine.state.metrics == pytest.approx(expected)


def test_masks_without_a_labeled_voxel_leave_dice_undefined_and_a_value_from_before_goes(caplog):
    engine = evaluator(ValidationScores({"label": Masks()}))
    engine.run([(logits_of([[[1, 0]]], 2), [[[1, -1]]])])
    assert engine.state.metrics["dice"] == 1.0
    with caplog.at_level(logging.WARNING):
        engine.run([(logits_of([[[1, 0]]], 2), [[[-1, -1]]])])
    assert "dice" not in engine.state.metrics
    assert engine.state.undefined == {"dice": "no voxel is labeled"}
    assert "dice is undefined: no voxel is labeled." in caplog.messages


# ---- classes and masks ----------------------------------------------------------------------------------------------

DISK = [[[[1.0, 1.0]], [[0.0, 2.0]]]]  # logits (1, 2, 1, 2): the second pixel is foreground


BOTH = {"label": Classes(("a", "b")), "mask": Masks(("background", "disk"))}


def both(class_logits, mask_logits, label, mask):
    """The state after one pass of one batch with both parts of the labels."""
    output = {
        "pred": {"label": torch.tensor(class_logits), "mask": torch.tensor(mask_logits)},
        "label": {"label": torch.tensor(label), "mask": torch.tensor(mask)},
    }
    engine = Engine(lambda engine, batch: output)
    ValidationScores(BOTH).attach(engine)
    engine.run([0])
    return engine.state


def test_the_joint_score_is_the_mean_of_auroc_and_dice():
    state = both([LEFT, RIGHT], DISK * 2, [0, 1], [[[1, 1]], [[0, 1]]])
    assert state.metrics["auroc"] == 1.0
    assert state.metrics["dice"] == pytest.approx((2 / 3 + 1) / 2)
    assert state.metrics["joint"] == pytest.approx((1 + state.metrics["dice"]) / 2)
    assert state.undefined == {}


def test_the_joint_score_is_undefined_where_one_of_both_is():
    state = both([LEFT, RIGHT], DISK * 2, [0, 0], [[[1, 1]], [[0, 1]]])
    assert {"joint", "auroc"} & set(state.metrics) == set()
    assert "auroc" in state.undefined
    state = both([LEFT, RIGHT], DISK * 2, [0, 1], [[[-1, -1]], [[-1, -1]]])
    assert {"joint", "dice"} & set(state.metrics) == set()
    assert "dice" in state.undefined
    assert "auroc" in state.metrics


@pytest.mark.parametrize(
    ("learned", "logits", "label", "score"),
    [("label", [LEFT, RIGHT], [0, 1], "auroc"), ("mask", DISK * 2, [[[1, 1]], [[0, 1]]], "dice")],
)
def test_of_one_part_the_joint_score_is_that_of_its_kind(learned, logits, label, score):
    scores = ValidationScores({learned: BOTH[learned]})
    engine = validate((logits, label), scores=scores)
    assert engine.state.metrics["joint"] == engine.state.metrics[score]


def test_a_second_pass_forgets_the_first():
    engine = evaluator(ValidationScores({"label": CLASSES}))
    engine.run([([LEFT, RIGHT], [0, 1])])
    engine.run([([LEFT, LEFT], [0, 0])])
    assert "joint" not in engine.state.metrics
