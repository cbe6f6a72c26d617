"""Copies of an image."""

import shutil
from pathlib import Path

from support_prepare import COLUMNS, LUNGS, draw, found, radiographs, section

from medssl_monai.prepare.prepare import prepare


def test_copies_are_dropped_and_contradicting_copies_altogether(folder, tmp_path):
    shutil.copy(folder / "sub/im0.png", folder / "sub/im1.png")
    shutil.copy(folder / "sub/im2.png", folder / "sub/im15.png")
    path = prepare(folder, tmp_path / "out", **COLUMNS)
    assert found(path, "dropped") == {
        "exact copy of another image": ["sub/im1.png"],
        "exact copies with different labels": ["sub/im2.png", "sub/im15.png"],
    }
    path = prepare(folder, tmp_path / "out", **COLUMNS, keep_duplicates=True)
    assert len(section(path)) + len(section(path, "validation")) == 16


def test_a_copy_hands_its_mask_to_the_image_with_the_class(films, tmp_path):
    draw(films / "f0.png", radiographs(12)[5])
    for k, pixels in enumerate(radiographs(12)):
        draw(tmp_path / "classes" / f"a{k}.png", pixels)
    table = "\n".join(["image,label", *(f"a{k}.png,{k % 2}" for k in range(12))])
    (tmp_path / "classes" / "t.csv").write_text(table)
    options = {"split": (1, 0, 0), "clear_names": True, "masks": "_lungs", **LUNGS}
    path = prepare(tmp_path / "classes", tmp_path / "files", masked=films, **options)
    assert found(path, "dropped") == {"exact copy of another image": ["masked/f0.png"]}
    item = section(path)["a5.png"]
    assert item["label"] == 1
    assert Path(item["mask"]).samefile(films / "f0_lungs.png")
