"""Masks lie where their image does, in whatever axes each is stored; others are refused."""

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image
from support_readers import (
    AXIAL,
    CORONAL,
    ORIGIN,
    SAGITTAL,
    STEP,
    N,
    any_mask,
    by_simpleitk,
    load_mask,
    mr_series,
    mr_slice,
    planes,
    there_and_back,
    turned,
)

from medssl_monai.readers import ClinicalReader
from medssl_monai.readers.mask_files import write_mask


@planes
def test_the_mask_of_a_slice_may_be_drawn_with_another_program(tmp_path, directions):
    mask = any_mask(N, N)
    image = mr_slice(tmp_path / "a.dcm", 2, directions)
    path = by_simpleitk(tmp_path / "m.nii.gz", mask, SimpleITK.ReadImage(str(image)))
    np.testing.assert_array_equal(load_mask(path, image), mask)


@planes
def test_the_mask_of_the_next_slice_is_refused(tmp_path, directions):
    first, second = (mr_slice(tmp_path / f"{k}.dcm", k, directions) for k in range(2))
    file = write_mask(tmp_path / "mask", any_mask(N, N), first, 3).path
    with pytest.raises(ValueError, match=r"s1: the mask lies up to 3.3 mm off its image: another position or"):
        load_mask(file, second)


def test_the_mask_of_another_plane_is_refused(tmp_path):
    file = write_mask(tmp_path / "mask", any_mask(N, N), mr_slice(tmp_path / "a.dcm", 0, CORONAL), 3).path
    with pytest.raises(ValueError, match="s1: the mask has 1 columns x 6 rows x 6 slices, its image 6 columns x 6"):
        load_mask(file, mr_slice(tmp_path / "b.dcm", 0, SAGITTAL))


@pytest.mark.parametrize("suffix", ["png", "nii.gz"])
def test_a_mask_that_does_not_say_where_it_lies_is_taken_as_it_is(tmp_path, suffix):
    mask, path = any_mask(N, N), tmp_path / f"m.{suffix}"
    if suffix == "png":
        Image.fromarray(np.ascontiguousarray(mask.T)).save(path)
    else:
        silent = nibabel.Nifti1Image(mask[:, ::-1, None], None)  # without codes nibabel takes it for L-A-S
        silent.header["pixdim"][1:4] = 0.25, 0.5, 1.0
        nibabel.save(silent, path)
    np.testing.assert_array_equal(load_mask(path, mr_slice(tmp_path / "a.dcm", 0, SAGITTAL)), mask)


@planes
def test_the_mask_of_a_series_may_be_drawn_with_another_program(tmp_path, directions):
    mask = any_mask(N, N, N)
    image = mr_series(tmp_path / "in", directions)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(image)))
    grid = reader.Execute()
    stored, _ = ClinicalReader().get_data([image])
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(grid).T, stored[0])
    path = by_simpleitk(tmp_path / "m.nii.gz", mask, grid)
    np.testing.assert_array_equal(load_mask(path, image), mask)


def test_the_mask_of_a_series_moved_by_a_slice_is_refused(tmp_path):
    there_and_back(tmp_path, mr_series(tmp_path / "in", SAGITTAL), any_mask(N, N, N))
    moved = tmp_path / "moved"
    for k in range(N):
        mr_slice(moved / f"{k}.dcm", k + 1, SAGITTAL)
    with pytest.raises(ValueError, match=r"s1: the mask lies up to 3.3 mm off its image"):
        load_mask(tmp_path / "mask.nii.gz", moved)


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
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.nii.gz", tmp_path / "image.nii.gz"), stored[0])


def test_one_slice_of_a_nifti_volume_may_lie_where_the_volume_begins(tmp_path):
    """Programs that cut slices often leave them the position of the volume."""
    affine = np.diag([-0.25, -0.5, STEP, 1])
    mask = any_mask(N, N, N)
    nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / "image.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask[..., 3:4], affine), tmp_path / "mask.nii.gz")
    loaded = load_mask(tmp_path / "mask.nii.gz", tmp_path / "image.nii.gz", slice=3)
    np.testing.assert_array_equal(loaded, mask[..., 3])


def test_a_nifti_file_of_another_slice_is_refused(tmp_path):
    for k, name in enumerate(("image", "mask")):
        affine = np.diag([-0.25, -0.5, STEP, 1])
        affine[2, 3] = k * STEP
        nibabel.save(nibabel.Nifti1Image(any_mask(N, N, 1), affine), tmp_path / f"{name}.nii.gz")
    with pytest.raises(ValueError, match=r"s1: the mask lies up to 3.3 mm off its image"):
        load_mask(tmp_path / "mask.nii.gz", tmp_path / "image.nii.gz")
