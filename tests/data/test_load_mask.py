"""Masks from files: what fits is read, what does not is refused, and all of it lands where its image does."""

import re

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged, Orientationd, Resized
from PIL import Image

from medssl_monai.data import LoadMaskd
from medssl_monai.phantoms import make_phantom
from medssl_monai.readers import ClinicalReader
from medssl_monai.transforms import UNLABELED, KnownSpacingd, PadToSized, TakeSliced

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])  # to left, back and up, as the reader has it
RAS = {"axcodes": "RAS", "labels": (("L", "R"), ("P", "A"), ("I", "S"))}


@pytest.fixture
def item(tmp_path):
    """Writes an image of 6 x 5 x 4 voxels, or of 6 x 5 pixels, and a mask; returns their item."""

    def write(path, array, affine):
        if array.ndim == 2:
            path = path.with_suffix(".png")
            Image.fromarray(np.ascontiguousarray(array.T)).save(path)
        else:
            path = path.with_suffix(".nii.gz")
            nibabel.save(nibabel.Nifti1Image(array, affine), path)
        return str(path)

    def _item(mask, affine=AFFINE, shape=(6, 5, 4), **more):
        image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        paths = {"image": write(tmp_path / "image", image, AFFINE), "label": write(tmp_path / "secret", mask, affine)}
        return {**paths, "id": "s1", **more}

    return _item


def load(item, classes=3, **more):
    return LoadMaskd("label", ClinicalReader(), classes, **more)(item)["label"]


def volume(value=0, shape=(6, 5, 4), dtype=np.int16):
    return np.full(shape, value, dtype)


def test_classes_stay_and_the_rest_is_unlabeled(item):
    mask = volume()
    mask[0], mask[1], mask[2], mask[3] = 1, 2, 3, -1
    loaded = load(item(mask))
    assert loaded.dtype == torch.uint8 and loaded.shape == (1, 6, 5, 4)
    assert [int(v) for v in loaded[0, :, 0, 0]] == [1, 2, UNLABELED, UNLABELED, 0, 0]


def test_of_two_classes_255_is_the_second(item):
    mask = volume(0, (6, 5), np.uint8)
    mask[2:4] = 255
    item = item(mask, shape=(6, 5))
    assert load(item, 2).unique().tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"s1: the mask holds \[255\], but there are 3 classes, 0 to 2"):
        load(item, 3)


@pytest.mark.parametrize("values", [(0, 1, 255), (0, 5)])
def test_a_value_that_is_no_class(item, values):
    mask = volume()
    mask.flat[: len(values)] = values
    with pytest.raises(ValueError, match=rf"s1: the mask holds \[{values[-1]}\].*nobody labeled.*name all classes"):
        load(item(mask), 2)


def test_a_value_that_is_no_whole_number(item):
    mask = volume(0, dtype=np.float32)
    mask[1, 1, 1] = 0.5
    with pytest.raises(ValueError, match=r"s1: the mask holds 0\.5, and a class is a whole number.*nearest"):
        load(item(mask))
    mask[1, 1, 1] = np.nan
    with pytest.raises(ValueError, match="s1: its mask holds NaN or infinite voxels"):
        load(item(mask))


def test_of_a_palette_the_index_is_the_class(item):
    mask = volume(0, (6, 5), np.uint8)
    mask[2:4, 1:3], mask[0, 0] = 2, 1
    one = item(mask, shape=(6, 5))
    indexed = Image.fromarray(mask.T.copy(), "P")
    indexed.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 255])
    indexed.save(one["label"])
    np.testing.assert_array_equal(load(one)[0], mask)
    Image.fromarray(mask.T.copy(), "P").convert("RGB").save(one["image"])  # an image with a palette has colours


def test_a_turned_photograph_has_an_upright_mask(item):
    mask = volume(0, (6, 5), np.uint8)
    mask[:3, :2] = 1
    one = item(mask, shape=(6, 5))
    exif = Image.Exif()
    exif[274] = 6  # stored lying on its side
    Image.fromarray(np.rot90(mask.T).copy()).save(one["image"], exif=exif)
    np.testing.assert_array_equal(load(one)[0], mask)
    Image.fromarray(np.rot90(mask.T).copy()).save(one["label"])
    with pytest.raises(ValueError, match="the mask has 5 columns x 6 rows, its image 6 columns x 5 rows"):
        load(one)


def test_another_shape(item):
    with pytest.raises(ValueError, match="s1: the mask has 6 columns x 5 rows x 3 slices, its image 6 columns x 5"):
        load(item(volume(shape=(6, 5, 3))))
    with pytest.raises(ValueError, match="s1: the mask has 5 columns x 6 rows, its image 6 columns x 5 rows;"):
        load(item(volume(0, (5, 6), np.uint8), shape=(6, 5)))


def test_another_spacing(item):
    other = np.diag([-2.0, -2.5, 3.0, 1.0])
    with pytest.raises(ValueError, match=r"s1: the mask's spacing is 2 x 2.5 x 3 mm, its image's 2 x 2 x 3 mm"):
        load(item(volume(), other))


def test_another_position_or_orientation(item):
    moved = AFFINE.copy()
    moved[2, 3] = 1.5
    with pytest.raises(ValueError, match=r"s1: the mask lies up to 1.5 mm off its image: another position"):
        load(item(volume(), moved))
    tilted = AFFINE.copy()
    c, s = np.cos(0.3), np.sin(0.3)
    tilted[:2, :2] = tilted[:2, :2] @ [[c, -s], [s, c]]
    with pytest.raises(ValueError, match="or orientation; export the mask again on the grid"):
        load(item(volume(), tilted))
    moved[2, 3] = 0.1  # what rounding may do
    assert load(item(volume(), moved)).shape == (1, 6, 5, 4)


def test_stored_in_other_axes_it_is_the_same_mask(item):
    """A mask in R-A-S over an image in L-P-S: the same voxels, in another order."""
    mask = np.random.default_rng(0).integers(0, 3, (6, 5, 4)).astype(np.int16)
    flipped, affine = mask[::-1, ::-1], np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:2, 3] = AFFINE[:2, :2] @ [5, 4]
    np.testing.assert_array_equal(load(item(flipped, affine))[0], mask)


def test_colours_are_refused_and_grey_in_three_channels_is_read(item, tmp_path):
    one = item(volume(1, (6, 5), np.uint8), shape=(6, 5))
    grey = np.ones((5, 6, 3), np.uint8)
    Image.fromarray(grey).save(one["label"])
    assert load(one).unique().tolist() == [1]
    grey[0, 0] = 1, 0, 2
    Image.fromarray(grey).save(one["label"])
    with pytest.raises(ValueError, match="s1: the mask has 3 channels that differ"):
        load(one)


def test_messages_name_no_path(item, tmp_path):
    one = item(volume())
    for key, what in (("label", "mask"), ("image", "image")):
        for name, said in (("gone.nii.gz", "no such file"), ("text.png", "cannot be read as PNG")):
            (tmp_path / "text.png").write_text("no picture")
            with pytest.raises(ValueError, match=f"s1: its {what}.*{said}") as error:
                load({**one, key: str(tmp_path / name)})
            assert str(tmp_path) not in str(error.value) and name not in str(error.value)


def test_a_slice_of_a_volume_or_the_mask_of_that_slice_alone(item, tmp_path):
    mask = np.random.default_rng(0).integers(0, 3, (6, 5, 4)).astype(np.int16)
    whole = item(mask, slice=2)
    cut = TakeSliced("label")(LoadMaskd("label", ClinicalReader(), 3)(whole))["label"]
    np.testing.assert_array_equal(cut[0], mask[..., 2])
    Image.fromarray(np.ascontiguousarray(mask[..., 2].T.astype(np.uint8))).save(tmp_path / "slice.png")
    alone = {**whole, "label": str(tmp_path / "slice.png")}
    np.testing.assert_array_equal(load(alone)[0], mask[..., 2])
    del alone["slice"]
    with pytest.raises(ValueError, match="s1: the mask has 6 columns x 5 rows, its image 6 columns x 5 rows x 4"):
        load(alone)


def test_a_volume_among_images_is_refused(item):
    with pytest.raises(ValueError, match="s1: the volume has 4 slices or frames and the item does not say which"):
        TakeSliced("label")({"label": load(item(volume())), "id": "s1"})


def test_items_without_a_mask(item):
    one = item(volume())
    del one["label"]
    assert "label" not in LoadMaskd("label", ClinicalReader(), 3, allow_missing_keys=True)(one)
    with pytest.raises(KeyError, match="label"):
        LoadMaskd("label", ClinicalReader(), 3)(one)


@pytest.mark.parametrize("count", [1, 255])
def test_a_number_of_classes_that_cannot_be_is_refused(count):
    with pytest.raises(ValueError, match=f"from 2 to 254; got {count}"):
        LoadMaskd("label", ClinicalReader(), count)


def of_image(*steps):
    return Compose([LoadImaged("image", ClinicalReader(), image_only=True, ensure_channel_first=True), *steps])


def of_mask(classes, *steps):
    return Compose([LoadMaskd("label", ClinicalReader(), classes), *steps])


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PSR"])
@pytest.mark.parametrize("pixdim", [(2.0, 2.0, 3.0), (1.5, 2.5, 2.0)])
def test_image_and_mask_of_a_volume_land_alike(tmp_path, axes, pixdim):
    """An image that is its own mask, through both chains: resampled once linearly, once to the nearest."""
    ball = np.linalg.norm(np.stack(np.meshgrid(*[np.arange(s) - s / 2.5 for s in (16, 14, 10)], indexing="ij")), axis=0)
    array = (ball < 4).astype(np.float32)
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = 20, 31, -12
    turned = nibabel.Nifti1Image(array, affine).as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes)
        )
    )
    nibabel.save(turned, tmp_path / "image.nii.gz")
    nibabel.save(nibabel.Nifti1Image(array.astype(np.uint8), affine), tmp_path / "mask.nii.gz")
    item = {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "mask.nii.gz"), "id": "s1"}
    size = [24, 24, 20]
    image = of_image(Orientationd("image", **RAS), KnownSpacingd("image", pixdim), PadToSized("image", size))(item)
    mask = of_mask(
        2,
        Orientationd("label", **RAS),
        KnownSpacingd("label", pixdim, mode="nearest"),
        PadToSized("label", size, value=UNLABELED),
    )(item)
    image, mask = image["image"][0], mask["label"][0]
    assert image.shape == mask.shape == tuple(size)
    assert set(mask.unique().tolist()) == {0, 1, UNLABELED}
    inside, found = image > 0.5, mask == 1
    assert 2 * (inside & found).sum() / (inside.sum() + found.sum()) > (0.999 if pixdim[0] == 2 else 0.9)
    assert not image[mask == UNLABELED].any()


def test_image_and_mask_of_a_picture_land_alike(tmp_path):
    ball = np.hypot(*np.meshgrid(np.arange(530) - 200, np.arange(370) - 150)) < 90  # rows, columns
    Image.fromarray((ball * 255).astype(np.uint8)).save(tmp_path / "image.png")
    Image.fromarray((ball * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    item = {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "mask.png")}
    image = of_image(TakeSliced("image"), Resized("image", [24, 32], anti_aliasing=True))(item)["image"]
    mask = of_mask(2, TakeSliced("label"), Resized("label", [24, 32], mode="nearest-exact"))(item)["label"]
    assert mask.shape == image.shape == (1, 24, 32)
    centre = [torch.stack(torch.where(x[0] > 0.5)).float().mean(1) for x in (image / 255, mask)]
    torch.testing.assert_close(*centre, atol=0.1, rtol=0)


@pytest.mark.parametrize(("kind", "classes"), [("lesion_mask", 2), ("spine_cord", 3)])
def test_masks_of_phantoms(tmp_path, kind, classes):
    import json

    path = make_phantom(tmp_path, kind, {"training": 2})
    for item in json.loads(path.read_text())["training"]:
        paths = {key: str(tmp_path / item[key]) for key in ("image", "label")}
        assert load({**item, **paths}, classes).unique().tolist() == list(range(classes))
        assert re.search("structures|lesion", paths["label"])
