"""Saliency as pictures and volumes."""

import logging

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from medssl_monai.data import ReadableImages
from medssl_monai.handlers import SaliencyWriter
from medssl_monai.handlers.saliency_writer import COLOURS, OPACITY, OUTLINE, overlay, scaled

GREY = np.full((6, 4, 3), 0.4)


def test_colours_become_evenly_brighter():
    """Lightness (CIE 1976) of the colours, by the luminance of sRGB; as Matplotlib has them."""
    colours = np.array(COLOURS) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.diff(lightness[1:])  # the first is darker than the cube root holds for
    assert (steps > 0).all() and steps.max() < 1.5 * steps.min()
    inferno = pytest.importorskip("matplotlib").colormaps["inferno"](np.linspace(0, 1, len(COLOURS)))
    np.testing.assert_array_equal(np.rint(255 * inferno[:, :3]), COLOURS)


def test_the_image_is_bare_without_saliency_and_shows_through_the_strongest():
    strength = np.zeros((6, 4))
    strength[1, 2] = 1.0
    pixels = overlay(GREY, strength)
    assert pixels.dtype == np.uint8 and pixels.shape == (6, 4, 3)
    np.testing.assert_array_equal(pixels[1, 2], np.rint(102 * (1 - OPACITY) + np.array(COLOURS[-1]) * OPACITY))
    pixels[1, 2] = 102
    assert (pixels == 102).all()


def test_the_outline_is_the_inner_edge_of_each_class():
    mask = np.zeros((9, 9), int)
    mask[2:7, 2:7] = 1
    mask[2:7, 5:] = 2
    drawn = (overlay(np.zeros((9, 9, 3)), np.zeros((9, 9)), mask) == OUTLINE).all(axis=-1)
    wanted = np.zeros((9, 9), bool)
    wanted[2:7, 2:] = True
    wanted[3:6, 3:5] = False  # inside of class 1, beside class 2 as well
    wanted[3:6, 6:] = False  # inside of class 2, which leaves the image
    np.testing.assert_array_equal(drawn, wanted)
    assert not (overlay(np.zeros((9, 9, 3)), np.zeros((9, 9)), np.ones((9, 9))) == OUTLINE).all(axis=-1).any()


def test_outlines_are_wider_on_large_images():
    mask = np.zeros((2000, 60), int)
    mask[:, 30:] = 1
    drawn = (overlay(np.zeros((2000, 60, 3)), np.zeros((2000, 60)), mask) == OUTLINE).all(axis=-1)
    assert (drawn.sum(axis=1) == 4).all()


def test_strength_is_the_strongest_channel_up_to_a_percentile_of_the_image():
    saliency = np.zeros((2, 10, 100))
    saliency[0] = np.arange(1000).reshape(10, 100)
    saliency[1, 0, 0] = 499.5
    strength = scaled(saliency)
    full = np.percentile(saliency.max(axis=0), 99.5)
    assert strength.shape == (10, 100) and (strength == 1).sum() == (saliency[0] >= full).sum() == 5
    assert strength[0, 0] == 499.5 / full and strength[5, 0] == 500 / full
    np.testing.assert_allclose(scaled(1e-9 * saliency), strength)


def test_strength_of_little_or_no_saliency():
    assert (scaled(np.zeros((1, 5, 5))) == 0).all()
    lonely = np.zeros((1, 40, 40))
    lonely[0, 3, 4] = 0.25
    np.testing.assert_array_equal(scaled(lonely), 4 * lonely[0])


@pytest.fixture
def dataset(tmp_path):
    """A picture, a slice of a volume, and a volume; their ids hold what a file name cannot."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (4, 6), dtype=np.uint8)).save(tmp_path / "a.png")
    volume = nibabel.Nifti1Image(rng.random((6, 4, 3)).astype(np.float32), np.diag([-1.0, -2.0, 3.0, 1.0]))
    nibabel.save(volume, tmp_path / "b.nii.gz")
    volume = {"image": str(tmp_path / "b.nii.gz")}
    items = [{"image": str(tmp_path / "a.png"), "id": "a"}, {**volume, "id": "b#2", "slice": 2}, {**volume, "id": "b"}]
    return ReadableImages(items, lambda item: item)


def write(writer, outputs):
    """An evaluator that sees these outputs of the images in turn."""

    def step(engine, batch):
        engine.state.batch = [{"index": torch.tensor(batch)}]
        return [outputs[batch]]

    engine = Engine(step)
    engine.logger.setLevel(logging.INFO)
    writer.attach(engine)
    engine.run(list(range(len(outputs))))


def outputs():
    flat = {"saliency": torch.rand(1, 6, 4), "pred": torch.zeros(1, 6, 4)}
    return [flat, flat, {"saliency": torch.arange(72.0).reshape(1, 6, 4, 3), "pred": torch.zeros(1, 6, 4, 3)}]


def test_pictures_and_slices_are_png_files_and_volumes_nifti_files(dataset, tmp_path):
    write(SaliencyWriter(tmp_path / "out", dataset), found := outputs())
    a, b, b2 = sorted((tmp_path / "out" / "saliency").iterdir(), key=lambda path: (path.suffix != ".png", path.name))
    assert (a.name, b2.name) == ("a.png", "b.nii.gz") and b.name.startswith("b_2-") and b.suffix == ".png"
    for path in (a, b):
        with Image.open(path) as image:
            assert image.size == (6, 4) and image.mode == "RGB" and image.info == {}
    volume = nibabel.load(b2)
    np.testing.assert_array_equal(volume.affine, np.diag([-1.0, -2.0, 3.0, 1.0]))
    assert volume.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(volume.dataobj), np.rint(255 * scaled(found[2]["saliency"].numpy())))


def test_the_slice_that_was_predicted_is_drawn(dataset, tmp_path):
    write(SaliencyWriter(tmp_path, dataset), [{"saliency": torch.zeros(1, 6, 4), "pred": torch.zeros(1, 6, 4)}] * 2)
    (path,) = (tmp_path / "saliency").glob("b_2-*.png")
    drawn = np.asarray(Image.open(path))[..., 0].T / 255
    array = np.asarray(nibabel.load(dataset.data[1]["image"]).dataobj)[..., 2]
    low, high = np.percentile(array, (0.5, 99.5))
    np.testing.assert_allclose(drawn, ((array - low) / (high - low)).clip(0, 1), atol=0.02)


def test_every_file_says_that_the_model_is_of_phantoms(dataset, tmp_path):
    write(SaliencyWriter(tmp_path, dataset, synthetic=True), outputs())
    with Image.open(tmp_path / "saliency" / "a.png") as image:
        assert image.info == {"Comment": "model trained on SYNTHETIC data"}
    assert b"SYNTHETIC" in nibabel.load(tmp_path / "saliency" / "b.nii.gz").header["descrip"].item()


def test_a_network_that_tells_no_mask_has_no_outline(dataset, tmp_path):
    found = [{"saliency": torch.zeros(1, 6, 4), "pred": torch.arange(24).reshape(1, 6, 4)}]
    for outline, there in (("pred", True), (None, False)):
        write(SaliencyWriter(tmp_path, dataset, outline=outline), found)
        pixels = np.asarray(Image.open(tmp_path / "saliency" / "a.png"))
        assert (pixels == OUTLINE).all(axis=-1).any() == there


def test_a_network_without_saliency_is_told_once(dataset, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(SaliencyWriter(tmp_path / "out", dataset), [{"pred": torch.zeros(1, 6, 4)}] * 2)
    assert caplog.text.count("no saliency (`bridge: none`)") == 1
    assert not (tmp_path / "out").exists()


def test_the_image_is_read_as_it_was_for_the_network(tmp_path):
    pixels = np.random.default_rng(0).random((6, 4, 1)).astype(np.float32)
    pixels[:, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), tmp_path / "a.nii")
    dataset = ReadableImages([{"image": str(tmp_path / "a.nii"), "id": "a"}], lambda item: item)
    found = [{"saliency": torch.zeros(1, 6, 4), "pred": torch.zeros(1, 6, 4)}]
    write(SaliencyWriter(tmp_path / "out", dataset, nan="background"), found)
    with Image.open(tmp_path / "out" / "saliency" / "a.png") as image:
        assert image.size == (6, 4)
