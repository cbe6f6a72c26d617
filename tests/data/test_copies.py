"""Copies of images: the same pixels however stored, and the same picture however resized and encoded."""

import io

import numpy as np
import pytest
from PIL import Image

from medssl_monai.data import copies
from medssl_monai.data.copies import near_copies, picture

RESAMPLINGS = [Image.NEAREST, Image.BOX, Image.BILINEAR, Image.BICUBIC, Image.LANCZOS]


def texture(seed, size=64, channels=1):
    """A picture with structure of all sizes, uint8 (C, size, size)."""
    rng = np.random.default_rng(seed)
    layers = [
        np.kron(rng.normal(0, side**0.5, (channels, size // side, size // side)), np.ones((side, side)))
        for side in (2, 4, 8, 16)
    ]
    values = np.sum(layers, axis=0)
    values = (values - values.min()) / np.ptp(values)
    return (40 + 170 * values).astype(np.uint8)


def as_image(array):
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


def as_array(image):
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def altered(array, factor=1.0, resampling=Image.BICUBIC, gamma=1.0, gain=1.0, quality=50):
    pixels = (255 * (array / 255) ** gamma * gain).clip(0, 255).astype(np.uint8)
    image = as_image(pixels)
    image = image.resize([round(side * factor) for side in image.size], resampling)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return as_array(Image.open(buffer))


def near(arrays, files=None):
    thumbnails = [picture(array).thumbnail for array in arrays]
    return [(i, j) for i, j, _ in near_copies(thumbnails, files or list(range(len(arrays))))]


# what a picture is


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_equal_values_are_equal_in_any_data_type(dtype):
    array = texture(0)
    assert picture(array.astype(dtype)).digest == picture(array).digest


def test_grey_in_three_channels_is_grey_and_colours_are_not():
    grey, colour = texture(0), texture(0, channels=3)
    assert picture(np.repeat(grey, 3, axis=0)).digest == picture(grey).digest
    assert picture(np.repeat(grey, 3, axis=0)).thumbnail.shape == (1, 32, 32)
    assert picture(colour).thumbnail.shape == (3, 32, 32)


def test_one_other_pixel_or_another_shape_is_another_picture():
    array = texture(0)
    other = array.copy()
    other[0, 5, 7] += 1
    turned = array.reshape(1, 32, 128)
    assert len({picture(each).digest for each in (array, other, turned)}) == 3


def test_minus_zero_and_nan_have_one_digest_each():
    zeros = np.zeros((1, 9, 9), dtype=np.float32)
    zeros[0, 0, 0] = 1
    negative, nan = np.where(zeros == 0, np.float32(-0.0), zeros), np.where(zeros == 0, np.float32(np.nan), zeros)
    assert len({picture(array).digest for array in (zeros, negative, nan)}) == 1


def test_a_single_grey_value_is_blank_and_has_no_thumbnail():
    found = picture(np.full((1, 20, 20), 7, dtype=np.int16))
    assert found.blank and found.thumbnail is None
    assert not picture(texture(0)).blank


def test_intensities_are_those_of_the_pixels():
    array = np.arange(101, dtype=np.int16).repeat(2).reshape(1, 101, 2)
    assert picture(array).intensities == pytest.approx((50.0, array.std(), 1.0, 99.0))


def test_what_is_too_small_for_a_comparison_has_no_thumbnail():
    assert picture(np.arange(49).reshape(1, 7, 7)).thumbnail is None
    assert picture(np.arange(64).reshape(1, 8, 8)).thumbnail is not None
    assert picture(np.arange(8).reshape(1, 8)).thumbnail is None  # a row of features


@pytest.mark.parametrize(("side", "kept"), [(20, 20), (64, 32), (80, 40), (300, 48)])
def test_thumbnails_have_half_the_side_within_limits(side, kept):
    array = np.random.default_rng(0).integers(0, 256, (1, side, side), dtype=np.uint8)
    assert picture(array).thumbnail.shape == (1, kept, kept)


def test_values_other_than_8_bits_are_stretched():
    thumbnail = picture(texture(0).astype(np.float32) * 16 - 1024).thumbnail
    assert (thumbnail.min(), thumbnail.max()) == (0, 255)


# near copies


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_resized_and_encoded_anew(factor, resampling):
    arrays = [texture(seed) for seed in range(12)]
    assert near([*arrays, altered(arrays[3], factor, resampling)]) == [(3, 12)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("change", [{"gamma": 0.9}, {"gamma": 1.1}, {"gain": 0.9}, {"gain": 1.1}])
def test_brightness_and_gamma(change, channels):
    arrays = [texture(seed, channels=channels) for seed in range(12)]
    assert near([*arrays, altered(arrays[3], 0.8, **change)]) == [(3, 12)]


def test_a_window_of_16_bits_and_its_8_bit_export():
    arrays = [texture(seed).astype(np.int16) * 13 - 1000 for seed in range(12)]
    assert near([*arrays, altered(texture(3), 0.7)]) == [(3, 12)]


def test_a_colour_image_and_its_grey_copy():
    arrays = [texture(seed, channels=3) for seed in range(12)]
    grey = arrays[3].mean(axis=0, keepdims=True).astype(np.uint8)
    assert near([*arrays, altered(grey, 0.7)]) == [(3, 12)]


def test_a_volume_and_its_resampled_copy():
    from scipy.ndimage import gaussian_filter, zoom

    rng = np.random.default_rng(0)
    volumes = [gaussian_filter(rng.normal(size=(1, 40, 48, 20)), (0, 1.5, 1.5, 1.5)) for _ in range(12)]
    assert near([*volumes, 30 + zoom(volumes[2], (1, 0.7, 0.7, 0.6), order=1)]) == [(2, 12)]


def test_other_pictures_and_other_sides_are_no_copies():
    arrays = [texture(seed) for seed in range(30)]
    assert near([*arrays, arrays[0][:, ::-1], arrays[0].transpose(0, 2, 1), 255 - arrays[0]]) == []


def test_noise_that_jpeg_destroys_resembles_nothing():
    rng = np.random.default_rng(0)
    assert near([rng.integers(100, 104, (1, 32, 32), dtype=np.uint8) for _ in range(20)]) == []


def test_pictures_of_one_plain_object_differ_by_more_than_jpeg_changes_them():
    """Correlation of the pictures alone would take all of these for copies."""
    x, y = np.mgrid[-1:1:64j, -1:1:64j]
    hill = 180 * np.exp(-2 * (x**2 + y**2))
    arrays = [(hill + 0.2 * texture(seed)).clip(0, 255).astype(np.uint8) for seed in range(20)]
    assert np.corrcoef([array.ravel() for array in arrays]).min() > 0.97
    assert near([*arrays, altered(arrays[3], 0.7)]) == [(3, 20)]


def test_slices_of_one_file_are_not_compared():
    volume = [texture(0), altered(texture(0), quality=90)]
    assert near(volume) == [(0, 1)]
    assert near(volume, files=[5, 5]) == []


def test_best_pairs_come_first_with_the_correlation_of_their_details():
    arrays = [texture(0), texture(1), altered(texture(0), quality=50), altered(texture(1), quality=95)]
    found = near_copies([picture(array).thumbnail for array in arrays], [0, 1, 2, 3])
    assert [(i, j) for i, j, _ in found] == [(1, 3), (0, 2)]
    assert 1 >= found[0][2] > found[1][2] > 0.9


def test_many_copies_of_one_picture_stay_linear():
    arrays = [texture(seed) for seed in range(5)] + [altered(texture(0), quality=60 + k) for k in range(30)]
    found = near(arrays)
    assert len(found) <= copies.NEIGHBOURS * 31
    assert {position for pair in found for position in pair} == {0, *range(5, 35)}


def test_blocks_do_not_change_the_result(monkeypatch):
    arrays = [texture(seed) for seed in range(12)] + [altered(texture(seed), 0.5 + 0.1 * seed) for seed in range(12)]
    whole = near(arrays)
    assert len(whole) == 12
    monkeypatch.setattr(copies, "_BLOCK", 50)
    assert near(arrays) == whole


def test_nothing_to_compare():
    assert near([]) == []
    assert near([texture(0)]) == []
