"""Labels that are hidden."""

import itertools
from collections import Counter

import pytest
from support_prepare import COLUMNS, report, section, shown

from medssl_monai.prepare.prepare import prepare


@pytest.mark.parametrize(("labels", "count"), [(4, 4), (0.5, 6), (1.0, 12), (0, 0)])
def test_hidden_labels_are_a_balanced_draw_of_the_training_section(folder, tmp_path, labels, count):
    path = prepare(folder, tmp_path / "out", **COLUMNS, split=(0.75, 0.25, 0), labels=labels)
    shown = [item["label"] for item in section(path).values() if item.get("labeled", True)]
    assert Counter(shown) == Counter({0: count // 2, 1: count // 2}) - Counter()
    assert not any("labeled" in item for item in section(path, "validation").values())
    assert report(path)["sections"]["training"]["labeled"] == count


@pytest.mark.parametrize(("labels", "count"), [(0.5, 3), (2, 2), (1.0, 6), (0, 0)])
def test_of_a_patient_all_labels_are_shown_or_none(folder, tmp_path, labels, count):
    path = prepare(folder, tmp_path / "out", **COLUMNS, split=(0.75, 0.25, 0), labels=labels, labels_by="group")
    hidden = {item["group"] for item in section(path).values() if not item.get("labeled", True)}
    assert len(shown(path)) == count
    assert not hidden & shown(path)
    assert report(path)["sections"]["training"]["labeled"] == 2 * count
    assert not any("labeled" in item for item in section(path, "validation").values())


def test_more_patients_with_labels_include_the_fewer(folder, tmp_path):
    options = {**COLUMNS, "split": (1, 0, 0), "labels_by": "group"}
    draws = [shown(prepare(folder, tmp_path / str(count), labels=count, **options)) for count in range(9)]
    assert all(fewer < more for fewer, more in itertools.pairwise(draws))
    others = [shown(prepare(folder, tmp_path / f"s{seed}", labels=3, seed=seed, **options)) for seed in range(4)]
    assert draws[3] == others[0]
    assert len({frozenset(chosen) for chosen in others}) > 1
