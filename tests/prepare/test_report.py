"""The report of what became of a source."""

from support_prepare import COLUMNS, found, section

from medssl_monai.prepare.prepare import prepare


def test_bad_rows_cost_themselves_only_and_are_listed(folder, tmp_path):
    (folder / "labels.csv").write_text(
        "image,diagnosis,patient\n"
        "sub/im0.png,normal,p0\n"
        "sub/im1.png,normal\n"  # a cell is missing
        'sub/im2.png,"normal,p1\n'  # a quote that is never closed must not swallow the rest
        "sub/gone.png,ill,p9\n"
        "im4.png,ill,p2\n"  # the end of the path is enough
        "sub\\im5.png,,p2\n"
        "sub/im6.png,unclear,p3\n"
        "sub/im7.png,ill,\n"
        "sub/im8.png,ill,p4\n"
        "sub/im8.png,normal,p4\n"
        "\n"
        'sub/im9.png,"ill",p5\n'
    )
    path = prepare(folder, tmp_path / "out", **COLUMNS, classes=("normal", "ill"), split=(1, 0, 0))
    items = section(path)
    assert {name: item["label"] for name, item in items.items() if "label" in item} == {
        "sub/im0.png": 0,
        "sub/im4.png": 1,
        "sub/im9.png": 1,
    }
    assert found(path, "dropped") == {
        "row with another number of cells than the header, or an open quote": ["row 3", "row 4"],
        "row whose file is missing": ["row 5"],
        "no group in its row; fill it in": ["row 9"],
    }
    assert found(path, "noted") == {
        "rows of one file that contradict in label": ["rows 10 and 11"],
        "file without a row": [f"sub/im{k}.png" for k in (1, 2, 3, 10, 11, 12, 13, 14, 15)],
        "no label": ["row 7"],
        "label that is no class": ["row 8"],
    }
    assert len(items) == 15


def test_report_and_log_show_no_cell_of_the_table(folder, tmp_path, caplog):
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("im3.png,normal", "im3.png,Susan Secret"))
    path = prepare(folder, tmp_path / "out", **COLUMNS, classes=("normal", "ill"))
    assert "Susan" not in (path.parent / "prepare_report.json").read_text() + path.read_text() + caplog.text
    assert "1 x label that is no class" in caplog.text
