import io

import numpy as np
import pytest
from PIL import Image

from medssl_monai.png import save_png


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_pixels_and_note_come_back_whatever_the_order_in_memory(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    save_png(tmp_path / "a.png", np.asfortranarray(pixels), "SYNTHETIC", compress_level=1)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG" and image.text == {"Comment": "SYNTHETIC"}
        assert np.array_equal(np.asarray(image), pixels)


def test_without_a_note_the_file_has_no_comment():
    file = io.BytesIO()
    save_png(file, np.zeros((2, 3), np.uint16))
    with Image.open(file) as image:
        assert image.text == {} and image.size == (3, 2)
