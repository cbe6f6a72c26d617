import pytest
from PIL import Image
from support_readers import load_image

from medssl_monai.readers.refusals import UnreadableImageError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


def test_a_bound_can_be_raised(tmp_path, picture, monkeypatch):
    Image.fromarray(picture).save(tmp_path / "a.png")
    monkeypatch.setenv("MEDSSL_MAX_VOXELS", "47")
    with pytest.raises(UnreadableImageError, match="holds 48 pixels or voxels, and 47 are the most"):
        load_image(tmp_path / "a.png")
    monkeypatch.setenv("MEDSSL_MAX_VOXELS", "48")
    assert load_image(tmp_path / "a.png").shape == (1, 6, 8)
