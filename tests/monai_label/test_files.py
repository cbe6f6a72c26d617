"""Files of labels."""

from __future__ import annotations

from medssl_monai.monai_label.files import form_of


def test_json_is_a_class_and_everything_else_a_mask():
    assert [form_of(name) for name in ("a.json", "/b/A.JSON", "a.nii.gz", "a.seg.nrrd", "json")] == [
        *("class", "class", "mask", "mask", "mask")
    ]
