import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from support_readers import load_image

from medssl_monai.readers.decoders import count_slices, header_notes
from medssl_monai.readers.refusals import UnreadableImageError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("LA", 1), ("1", 1), ("I;16", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)]
)
def test_png_modes(tmp_path, picture, mode, channels):
    image = (
        Image.fromarray(picture.astype(np.uint16) * 100) if mode == "I;16" else Image.fromarray(picture).convert(mode)
    )
    image.save(tmp_path / "a.png")
    read = load_image(tmp_path / "a.png")
    assert read.shape == (channels, 6, 8)
    assert read.max() == {"1": 1, "I;16": 141 * 100}.get(mode, 141)  # a 1-bit mask is 0 and 1
    assert np.isnan(read.meta["spacing"]).all()


def test_grey_jpeg_stored_in_colour_keeps_three_channels(tmp_path, picture):
    Image.fromarray(np.stack([picture] * 3, axis=-1)).save(tmp_path / "a.jpeg")
    assert load_image(tmp_path / "a.jpeg").shape == (3, 6, 8)


def test_a_picture_of_huge_size_is_refused_without_a_warning(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = np.array([40_000, 40_000], ">u4").tobytes()
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="holds 1,600,000,000 pixels or voxels"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_upright_as_pillow_shows_it(tmp_path, suffix, orientation):
    stored = np.zeros((16, 32), np.uint8)
    stored[:8, :8] = 200
    stored[8:, 24:] = 100
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    image = load_image(path)
    assert np.array_equal(image[0].numpy(), expected.T)
    assert image.meta["spatial_shape"] == image.shape[1:]
    assert bool(header_notes(path)) == (orientation > 1)


def test_an_orientation_that_is_none_leaves_the_picture_as_it_is(tmp_path, picture):
    exif = Image.Exif()
    exif[274] = 99
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    assert load_image(tmp_path / "a.png").shape == (1, 6, 8) and not header_notes(tmp_path / "a.png")
    broken = Image.Exif()
    broken[274] = 6
    Image.fromarray(picture).save(tmp_path / "b.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + broken.tobytes()[14:])
    assert load_image(tmp_path / "b.jpg").shape == (1, 6, 8)


def test_an_animation_is_refused(tmp_path, picture):
    frames = [Image.fromarray(picture + k) for k in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    for use in (load_image, count_slices):
        with pytest.raises(UnreadableImageError, match="an animation of 3 pictures; save the one that is meant"):
            use(tmp_path / "a.png")
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImageError, match="neither PNG"):
        load_image(tmp_path / "a.gif")


@pytest.mark.parametrize(("kind", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_are_not_cut_to_8(tmp_path, kind, samples):
    def chunk(name, data):
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    head = np.array([2, 2], ">u4").tobytes() + bytes([16, kind, 0, 0, 0])
    pixels = zlib.compress((b"\0" + bytes(2 * samples * 2)) * 2)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="colours or transparency of 16 bits; save it in grey"):
        load_image(tmp_path / "a.png")


def test_another_format_under_the_name_of_a_picture_is_not_read(tmp_path, picture):
    for kind in ("TIFF", "BMP", "GIF", "WEBP"):
        Image.fromarray(picture).save(tmp_path / "a.png", format=kind)
        with pytest.raises(UnreadableImageError, match="cannot be read as PNG"):
            load_image(tmp_path / "a.png")


def test_a_palette_is_colours_and_for_masks_the_index(tmp_path):
    indices = np.arange(48, dtype=np.uint8).reshape(8, 6) % 3
    image = Image.fromarray(indices, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(tmp_path / "a.png", transparency=bytes([0, 255, 255]))
    assert load_image(tmp_path / "a.png").shape == (3, 6, 8)
    assert np.array_equal(load_image(tmp_path / "a.png", indexed=True)[0].numpy(), indices.T)
