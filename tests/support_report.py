"""Evaluations and reports made up for tests."""

import numpy as np


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
