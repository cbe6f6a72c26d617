"""What is said of images that cannot be read."""

import pytest

from medssl_monai.data import ImageDataset
from medssl_monai.readers import ClinicalReader


@pytest.fixture
def secret(tmp_path):
    """A folder of a person's name with a file of her name that is no image."""
    folder = tmp_path / "Secret^Susan"
    folder.mkdir()
    (folder / "susan scan.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_reason_names_the_id_and_no_path(secret, absolute, whole_folder, monkeypatch):
    monkeypatch.chdir(secret.parent)
    file = secret / "susan scan.png"
    path = secret if whole_folder else file

    def read(item):
        raise OSError(f"cannot identify {file}: 'susan scan.png' in {secret} is odd")

    item = {"image": str(path if absolute else path.relative_to(secret.parent)), "id": "case 7"}
    with pytest.raises(ValueError, match="OSError: cannot identify case 7") as error:
        _ = ImageDataset([item], read).images
    assert "usan" not in str(error.value)
    assert "is odd" in str(error.value)


def test_a_reader_s_own_reason_is_taken_as_it_is(secret):
    def read(item):
        return {"image": ClinicalReader().get_data([secret / "susan scan.png"])[0]}

    with pytest.raises(ValueError, match="case 7: cannot be read as PNG") as error:
        _ = ImageDataset([{"image": str(secret / "susan scan.png"), "id": "case 7"}], read).images
    assert "usan" not in str(error.value)
