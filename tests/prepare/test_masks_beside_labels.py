"""Classes of images, and masks beside them."""

import re
from collections import Counter
from pathlib import Path

import pytest
from support_prepare import COLUMNS, LUNGS, draw, found, lungs, paint, report, section

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare


def test_masks_beside_classes_are_spread_over_the_sections(both, tmp_path):
    options = {**COLUMNS, "masks": "masks", "split": (0.5, 0.5, 0)}
    path = prepare(both, tmp_path / "out", **options, **LUNGS)
    data = load_datalist(path)
    assert (data.classes, data.mask_classes) == (("ill", "normal"), ("background", "lung"))
    for name in ("training", "validation"):
        items = section(path, name).values()
        assert len(items) == 8
        assert Counter(item["label"] for item in items) == {0: 4, 1: 4}
        masks = {Path(item["image"]).name: Path(item["mask"]) for item in items if "mask" in item}
        assert len(masks) == 4
        assert all(mask.name == image and mask.is_file() for image, mask in masks.items())
        assert report(path)["sections"][name]["masked"] == 4
    assert report(path)["mask_classes"] == ["background", "lung"]
    instead = load_datalist(prepare(both, tmp_path / "instead", **options))
    assert instead.classes == ("background", "foreground") and instead.mask_classes == ()
    assert all(isinstance(item.get("label", ""), str) for item in instead), "a class is no label beside masks as labels"


def test_what_has_only_a_mask_is_of_use_for_validation(both, tmp_path):
    table = both / "labels.csv"
    header, *rows = re.sub("(im[02].png),normal", r"\1,", table.read_text()).split()
    rows = [f"{row},{'val' if k < 4 else 'train'}" for k, row in enumerate(rows)]
    table.write_text("\n".join([f"{header},split", *rows]))
    path = prepare(both, tmp_path / "out", **COLUMNS, masks="masks", **LUNGS)
    items = section(path, "validation")
    assert list(items) == ["sub/im0.png", "sub/im1.png", "sub/im3.png"]
    assert "label" not in items["sub/im0.png"] and "mask" in items["sub/im0.png"]
    assert found(path, "dropped") == {"no label, and its group is not in the training section": ["sub/im2.png"]}


def test_classes_and_masks_have_budgets_of_their_own(both, tmp_path):
    options = {**COLUMNS, **LUNGS, "masks": "masks", "split": (1, 0, 0)}
    path = prepare(both, tmp_path / "out", **options, labels=6, mask_labels=3)
    items = section(path).values()
    assert sum(item.get("labeled", True) for item in items) == 6
    assert sum(item.get("masked", True) for item in items if "mask" in item) == 3
    assert not any("masked" in item for item in items if "mask" not in item)
    assert [report(path)["sections"]["training"][kind] for kind in ("labeled", "masked")] == [6, 3]
    path = prepare(both, tmp_path / "by_group", **options, labels=0.5, mask_labels=2, labels_by="group")
    shown = {item["group"] for item in section(path).values() if "mask" in item and item.get("masked", True)}
    hidden = {item["group"] for item in section(path).values() if not item.get("masked", True)}
    assert (len(shown), len(hidden)) == (2, 2) and not shown & hidden
    assert report(path)["sections"]["training"]["masked"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_labels": 3}, "`mask_labels` and `masked` are for masks beside labels; name their classes"),
        ({"masked": "elsewhere"}, "`mask_labels` and `masked` are for masks beside labels; name their classes"),
        ({"mask_classes": ["lung"], "masks": "masks"}, r"the background and at least one other class, got \['lung'\]"),
        (LUNGS, "`mask_classes` are given, and no masks; say where they are with `masks`, or `masked`"),
        (
            {**LUNGS, "masks": "masks", "mask_labels": 9},
            "`mask_labels` asks for 9 items; the training section has 8",
        ),
        (
            {**LUNGS, "masks": "masks", "mask_labels": 1.5},
            "`mask_labels` must be a whole number of items or a fraction",
        ),
        ({**LUNGS, "masks": "_lungs"}, "`masks` '_lungs' is no column of the table, no folder"),
    ],
)
def test_errors_of_masks_beside_labels(both, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(both, tmp_path / "out", **COLUMNS, split=(1, 0, 0), **options)
    assert not (tmp_path / "out" / "datalist.json").exists()


def test_masks_that_do_not_fit_are_no_masks(both, tmp_path):
    for mask in (both / "masks").iterdir():
        draw(mask, lungs(8))
    with pytest.raises(ValueError, match="holds no usable mask; noted: 8 x mask of another shape"):
        prepare(both, tmp_path / "out", **COLUMNS, masks="masks", **LUNGS)


def test_a_column_of_paths_is_none_of_classes(both, tmp_path):
    (both / "labels.csv").write_text("image,label\nsub/im0.png,masks/im0.png\n")
    with pytest.raises(
        ValueError, match="the column 'label' holds names of files, and with `mask_classes` the classes"
    ):
        prepare(both, tmp_path / "out", masks="masks", **LUNGS)


def test_masks_beside_the_folders_of_classes(tmp_path):
    for k in range(4):
        paint(tmp_path / "in" / "ab"[k % 2] / f"{k}.png", 50 * k)
        draw(tmp_path / "in" / "masks" / f"{k}.png", lungs(4))
    options = {"class_folders": True, "masks": "masks", "split": (1, 0, 0), "clear_names": True}
    data = load_datalist(prepare(tmp_path / "in", tmp_path / "out", **options, **LUNGS))
    assert data.classes == ("a", "b")
    assert [(item["label"], Path(item["mask"]).name) for item in data] == [
        (0, "0.png"),
        (0, "2.png"),
        (1, "1.png"),
        (1, "3.png"),
    ]
