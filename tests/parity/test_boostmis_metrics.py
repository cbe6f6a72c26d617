"""The metrics that BoostMIS reports, and the guard that every golden vector is used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from medssl_monai.metrics import classification_metrics, evaluate_predictions

pytest_plugins = ["pytester"]


def test_boostmis_metrics(golden: Callable[[str], Any]) -> None:
    g = golden("boostmis/metrics")
    target, probs = g.input("y_true"), softmax(g.input("logits"), axis=1)
    values, _ = classification_metrics(probs, target)
    for name in ("accuracy", "precision_macro", "recall_macro", "f1_macro"):
        g.compare(name, np.float64(values[name]))
    predicted = probs.argmax(axis=1)
    g.compare("y_pred", predicted)

    # A row of the normalised confusion matrix is where a class's samples went; its diagonal are the recalls we report.
    classes = probs.shape[1]
    confusion = np.stack([np.bincount(predicted[target == k], minlength=classes) for k in range(classes)])
    confusion = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    g.compare("confusion_true_normalised", confusion)
    report = evaluate_predictions(probs, target, [str(i) for i in range(len(target))], resamples=1)
    recalls = [report["per_class"][f"class {k}"].get("recall", 0.0) for k in range(classes)]
    assert recalls == pytest.approx(np.diag(confusion))


@pytest.mark.parametrize("used", [False, True])
def test_the_guard_fails_a_test_that_leaves_a_key_unread(pytester: pytest.Pytester, used: bool) -> None:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    np.savez(pytester.path / "made_up.npz", read=np.zeros(2), compared=np.ones(3), left=np.ones(1), meta_json="{}")
    pytester.makepyfile(f"""
        def test_it(golden, monkeypatch):
            monkeypatch.setenv("MEDSSL_GOLDEN", {str(pytester.path)!r})
            g = golden("made_up")
            g.input("read")
            g.compare("compared", [1.0, 1.0, 1.0])
            if {used}:
                g.compare_set("left", [1])
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=0 if used else 1)
    if not used:
        result.stdout.fnmatch_lines(["*made_up: neither read nor compared: ?'left'?*"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("floats", [0.0, np.nan]),
        ("floats", [1e-5, 1.0]),
        ("floats", [[0.0, 1.0]]),
        ("integers", [1, 3]),
        ("flags", [True, True]),
        ("gaps", [0.0, 1.0]),
    ],
)
def test_the_comparison_sees_differences(
    golden: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: list[Any]
) -> None:
    content = {"floats": [0.0, 1.0], "integers": [1, 2], "flags": [True, False], "gaps": [np.nan, 1.0]}
    np.savez(tmp_path / "made_up.npz", **content)
    monkeypatch.setenv("MEDSSL_GOLDEN", str(tmp_path))
    g = golden("made_up")
    for same, expected in content.items():
        g.compare(same, expected)
    g.compare("floats", np.float32([1e-5, 1.0]))
    g.compare_set("integers", {2, 1})
    with pytest.raises(AssertionError, match=key):
        g.compare(key, value)
    with pytest.raises(AssertionError, match="integers"):
        g.compare_set("integers", [1, 2, 2])
