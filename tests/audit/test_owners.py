"""Patients and volumes in several sections."""

import numpy as np
import pytest
from support_audit import pixels

from medssl_monai.audit.audit import audit
from medssl_monai.audit.leaks import check_leaks


def test_groups_in_several_sections_with_the_items_concerned(folder):
    training = [{"seed": 0, "group": "p1"}, {"seed": 1, "group": "p1"}, {"seed": 2, "group": "p2"}, {"seed": 3}]
    validation = [{"seed": 10, "group": "p1"}, {"seed": 11, "group": "p2"}, {"seed": 12, "group": "p2"}, {"seed": 13}]
    path = folder(training=training, validation=validation, testing=[{"seed": 20, "group": "p2"}])
    result = audit(path)
    assert result["shared_groups"]["count"] == 2
    assert result["shared_groups"]["list"][0] == {"name": "p1", "items": {"training": 2, "validation": 1}}
    pairs = {tuple(pair["sections"]): (pair["count"], pair["items"]) for pair in result["shared_groups"]["pairs"]}
    assert pairs == {
        ("training", "validation"): (2, {"training": 3, "validation": 3}),
        ("training", "testing"): (1, {"training": 1, "testing": 1}),
        ("validation", "testing"): (1, {"validation": 2, "testing": 1}),
    }
    expected = (
        "groups (patients, lesions) in both training and validation: 2, with 3 of 4 training and 3 of 4 validation"
    )
    assert result["leaks"][0].startswith(expected)
    with pytest.raises(ValueError, match=r"leaks: groups .* in both training and validation: 2, .*`allow_leaks`"):
        check_leaks(path)


def test_spellings_of_a_patient_are_one_and_are_listed(folder, tmp_path):
    training = [{"seed": k, "group": str(k), "label": k % 2} for k in range(3)]
    validation = [{"seed": 10 + k, "group": group, "label": k % 2} for k, group in enumerate(("1.0", "002", "7"))]
    path = folder(training=training, validation=validation)
    result = audit(path, tmp_path)
    assert result["merged_groups"] == ["'1' = '1.0' (2 images)", "'2' = '002' (2 images)"]
    assert {entry["name"] for entry in result["shared_groups"]["list"]} == {"1 = 1.0", "2 = 002"}
    assert any("groups that are spelled in several ways, and count as one: 2" in text for text in result["warnings"])
    with pytest.raises(ValueError, match="training and validation: 2, with"):
        check_leaks(path)
    path.write_text(path.read_text().replace('"name": "made"', '"name": "made", "groups_as_written": true'))
    result = audit(path)
    assert result["merged_groups"] == ["'1' = '1.0' (2 images)"]  # .0 is none of the patient's
    assert result["shared_groups"]["count"] == 1
    path.write_text(path.read_text().replace('"1.0"', '"9"'))
    assert audit(path)["merged_groups"] == []
    check_leaks(path)


def test_slices_of_one_volume_in_two_sections(folder, tmp_path):
    import nibabel as nib

    volume = np.stack([pixels(seed) for seed in range(4)], axis=-1).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, np.diag([-1, -1, 1, 1])), tmp_path / "v.nii")
    cut = [{"image": "v.nii", "slice": k, "id": f"v#{k}"} for k in range(4)]  # no group: each slice is its own
    path = folder(training=cut[:3], validation=cut[3:])
    result = audit(path)
    assert result["leaks"] == [
        "volumes in both training and validation: 1, with 3 of 3 training and 1 of 1 validation images."
    ]
    assert result["shared_volumes"]["list"] == [{"items": {"training": 3, "validation": 1}}]  # its name is a path
    assert result["near_copies"]["count"] == result["exact_copies"]["count"] == 0
    with pytest.raises(ValueError, match="volumes in both training and validation: 1"):
        check_leaks(path)
