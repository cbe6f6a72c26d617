"""Which column says what."""

from support_prepare import paint, section

from medssl_monai.prepare.prepare import prepare


def test_columns_of_the_usual_names_are_taken_as_such(tmp_path):
    for k in range(4):
        paint(tmp_path / "in" / f"{k}.png", k)
    rows = [f"{k}.png,{k % 2},case{k},p{k // 2},{'train' if k < 2 else 'val'},{30 + k}" for k in range(4)]
    (tmp_path / "in" / "t.csv").write_text("\n".join(["file,label,ID,Patient_ID,split,image_age", *rows]))
    path = prepare(tmp_path / "in", tmp_path / "out", clear_names=True)
    training, validation = section(path), section(path, "validation")
    assert [*training, *validation] == ["case0", "case1", "case2", "case3"]
    assert [item["group"] for item in training.values()] == ["p0", "p0"]
    assert training["case1"]["meta"] == {
        "image_age": "31"
    }  # as `image_age` MONAI would take it for the image's metadata
