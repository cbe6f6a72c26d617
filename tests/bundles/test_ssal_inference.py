"""Masks out of `inference.json`: on the grid of each file, read back with nibabel and SimpleITK."""

from __future__ import annotations

import csv
import gzip
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from support import BUNDLES, listed_files
from torch import nn

from medssl_monai.data import write_datalist
from medssl_monai.files import save_tensors
from medssl_monai.networks.pretrained import describe
from medssl_monai.phantoms.files import write_dicom

CONFIG = BUNDLES / "ssal" / "configs" / "inference.json"


class Brightness(nn.Module):
    """A network that finds what is brighter than a half: its masks are known beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, images):
        return self.scale * torch.cat([0.5 - images[:, :1], images[:, :1] - 0.5], dim=1)


@pytest.fixture
def infer(tmp_path):
    """Runs the bundle with `Brightness`; returns the rows of its table by id."""

    def _infer(source, image_size, classes=("background", "lesion"), channels=1, **overrides):
        weights = tmp_path / "models" / "model.pt"
        about = {"classes": list(classes), "synthetic": False, "spacing": overrides.pop("spacing", None)}
        save_tensors(weights, describe(Brightness(), about))
        where = {"datalist": str(source)} if str(source).endswith(".json") else {"dataset_dir": str(source)}
        if about["spacing"]:
            overrides["spacing"] = about["spacing"]
        run = ConfigWorkflow(
            str(CONFIG),
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(CONFIG.parents[1]),
            weights=str(weights),
            output_dir=str(tmp_path / "out"),
            device="cpu",
            network_def={"_target_": f"{__name__}.Brightness"},
            image_size=list(image_size),
            channels=channels,
            classes=list(classes),
            **where,
            **overrides,
        )
        run.initialize()
        assert run.check_properties() == []
        run.run()
        run.finalize()
        return {
            row["id"]: row for row in csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines())
        }

    return _infer


def sources(tmp_path):
    """Path of the image by id, as the run has noted it."""
    listed = listed_files(tmp_path / "out" / "images.json")
    return {name.partition("#")[0]: Path(image) for name, image in listed.items()}


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def blob(shape, spacing=1.0):
    """Bright voxels in one corner, smooth, so that mirrored or turned it lies elsewhere."""
    axes = np.meshgrid(*[(np.arange(size) + 0.5) / size for size in shape], indexing="ij")
    far = sum(((axis - at) / width) ** 2 for axis, at, width in zip(axes, (0.3, 0.6, 0.35), (0.2, 0.25, 0.3)))  # noqa: B905
    return 1000.0 / (1.0 + np.exp(12 * (far - 1)))


def wanted(array):
    """What `Brightness` finds, after the percentiles of the preprocessing."""
    low, high = np.percentile(array, (0.5, 99.5))
    return (array - low) / (high - low) > 0.5


def same_geometry(path, other, tolerance=1e-4):
    """Also with SimpleITK, which reads forms, codes and units by itself."""
    a, b = (SimpleITK.ReadImage(str(file)) for file in (path, other))
    assert a.GetSize() == b.GetSize()
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(a, name)(), getattr(b, name)(), atol=tolerance)


def test_pictures(infer, tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    array = blob((53, 37))  # x, y
    for name in ("a.png", "deep/b.jpg"):
        Image.fromarray((array.T / 4).astype(np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    rows, files = infer(folder, (32, 32)), sources(tmp_path)
    assert len(rows) == 3
    for name, row in rows.items():
        if files[name].name == "broken.png":
            assert row["error"] and not row["file"] and not row["lesion share"]
            continue
        mask = np.asarray(Image.open(tmp_path / "out" / row["file"]))
        assert row["file"] == f"masks/{name}.png" and not row["error"]
        assert mask.shape == (37, 53) and set(np.unique(mask)) == {0, 255}
        assert overlap(mask.T > 0, wanted(array)) > 0.93
        assert float(row["lesion share"]) == pytest.approx((mask > 0).mean(), abs=1e-5)
        assert row["lesion ml"] == ""


def test_three_classes_are_indices(infer, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray((blob((20, 20)) / 4).astype(np.uint8)).save(tmp_path / "in" / "a.png")
    (row,) = infer(tmp_path / "in", (16, 16), classes=("background", "canal", "cord")).values()
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out" / row["file"])))) == {0, 1}


OBLIQUE = np.array([[0.8, 0.1, 0.5], [-0.2, 0.97, 0.1], [-0.5, -0.15, 0.85]])


def affine_of(axes, spacing, oblique=False):
    """Of a file whose axes run so, anywhere in space."""
    codes = nibabel.orientations.axcodes2ornt(axes)
    rotation = np.zeros((3, 3))
    for axis, (to, sign) in enumerate(codes):
        rotation[int(to), axis] = sign
    turn = np.linalg.qr(OBLIQUE)[0] if oblique else np.eye(3)
    turn *= np.sign(turn.diagonal())
    affine = np.eye(4)
    affine[:3, :3] = turn @ rotation @ np.diag(spacing)
    affine[:3, 3] = -31.5, 12.25, 40.0
    return affine


@pytest.mark.parametrize("image_size", [(24, 24), (24, 24, 16)], ids=["slices", "volumes"])
@pytest.mark.parametrize("oblique", [False, True], ids=["straight", "oblique"])
@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAS", "PSR"])
def test_nifti(infer, tmp_path, axes, oblique, image_size):
    """A bright blob of known place in the file's own axes, of unequal sides and spacings."""
    (tmp_path / "in").mkdir()
    shape, spacing = {"PSR": ((34, 9, 28), (1.0, 4.0, 1.2))}.get(axes, ((34, 28, 9), (1.0, 1.2, 4.0)))
    array = blob(shape)
    image = nibabel.Nifti1Image(array.astype(np.float32), affine_of(axes, spacing, oblique))
    image.header["descrip"] = b"a name"
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, 1)
    source = tmp_path / "in" / "case.nii.gz"
    nibabel.save(image, source)
    volumes = len(image_size) == 3
    if volumes:
        write_datalist(tmp_path / "list.json", {"testing": [{"image": str(source), "id": "case"}]})
    (row,) = infer(
        tmp_path / "list.json" if volumes else tmp_path / "in",
        image_size,
        **({"spacing": [2.0, 2.0, 3.0]} if volumes else {}),
    ).values()
    path = tmp_path / "out" / row["file"]
    mask, source_image = nibabel.load(path), nibabel.load(source)
    found = np.asarray(mask.dataobj)
    assert found.dtype == np.uint8 and found.shape == shape and set(np.unique(found)) == {0, 1}
    np.testing.assert_array_equal(mask.affine, source_image.affine)
    for name in ("qform_code", "sform_code", "xyzt_units"):
        assert mask.header[name] == source_image.header[name]
    assert mask.header["descrip"].item() == b""
    same_geometry(path, source)
    if volumes:
        assert overlap(found > 0, wanted(array)) > 0.9
    millilitres = found.sum() * np.prod(spacing) / 1000
    assert float(row["lesion ml"]) == pytest.approx(millilitres, rel=1e-3)
    assert float(row["lesion share"]) == pytest.approx((found > 0).mean(), abs=1e-5)


def test_slices_of_a_volume_lie_where_they_were(infer, tmp_path):
    """Slice by slice, with the percentiles of each slice; slices that were not asked for hold no class."""
    array = np.stack([np.roll(blob((34, 28)), 3 * k, axis=0) for k in range(5)], axis=-1)
    affine = affine_of("RAS", (1.0, 1.2, 4.0))
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine), tmp_path / "case.nii.gz")
    asked = [0, 1, 3, 4]  # z as in the file: the reader turns the other two axes
    items = [{"image": "case.nii.gz", "slice": k, "id": f"case#{k}"} for k in asked]
    write_datalist(tmp_path / "list.json", {"testing": items})
    (row,) = infer(tmp_path / "list.json", (28, 28)).values()
    assert row["id"] == "case" and row["file"] == "masks/case.nii.gz"
    found = np.asarray(nibabel.load(tmp_path / "out" / row["file"]).dataobj)
    assert (found[..., 2] == 2).all()
    for k in asked:
        assert overlap(found[..., k] == 1, wanted(array[..., k])) > 0.93
    assert float(row["lesion share"]) == pytest.approx((found[..., asked] == 1).mean(), abs=1e-5)


def test_one_thick_slice_in_nifti(infer, tmp_path):
    """The reader takes a volume of one slice for an image; its mask is a volume of one slice again."""
    (tmp_path / "in").mkdir()
    array = blob((30, 40))[:, None, :]  # coronal, in R-A-S
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine_of("RAS", (1, 5, 2))), tmp_path / "in" / "a.nii")
    (row,) = infer(tmp_path / "in", (32, 32)).values()
    path = tmp_path / "out" / row["file"]
    found = np.asarray(nibabel.load(path).dataobj)
    assert found.shape == (30, 1, 40) and row["lesion ml"] == ""
    assert overlap(found > 0, wanted(array)) > 0.93
    same_geometry(path, tmp_path / "in" / "a.nii")


def dicom(path, pixels, number, **geometry):
    header = {"InstanceNumber": number, "SeriesDescription": "SYNTHETIC test", **geometry}
    write_dicom(path, pixels, "MR", "MONOCHROME2", header, "P1", "test")


@pytest.mark.parametrize("image_size", [(24, 24), (24, 24, 16)], ids=["slices", "volumes"])
def test_dicom_series(infer, tmp_path, image_size):
    """Oblique slices, in the patient's space, as SimpleITK sees the series."""
    folder = tmp_path / "in"
    folder.mkdir()
    rotation = np.linalg.qr(OBLIQUE)[0]
    rotation *= np.sign(rotation.diagonal())
    row, column = rotation.T[:2]
    normal = np.cross(row, column)
    array = blob((34, 28, 9))
    for k in range(9):
        where = (np.array([-40, 12.5, 7]) + k * 4.0 * normal).round(6).tolist()
        geometry = {"ImagePositionPatient": where, "ImageOrientationPatient": [*row.round(9), *column.round(9)]}
        pixels = array[..., k].T.astype(np.uint16)
        dicom(folder / f"{9 - k}.dcm", pixels, k + 1, PixelSpacing=[1.2, 1.0], SliceThickness=4.0, **geometry)
    source = folder
    if len(image_size) == 3:
        source = tmp_path / "list.json"
        write_datalist(source, {"testing": [{"image": str(folder), "id": "case"}]})
    (line,) = infer(source, image_size, **({"spacing": [2.0, 2.0, 3.0]} if len(image_size) == 3 else {})).values()
    path = tmp_path / "out" / line["file"]
    found = SimpleITK.ReadImage(str(path))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    series = reader.Execute()
    assert found.GetSize() == series.GetSize()
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(found, name)(), getattr(series, name)(), atol=1e-4)
    assert np.asarray(nibabel.load(path).dataobj).shape == (34, 28, 9)
    stored = SimpleITK.GetArrayFromImage(series).transpose(2, 1, 0)
    if len(image_size) == 3:
        assert overlap(np.asarray(nibabel.load(path).dataobj) > 0, wanted(stored)) > 0.9
    assert float(line["lesion ml"]) > 0


def test_one_dicom_slice_and_a_radiograph_without_spacing(infer, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = blob((34, 28)).T.astype(np.uint16)
    placed = {"ImagePositionPatient": [10, 20, 30], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
    dicom(folder / "sagittal.dcm", pixels, 1, PixelSpacing=[1.2, 1.0], **placed)
    write_dicom(
        folder / "chest.dcm",
        pixels,
        "CR",
        "MONOCHROME2",
        {"InstanceNumber": 1, "SeriesDescription": "x"},
        "P2",
        "other",
    )
    rows, files = infer(folder, (32, 32)), sources(tmp_path)
    for name, row in rows.items():
        path = tmp_path / "out" / row["file"]
        mask = nibabel.load(path)
        found = np.asarray(mask.dataobj)
        assert found.shape == (34, 28, 1) and row["lesion ml"] == ""
        assert overlap(found[..., 0] > 0, wanted(pixels.T)) > 0.93
        a, b = SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(files[name]))
        assert a.GetSize() == b.GetSize()
        for what in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(a, what)(), getattr(b, what)(), atol=1e-4)
        if files[name].name == "chest.dcm":
            np.testing.assert_array_equal(mask.affine, np.diag([-1, -1, 1, 1]))


def test_volumes_larger_than_the_network_takes(infer, tmp_path):
    array = blob((60, 50, 20))
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine_of("LPS", (1, 1, 1))), tmp_path / "case.nii.gz")
    write_datalist(tmp_path / "list.json", {"testing": [{"image": "case.nii.gz", "id": "case"}]})
    (row,) = infer(tmp_path / "list.json", (24, 24, 16), spacing=[1.0, 1.0, 1.0]).values()
    found = np.asarray(nibabel.load(tmp_path / "out" / row["file"]).dataobj)
    assert overlap(found > 0, wanted(array)) > 0.99


@pytest.mark.parametrize("frames", [False, True], ids=["series", "frames"])
def test_dicom_volumes_that_do_not_say_where_they_lie(infer, tmp_path, frames):
    """Rows and columns count as running to the left and to the back, as for SimpleITK, in voxels of 1 mm."""
    array, folder = blob((34, 28, 6)), tmp_path / "series"
    folder.mkdir()
    if frames:
        pixels = array.transpose(2, 1, 0).reshape(-1, 34).astype(np.uint16)  # one frame below the other
        dicom(folder / "all.dcm", pixels, 1)
        whole = pydicom.dcmread(folder / "all.dcm")
        whole.NumberOfFrames, whole.Rows = 6, 28
        whole.save_as(folder / "all.dcm")
    else:
        for k in range(6):
            dicom(folder / f"{k}.dcm", array[..., k].T.astype(np.uint16), k + 1)
    source = folder / "all.dcm" if frames else folder
    items = [{"image": str(source), "slice": k, "id": f"case#{k}"} for k in range(6)]
    write_datalist(tmp_path / "list.json", {"testing": items})
    (row,) = infer(tmp_path / "list.json", (32, 32)).values()
    mask = nibabel.load(tmp_path / "out" / row["file"])
    np.testing.assert_array_equal(mask.affine, np.diag([-1, -1, 1, 1]))
    assert mask.shape == (34, 28, 6) and row["lesion ml"] == ""
    assert overlap(np.asarray(mask.dataobj)[..., 2] > 0, wanted(array[..., 2])) > 0.93


@pytest.mark.parametrize("axes", ["RAS", "PSR"])
def test_what_monai_labels_own_app_does(tmp_path, axes):
    """Its BundleInferTask runs these parts by themselves, then writes with the affine and the size of the file."""
    array = blob((34, 9, 28) if axes == "PSR" else (34, 28, 9))
    affine = affine_of(axes, (1.0, 4.0, 1.2) if axes == "PSR" else (1.0, 1.2, 4.0))
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine), tmp_path / "case.nii.gz")
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.read_meta(CONFIG.parent / "metadata.json")
    changes = {"image_size": [24, 24, 16], "channels": 1, "spacing": [2.0, 2.0, 3.0], "device": "cpu"}
    parser.update({**changes, "network_def": {"_target_": f"{__name__}.Brightness"}})
    parts = ("preprocessing", "inferer", "network_def", "postprocessing")
    before, inferer, network, after = (parser.get_parsed_content(part) for part in parts)
    data = before({"image": str(tmp_path / "case.nii.gz"), "image_path": "as it adds"})
    data["pred"] = inferer(data["image"][None], network)[0]
    data = after(data)
    meta = data["image"].meta
    assert tuple(meta["spatial_shape"]) == tuple(data["pred"].shape[1:]) == array.shape
    np.testing.assert_allclose(meta["original_affine"], affine)
    assert overlap(data["pred"][0].numpy() > 0, wanted(array)) > 0.9


SPINES = ["mt/mt1", "t1/t1w", "t2/t2", "t2s/t2s_uncropped"]


@pytest.mark.parametrize("name", SPINES)
def test_real_spines(infer, tmp_path, real_data, name):
    """Stored in R-A-S, P-S-R and L-A-S, oblique, with voxels up to fifteen times as long as wide."""
    with zipfile.ZipFile(real_data / "spine_mri_mini.zip") as archive:
        source = Path(archive.extract(f"{name}.nii.gz", tmp_path))
    write_datalist(tmp_path / "list.json", {"testing": [{"image": str(source), "id": "case"}]})
    (row,) = infer(tmp_path / "list.json", (32, 32, 32), spacing=[3.0, 3.0, 3.0]).values()
    path = tmp_path / "out" / row["file"]
    mask, image = nibabel.load(path), nibabel.load(source)
    np.testing.assert_array_equal(mask.affine, image.affine)
    assert mask.shape == image.shape[:3]
    same_geometry(path, source)
    assert overlap(np.asarray(mask.dataobj) > 0, wanted(np.asarray(image.dataobj))) > 0.6  # fine detail is lost at 3 mm


def test_a_real_oblique_dicom_series(infer, tmp_path, real_data):
    with zipfile.ZipFile(real_data / "dicom_samples.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("mr_t1_7t/")]
        archive.extractall(tmp_path, names)
    folder = tmp_path / "mr_t1_7t"
    write_datalist(tmp_path / "list.json", {"testing": [{"image": str(folder), "id": "case"}]})
    (row,) = infer(tmp_path / "list.json", (32, 32, 32), spacing=[3.0, 3.0, 3.0]).values()
    found = SimpleITK.ReadImage(str(tmp_path / "out" / row["file"]))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    series = reader.Execute()
    assert found.GetSize() == series.GetSize()
    for what in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(found, what)(), getattr(series, what)(), atol=1e-3)
    stored = SimpleITK.GetArrayFromImage(series)
    assert overlap(SimpleITK.GetArrayFromImage(found) > 0, wanted(stored)) > 0.6


def test_nothing_can_be_read(infer, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"\x89PNG cut short")
    with pytest.raises(RuntimeError) as error:
        infer(tmp_path / "in", (16, 16))
    assert "none of 1 images can be read" in str(error.value.__cause__)
    assert str(tmp_path) not in str(error.value.__cause__)


def test_every_mask_says_that_the_model_is_of_phantoms(infer, tmp_path):
    (tmp_path / "in").mkdir()
    array = blob((20, 20, 6))
    Image.fromarray((array[..., 0] / 4).astype(np.uint8)).save(tmp_path / "in" / "a.png")
    nibabel.save(
        nibabel.Nifti1Image(array.astype(np.float32), affine_of("LPS", (1, 1, 1))), tmp_path / "in" / "b.nii.gz"
    )
    rows = infer(tmp_path / "in", (16, 16), **{"handlers::0::synthetic": True})
    for row in rows.values():
        path = tmp_path / "out" / row["file"]
        assert row["model"] == "trained on SYNTHETIC data"
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert "SYNTHETIC" in image.info["Comment"]
        else:
            assert b"SYNTHETIC" in nibabel.load(path).header["descrip"].item()


def test_same_bytes_again(infer, tmp_path):
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(blob((20, 20, 6)), affine_of("LPS", (1, 1, 1))), tmp_path / "in" / "b.nii.gz")
    first = [(tmp_path / "out" / row["file"]).read_bytes() for row in infer(tmp_path / "in", (16, 16)).values()]
    again = [(tmp_path / "out" / row["file"]).read_bytes() for row in infer(tmp_path / "in", (16, 16)).values()]
    assert first == again and gzip.decompress(first[0])
