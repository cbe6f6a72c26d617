"""Images and masks made up for tests."""

import pytest
from support_masks import volume


@pytest.fixture
def pairs(tmp_path):
    for k in range(3):
        volume(tmp_path / "in" / "images" / f"case{k}.nii.gz", 100 + k)
        volume(tmp_path / "in" / "masks" / f"case{k}.nii.gz", k)
    return tmp_path / "in"
