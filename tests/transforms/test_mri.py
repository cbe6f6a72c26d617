import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd, Spacingd
from scipy.ndimage import map_coordinates

from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.transforms import KnownSpacingd, N4BiasFieldCorrectiond, RobustIntensityd

LOAD = LoadImaged("image", reader=ClinicalReader(), image_only=True, ensure_channel_first=True)


def image_of(values, spacing=None, size=1.0):
    values = torch.as_tensor(np.asarray(values), dtype=torch.float32)
    affine = torch.diag(torch.tensor([*np.broadcast_to(size, values.ndim - 1), 1.0], dtype=torch.float64))
    return MetaTensor(values, affine=affine, meta={} if spacing is None else {"spacing": spacing})


def phantom(shape, seed=0):
    """Two tissues in air, with noise; the inner tissue; and the axes in [-1, 1]."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    body = np.where(radius < 0.5, 400.0, np.where(radius < 0.85, 250.0, 5.0))
    return np.abs(body + np.random.default_rng(seed).normal(0, 4, shape)), radius < 0.45, axes


@pytest.fixture
def spine(real_data, tmp_path):
    """Files of the spine fixtures: RAS, PSR and LAS, the last one of 0.5 x 0.5 x 7.5 mm."""
    with zipfile.ZipFile(real_data / "spine_mri_mini.zip") as archive:
        return {name: archive.extract(name, tmp_path) for name in ("t1/t1w.nii.gz", "t2/t2.nii.gz", "t2s/t2s.nii.gz")}


# ---- spacing --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["t1/t1w.nii.gz", "t2/t2.nii.gz", "t2s/t2s.nii.gz"])
def test_oriented_and_resampled_volume_has_the_values_that_nibabel_finds_at_the_same_places(spine, name):
    geometry = Compose([Orientationd("image", axcodes="RAS", labels=None), KnownSpacingd("image", (0.8, 1.0, 3.0))])
    before = LOAD({"image": spine[name], "id": name})
    after = geometry(before)["image"]
    assert nib.aff2axcodes(after.affine.numpy()) == ("R", "A", "S")
    assert after.pixdim.tolist() == pytest.approx([0.8, 1.0, 3.0])
    file = nib.load(spine[name])
    index = np.argwhere(np.ones(after.shape[1:]))[::37]
    world = nib.affines.apply_affine(after.affine.numpy(), index)
    place = nib.affines.apply_affine(np.linalg.inv(file.affine), world)
    inside = ((place > 0) & (place < np.array(file.shape) - 1)).all(axis=1)
    assert inside.sum() > 100
    expected = map_coordinates(file.get_fdata(), place[inside].T, order=1)
    assert np.allclose(after[0].numpy()[tuple(index[inside].T)], expected, atol=1e-3 * expected.max())
    back = geometry.inverse({"image": after})["image"]
    assert back.shape == before["image"].shape
    assert torch.allclose(back.affine, before["image"].affine, atol=1e-4)


def test_our_items_pass_monais_own_spacing_and_those_of_monai_label_pass_ours(spine):
    """MONAI 1.6: with NIfTI, `Spacingd` takes every key that begins with ``image_`` for metadata."""
    item = {"image": spine["t1/t1w.nii.gz"], "label": 1, "labeled": True, "group": "p1", "id": "a", "slice": 3}
    loaded = LOAD({**item, "meta": {"image_id": "i1", "label_text": "cord"}})
    plain = Spacingd("image", (2.0, 2.0, 2.0))(loaded)
    more = {**loaded, "image_path": "somewhere", "image_0": 7}
    with pytest.raises(AttributeError, match="update"):
        Spacingd("image", (2.0, 2.0, 2.0))(more)
    ours = KnownSpacingd("image", (2.0, 2.0, 2.0))(more)
    assert torch.equal(ours["image"], plain["image"])
    assert (ours["image_path"], ours["image_0"]) == ("somewhere", 7)
    assert {key: ours[key] for key in ("label", "labeled", "group", "id", "slice", "meta")} == {
        key: loaded[key] for key in ("label", "labeled", "group", "id", "slice", "meta")
    }


def test_unknown_spacing_is_not_resampled_as_if_it_were_1_mm():
    item = {"scan": image_of(np.ones((1, 4, 5)), (np.nan, 0.5), (1.0, 0.5)), "id": "scan 7"}
    with pytest.raises(ValueError, match=r"scan 7: the spacing of 'scan' along the axes \[0\] .* `pixdim` of -1"):
        KnownSpacingd("scan", (2.0, 2.0))(item)
    assert KnownSpacingd("scan", (-1.0, 0.25))(item)["scan"].shape == (1, 4, 9)
    assert KnownSpacingd("scan", (2.0, 2.0))({"scan": image_of(np.ones((1, 4, 5)))})["scan"].shape == (1, 2, 3)
    assert KnownSpacingd(["scan", "mask"], -1.0, allow_missing_keys=True)(item)["scan"].shape == (1, 4, 5)


def test_after_a_turn_no_axis_counts_as_known_if_one_is_not():
    item = {"image": image_of(np.ones((1, 3, 4, 5)), (0.5, 0.25, np.nan), (0.5, 0.25, 1.0))}
    assert KnownSpacingd("image", (1.0, 1.0, -1.0))(item)["image"].shape == (1, 2, 2, 5)
    turned = Orientationd("image", axcodes="SRA", labels=None)(item)
    with pytest.raises(ValueError, match=r"axes \[1, 2\] is not known"):
        KnownSpacingd("image", (-1.0, 1.0, 1.0))(turned)


# ---- grey values ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(64, 48), (32, 28, 24), (40, 36, 5)])
def test_n4_flattens_a_known_shading_and_its_inverse_multiplies_it_back(shape):
    values, tissue, axes = phantom(shape)
    shading = np.exp(0.6 * axes[0] - 0.3 * axes[1] ** 2)
    image = image_of((values * shading)[None], size=0.5)
    n4 = N4BiasFieldCorrectiond("image", shrink=2)
    result = n4({"image": image})["image"]

    def spread(part):
        return float(part.std() / part.mean())

    assert spread((values * shading)[tissue]) > 0.1
    assert spread(result[0].numpy()[tissue]) < 0.5 * spread((values * shading)[tissue])
    assert isinstance(result, MetaTensor) and result.dtype == torch.float32
    assert torch.equal(result.affine, image.affine)
    assert torch.equal(n4({"image": image})["image"], result)
    assert torch.allclose(n4.inverse({"image": result})["image"], image, rtol=1e-5)


def test_n4_leaves_an_image_without_foreground_and_treats_channels_by_themselves():
    values, *_ = phantom((48, 40))
    channels = image_of(np.stack([values, np.zeros((48, 40)), -values, np.full((48, 40), 7.0)]))
    n4 = N4BiasFieldCorrectiond("image", iterations=(5,))
    result = n4({"image": channels})["image"]
    assert torch.equal(result[1:].as_tensor(), channels[1:].as_tensor())
    assert torch.equal(result[:1].as_tensor(), n4({"image": channels[:1]})["image"].as_tensor())


def test_scale_is_that_of_the_foreground_however_much_air_there_is():
    values, tissue, _ = phantom((40, 40))
    wide = np.pad(values, 60, constant_values=5.0)
    scale = RobustIntensityd("image", lower=0.0, upper=90.0, clip=False)
    small, large = (scale({"image": image_of(part[None])})["image"][0].numpy() for part in (values, wide))
    assert np.allclose(small, large[60:-60, 60:-60], atol=0.02)
    assert 0.95 < small[tissue].mean() < 1.05
    assert np.quantile(small[values > 100], 0.9) == pytest.approx(1.0, abs=0.02)


def test_dark_tissue_is_not_lost():
    """Half of a hippocampus crop lies below Otsu's threshold; percentiles of the rest alone would clip it."""
    values = np.concatenate([np.linspace(100, 200, 500), np.linspace(300, 400, 500)]).reshape(1, 25, 40)
    result = RobustIntensityd("image", lower=0.0, upper=100.0)({"image": image_of(values)})["image"].numpy()
    assert np.allclose(result, (values - 100) / 300, atol=1e-6)


def test_outliers_move_nothing():
    values, *_ = phantom((40, 40))
    spoiled = values.copy()
    spoiled[0, 0] = 1.7e6
    plain, other = (RobustIntensityd("image")({"image": image_of(v[None])})["image"].numpy() for v in (values, spoiled))
    assert np.abs(plain - other)[0, 1:].max() < 0.01
    assert other.min() == 0.0 and other.max() == 1.0


@pytest.mark.parametrize("clip", [False, True])
def test_robust_intensity_inverts_and_with_clip_only_inside_the_range(clip):
    values = phantom((20, 18, 16))[0]
    image = image_of(np.stack([values, 1000 * values - 300]), size=0.5)
    transform = RobustIntensityd("image", clip=clip)
    result = transform({"image": image})["image"]
    assert isinstance(result, MetaTensor) and torch.equal(result.affine, image.affine)
    back = transform.inverse({"image": result})["image"]
    assert not back.applied_operations
    inside = ((result > 0) & (result < 1)).as_tensor() if clip else torch.ones(image.shape, dtype=torch.bool)
    assert inside.float().mean() > 0.9
    assert torch.allclose(back.as_tensor()[inside], image.as_tensor()[inside], rtol=1e-4, atol=1e-2)
    if clip:
        assert (result >= 0).all() and (result <= 1).all()
        assert not torch.allclose(back.as_tensor()[~inside], image.as_tensor()[~inside], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_constant_image_becomes_zero_and_comes_back(value):
    transform = RobustIntensityd("image")
    result = transform({"image": image_of(np.full((1, 6, 5), value))})
    assert (result["image"] == 0).all()
    assert (transform.inverse(result)["image"] == value).all()


def test_what_is_not_finite_stays_out_of_the_percentiles():
    values = np.linspace(0, 1, 400).reshape(1, 20, 20)
    spoiled = values.copy()
    spoiled[0, 0, :3] = np.nan, np.inf, -np.inf
    result = RobustIntensityd("image", 0, 100, clip=False)({"image": image_of(spoiled)})["image"][0].numpy()
    assert np.allclose(result[1:], (values[0, 1:] - spoiled[0, 0, 3]) / (1 - spoiled[0, 0, 3]), atol=1e-6)
    assert (RobustIntensityd("image")({"image": image_of(np.full((1, 2, 2), np.nan))})["image"]).isnan().all()


# ---- chains ---------------------------------------------------------------------------------------------------------
def chain(restore=True):
    return Compose(
        [
            Orientationd("image", axcodes="SRA", labels=None),
            KnownSpacingd("image", (1.0, 1.0, 1.0)),
            N4BiasFieldCorrectiond("image", iterations=(5,), restore=restore),
            RobustIntensityd("image", clip=False, restore=restore),
        ]
    )


def test_a_chain_restores_a_predicted_image_after_batching():
    """Masked autoencoders and the like predict grey values: they go back to file geometry and file values."""
    image = image_of(phantom((16, 18, 20))[0][None], spacing=(1.0, 1.0, 1.0))
    transform = chain()
    batch = list_data_collate([transform({"image": image, "id": name}) for name in "ab"])
    items = [{**item, "pred": item["image"].clone()} for item in decollate_batch(batch)]
    for item in items:
        back = Invertd("pred", transform, orig_keys="image", nearest_interp=False)(item)["pred"]
        assert torch.allclose(back.as_tensor(), image.as_tensor(), rtol=1e-4, atol=1e-2)
        assert torch.allclose(back.affine, image.affine)


def test_a_mask_goes_back_untouched_only_without_restoring():
    image = image_of(phantom((16, 18, 20))[0][None], spacing=(1.0, 1.0, 1.0))
    mask = (image > 100).float()
    for restore, equal in ((False, True), (True, False)):
        transform = chain(restore)
        item = transform({"image": image})
        item["pred"] = Orientationd("image", axcodes="SRA", labels=None)({"image": mask})["image"]
        back = Invertd("pred", transform, orig_keys="image")(item)["pred"]
        assert torch.equal(back.as_tensor(), mask.as_tensor()) is equal


def test_a_prediction_of_other_channels_is_refused_with_what_to_do():
    transform = RobustIntensityd("image")
    item = transform({"image": image_of(np.arange(20.0).reshape(1, 4, 5))})
    item["pred"] = item["image"].expand(3, 4, 5).clone()
    with pytest.raises(RuntimeError, match="RobustIntensityd") as error:
        Invertd("pred", Compose([transform]), orig_keys="image")(item)
    assert "Pass `restore=False`" in str(error.value.__cause__)


def test_arrays_and_missing_keys():
    result = RobustIntensityd(["image", "other"], allow_missing_keys=True)({"image": np.arange(20.0).reshape(1, 4, 5)})
    assert result["image"].shape == (1, 4, 5) and result["image"].max() == 1
    with pytest.raises(KeyError):
        RobustIntensityd("image")({"other": 1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RobustIntensityd("image", 60, 40), r"percentiles in \[0, 100\], got 60 and 40"),
        (lambda: N4BiasFieldCorrectiond("image", shrink=0), "at least 1, got 0"),
        (lambda: N4BiasFieldCorrectiond("image", iterations=()), "at least 1, got 4"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
