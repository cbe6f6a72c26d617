"""Masks that are written over an image lie there for every program, and are read back as they were."""

import json

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image

from medssl_monai.data import load_datalist
from medssl_monai.phantoms.files import write_dicom
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers import ClinicalReader, LoadMaskd
from medssl_monai.readers.mask_axes import to_file_axes
from medssl_monai.readers.mask_files import write_mask
from medssl_monai.transforms import TakeSliced

N, STEP = 6, 3.3  # columns, rows and slices: equal, so that no shape tells axes apart; mm between slices
ORIGIN = np.array([-40.0, 12.5, 7.0])


def turned(degrees, directions):
    """About the axis from foot to head."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.round(np.reshape(directions, (2, 3)) @ [[c, s, 0], [-s, c, 0], [0, 0, 1]], 9).ravel().tolist()


AXIAL, SAGITTAL, CORONAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]
PLANES = {
    "axial": AXIAL,
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    "flipped": [-1, 0, 0, 0, -1, 0],
    "transposed": [0, 0, -1, 0, 1, 0],
    "oblique axial": turned(20, AXIAL),
    "oblique sagittal": turned(20, SAGITTAL),
    "between sagittal and coronal": turned(45, SAGITTAL),
}
planes = pytest.mark.parametrize("directions", PLANES.values(), ids=PLANES.keys())


def dicom(path, k=0, directions=None, axis=None, **header):
    """Slice `k` of a series; `directions` of its rows and columns, None: it does not say where it lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"InstanceNumber": k + 1, "SeriesDescription": "T2", "PixelSpacing": [0.5, 0.25], **header}
    if directions is not None:
        axis = np.cross(directions[:3], directions[3:]) if axis is None else axis
        place = np.round(ORIGIN + k * STEP * np.array(axis), 6).tolist()
        header |= {"ImagePositionPatient": place, "ImageOrientationPatient": directions}
    pixels = 100 * k + np.arange(N * N, dtype=np.uint16).reshape(N, N)
    header = {name: value for name, value in header.items() if value is not None}
    write_dicom(path, pixels, "MR", "MONOCHROME2", header, "P", "s")
    return path


def series(folder, directions, **header):
    for k in range(N):
        dicom(folder / f"{N - k}.dcm", k, directions, **header)
    return folder


def any_mask(*shape):
    return np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)


def load(mask, image, **more):
    item = {"image": str(image), "label": str(mask), "id": "s1", **more}
    return LoadMaskd("label", ClinicalReader(), 3)(item)["label"][0].numpy()


def there_and_back(tmp_path, image, mask):
    return load(write_mask(tmp_path / "mask", mask, image, 3).path, image)


def by_simpleitk(path, mask, image):
    """As 3D Slicer does: on the grid of the image as ITK reads it."""
    label = SimpleITK.GetImageFromArray(mask.T if mask.ndim == 3 else mask.T[None])
    label.CopyInformation(image)
    SimpleITK.WriteImage(label, str(path))
    return path


class TestOneSlice:
    @planes
    def test_there_and_back(self, tmp_path, directions):
        mask = any_mask(N, N)
        image = dicom(tmp_path / "a.dcm", 2, directions)
        np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)

    @pytest.mark.parametrize("spacing", [None, [0.5, 0.25]])
    def test_that_does_not_say_where_it_lies(self, tmp_path, spacing):
        mask = any_mask(N, N)
        image = dicom(tmp_path / "a.dcm", PixelSpacing=spacing)
        np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)

    def test_without_spacing(self, tmp_path):
        mask = any_mask(N, N)
        image = dicom(tmp_path / "a.dcm", 0, SAGITTAL, PixelSpacing=None)
        np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)

    @planes
    def test_drawn_with_another_program(self, tmp_path, directions):
        mask = any_mask(N, N)
        image = dicom(tmp_path / "a.dcm", 2, directions)
        path = by_simpleitk(tmp_path / "m.nii.gz", mask, SimpleITK.ReadImage(str(image)))
        np.testing.assert_array_equal(load(path, image), mask)

    @planes
    def test_the_next_slice_is_refused(self, tmp_path, directions):
        first, second = (dicom(tmp_path / f"{k}.dcm", k, directions) for k in range(2))
        file = write_mask(tmp_path / "mask", any_mask(N, N), first, 3).path
        with pytest.raises(ValueError, match=r"s1: the mask lies up to 3.3 mm off its image: another position or"):
            load(file, second)

    def test_another_plane_is_refused(self, tmp_path):
        file = write_mask(tmp_path / "mask", any_mask(N, N), dicom(tmp_path / "a.dcm", 0, CORONAL), 3).path
        with pytest.raises(ValueError, match="s1: the mask has 1 columns x 6 rows x 6 slices, its image 6 columns x 6"):
            load(file, dicom(tmp_path / "b.dcm", 0, SAGITTAL))

    @pytest.mark.parametrize("suffix", ["png", "nii.gz"])
    def test_a_mask_that_does_not_say_where_it_lies_is_taken_as_it_is(self, tmp_path, suffix):
        mask, path = any_mask(N, N), tmp_path / f"m.{suffix}"
        if suffix == "png":
            Image.fromarray(np.ascontiguousarray(mask.T)).save(path)
        else:
            silent = nibabel.Nifti1Image(mask[:, ::-1, None], None)  # without codes nibabel takes it for L-A-S
            silent.header["pixdim"][1:4] = 0.25, 0.5, 1.0
            nibabel.save(silent, path)
        np.testing.assert_array_equal(load(path, dicom(tmp_path / "a.dcm", 0, SAGITTAL)), mask)


class TestSeries:
    @planes
    def test_there_and_back(self, tmp_path, directions):
        mask = any_mask(N, N, N)
        image = series(tmp_path / "in", directions)
        np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)
        item = {"image": str(image), "label": str(tmp_path / "mask.nii.gz"), "slice": 4}
        cut = TakeSliced("label")(LoadMaskd("label", ClinicalReader(), 3)(item))["label"]
        np.testing.assert_array_equal(cut[0], mask[..., 4])

    @planes
    def test_drawn_with_another_program(self, tmp_path, directions):
        mask = any_mask(N, N, N)
        image = series(tmp_path / "in", directions)
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(image)))
        grid = reader.Execute()
        stored, _ = ClinicalReader().get_data([image])
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(grid).T, stored[0])
        path = by_simpleitk(tmp_path / "m.nii.gz", mask, grid)
        np.testing.assert_array_equal(load(path, image), mask)

    @planes
    @pytest.mark.parametrize("places", [[2, 0, 1, 3, 5, 4], [0] * N], ids=["slices of a volume", "one place over time"])
    def test_frames_of_one_file(self, tmp_path, directions, places):
        mask = any_mask(N, N, N)
        files = [pydicom.dcmread(dicom(tmp_path / f"{k}.dcm", k, directions)) for k in places]
        ds = files[0]
        ds.NumberOfFrames, ds.PixelData = N, b"".join(file.PixelData for file in files)
        ds.PerFrameFunctionalGroupsSequence = [pydicom.Dataset() for _ in files]
        for frame, file in zip(ds.PerFrameFunctionalGroupsSequence, files, strict=True):
            frame.PlanePositionSequence = [pydicom.Dataset()]
            frame.PlanePositionSequence[0].ImagePositionPatient = file.ImagePositionPatient
        del ds.ImagePositionPatient
        ds.save_as(tmp_path / "frames.dcm")
        np.testing.assert_array_equal(there_and_back(tmp_path, tmp_path / "frames.dcm", mask), mask)

    def test_a_tilted_gantry(self, tmp_path):
        mask = any_mask(N, N, N)
        tilted = [1, 0, 0, 0, float(np.cos(0.2)), float(np.sin(0.2))]
        image = series(tmp_path / "in", tilted, axis=(0, 0, 1))
        np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)

    def test_that_does_not_say_where_it_lies(self, tmp_path):
        mask = any_mask(N, N, N)
        image = series(tmp_path / "in", None, SpacingBetweenSlices=STEP)
        np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)

    def test_a_series_moved_by_a_slice_is_refused(self, tmp_path):
        there_and_back(tmp_path, series(tmp_path / "in", SAGITTAL), any_mask(N, N, N))
        moved = tmp_path / "moved"
        for k in range(N):
            dicom(moved / f"{k}.dcm", k + 1, SAGITTAL)
        with pytest.raises(ValueError, match=r"s1: the mask lies up to 3.3 mm off its image"):
            load(tmp_path / "mask.nii.gz", moved)

    @planes
    def test_the_mask_of_one_slice_alone(self, tmp_path, directions):
        mask = any_mask(N, N)
        image = series(tmp_path / "in", directions)
        file = write_mask(tmp_path / "mask", mask, image / f"{N - 2}.dcm", 3).path
        loaded = LoadMaskd("label", ClinicalReader(), 3)({"image": image, "label": file, "slice": 2})["label"]
        np.testing.assert_array_equal(loaded[0], mask)
        assert loaded.meta["spacing"] == pytest.approx((0.25, 0.5))
        np.testing.assert_allclose(loaded.affine, np.diag([0.25, 0.5, 1, 1]))


@pytest.mark.parametrize("degrees", [0, 20, 45])
@pytest.mark.parametrize("depth", [N, 1])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "SLA"])
def test_nifti_in_other_axes(tmp_path, axes, depth, degrees):
    """Image and mask on one grid, each stored in an order of its own."""
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([*np.reshape(turned(degrees, AXIAL), (2, 3)), [0, 0, 1]]) * [0.5, 0.25, STEP]
    affine[:3, 3] = ORIGIN
    mask = any_mask(N, N, depth)
    image = nibabel.Nifti1Image(mask, affine)
    codes = nibabel.orientations.axcodes2ornt(axes)
    other = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), codes))
    nibabel.save(image, tmp_path / "image.nii.gz")
    nibabel.save(other, tmp_path / "mask.nii.gz")
    stored, _ = ClinicalReader().get_data([tmp_path / "image.nii.gz"])
    np.testing.assert_array_equal(load(tmp_path / "mask.nii.gz", tmp_path / "image.nii.gz"), stored[0])


def test_one_slice_of_a_nifti_volume_may_lie_where_the_volume_begins(tmp_path):
    """Programs that cut slices often leave them the position of the volume."""
    affine = np.diag([-0.25, -0.5, STEP, 1])
    mask = any_mask(N, N, N)
    nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / "image.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask[..., 3:4], affine), tmp_path / "mask.nii.gz")
    loaded = load(tmp_path / "mask.nii.gz", tmp_path / "image.nii.gz", slice=3)
    np.testing.assert_array_equal(loaded, mask[..., 3])


def test_a_nifti_file_of_another_slice_is_refused(tmp_path):
    for k, name in enumerate(("image", "mask")):
        affine = np.diag([-0.25, -0.5, STEP, 1])
        affine[2, 3] = k * STEP
        nibabel.save(nibabel.Nifti1Image(any_mask(N, N, 1), affine), tmp_path / f"{name}.nii.gz")
    with pytest.raises(ValueError, match=r"s1: the mask lies up to 3.3 mm off its image"):
        load(tmp_path / "mask.nii.gz", tmp_path / "image.nii.gz")


class TestPrepare:
    @pytest.mark.parametrize("alone", [True, False], ids=["folder of its own", "folder shared with another series"])
    def test_slices_of_a_sagittal_series_that_nobody_labeled(self, tmp_path, alone):
        image = series(tmp_path / "case", SAGITTAL)
        mask = np.ones((N, N, N), np.uint8)
        mask[..., 1] = 2  # of two classes
        write_mask(tmp_path / "case", mask, image, 2)
        image.rename((tmp_path / "in").resolve())
        if not alone:
            dicom(tmp_path / "in" / "other.dcm", 0, AXIAL, SeriesDescription="localizer", InstanceNumber=99)
        (tmp_path / "case.nii.gz").rename(tmp_path / "in" / "mask.nii.gz")
        named = "." if alone else "1.dcm"
        (tmp_path / "in" / "t.csv").write_text(f"image,mask\n{named},mask.nii.gz\n")
        path = prepare(tmp_path / "in", tmp_path / "out", masks="mask", classes=["a", "b"], split=(1, 0, 0))
        labeled = [item["slice"] for item in load_datalist(path) if "label" in item]
        report = json.loads((path.parent / "prepare_report.json").read_text())
        assert labeled == [0, 2, 3, 4, 5], report["noted"]
        assert report["noted"]["slice that nobody labeled"]["count"] == 1


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_the_mask_of_a_turned_photograph_is_written_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.zeros((10, 16, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    array, _ = ClinicalReader().get_data([tmp_path / "a.jpg"])
    mask = np.zeros(array.shape[1:], np.uint8)
    mask[:4, :2] = 1
    file = write_mask(tmp_path / "mask", to_file_axes(mask, tmp_path / "a.jpg"), tmp_path / "a.jpg", 2)
    with Image.open(file.path) as written:
        assert 274 not in written.getexif()
        np.testing.assert_array_equal(np.asarray(written) > 0, mask.T > 0)
    assert elsewhere_of(tmp_path / "a.jpg", file.path) is None


def elsewhere_of(image, mask):
    """What `LoadMaskd` says of a mask; None: it fits."""
    try:
        LoadMaskd("label", ClinicalReader(), 2)({"image": str(image), "label": str(mask), "id": "a"})
    except ValueError as error:
        return str(error)
    return None
