"""Rows and files come together."""

import json

from support_prepare import paint, section

from medssl_monai.cli import main
from medssl_monai.prepare.prepare import prepare


def test_groups_of_a_table_become_pseudonyms(tmp_path):
    for k in range(4):
        paint(tmp_path / "in" / f"{k}.png", k)
    rows = [f"{k}.png,{k % 2},Doe{k // 2}" for k in range(4)]
    (tmp_path / "in" / "t.csv").write_text("\n".join(["image,label,patient", *rows]))
    groups = [item["group"] for item in section(prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0))).values()]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert not any("Doe" in group for group in groups)


def test_how_many_rows_are_of_images_here_is_told(tmp_path, capsys):
    for k in range(2):
        paint(tmp_path / "in" / f"{k}.png", k)
    (tmp_path / "in" / "t.csv").write_text("image,label\n0.png,a\n1.png,b\n5.png,a\nx/1.png,b\n")
    assert main(["prepare", str(tmp_path / "in"), str(tmp_path / "out"), "--split", "1", "0", "0"]) == 0
    assert "table: only 2 of its 4 rows are of images here" in capsys.readouterr().out


def test_files_that_look_like_spellings_of_one_name_are_no_patients(tmp_path):
    names = ["1.png", "01.png", "001.png", "a b.png", "ab.png", "A b.png"]
    for k, name in enumerate(names):
        paint(tmp_path / "in" / name, k)
    (tmp_path / "in" / "t.csv").write_text(
        "image,label\n" + "".join(f"{name},{'xy'[k % 2]}\n" for k, name in enumerate(names))
    )
    path = prepare(tmp_path / "in", tmp_path / "out", split=(0.5, 0.5, 0), clear_names=True)
    assert len(section(path)) + len(section(path, "validation")) == 6
    assert json.loads((path.parent / "prepare_report.json").read_text())["merged_groups"] == []
