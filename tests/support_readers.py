"""Files and readers that the tests of readers share."""

import random

import numpy as np
import pytest
import SimpleITK
from monai.transforms import LoadImaged
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from support import save_dicom

from medssl_monai.data import LoadMaskd
from medssl_monai.phantoms.files import write_dicom
from medssl_monai.readers import ClinicalReader
from medssl_monai.readers.dicom.series import find_series
from medssl_monai.readers.mask_files import write_mask

AXIAL, SAGITTAL, CORONAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]
DIGITAL_XRAY = "1.2.840.10008.5.1.4.1.1.1.1"
STUDY, SERIES = generate_uid(), generate_uid()


def load_image(path, **options):
    loader = LoadImaged("image", reader=ClinicalReader(**options), image_only=True, ensure_channel_first=True)
    return loader({"image": str(path)})["image"]


def itk_pixels(path):
    """Pixels by an independent reader, as (C, x, y, z)."""
    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(float)
    return array.reshape(*array.shape[:3], -1).transpose(3, 2, 1, 0)


def itk_affine(image):
    """To RAS, of an image of SimpleITK."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


def patient_dicom(path, pixels, photometric="MONOCHROME2", bits=None, **elements):
    """Write `pixels` (rows, columns) or (frames, rows, columns) as a DICOM file with a patient in it."""
    person = {"PatientName": "Secret^Susan", "PatientID": "4711", "PatientBirthDate": "19600101"}
    uids = {"SOPClassUID": CTImageStorage, "SOPInstanceUID": generate_uid()}
    return save_dicom(path, pixels, photometric, bits, **person, **uids, **elements)


def write_slice(path, pixels=None, kind=MRImageStorage, **elements):
    """One tiny image of a person, with `elements`; None leaves one out."""
    values = {
        "SOPClassUID": kind,
        "SOPInstanceUID": generate_uid(),
        "PatientName": "Secret^Susan",
        "PatientID": "4711",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "PixelSpacing": [0.5, 0.25],
        **elements,
    }
    pixels = np.zeros((4, 3), np.uint8) if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {name: value for name, value in values.items() if value is not None}
    return save_dicom(path, pixels, "MONOCHROME2", **given)


def write_stack(folder, places, directions=AXIAL, axis=(0, 0, 1), **elements):
    """Slices at `places` (mm) along `axis`, under names that say nothing; in the order of `places`."""
    files = []
    for k, place in enumerate(places):
        position = (np.multiply(axis, place) + np.array([10, 20, 0])).tolist()
        name = f"IM{random.Random(k).getrandbits(32):010d}"
        each = {"ImagePositionPatient": position, "ImageOrientationPatient": directions, "InstanceNumber": k + 1}
        files.append(write_slice(folder / name, **{**each, **elements}))
    return files


def only_series(files):
    found, unusable = find_series(files)
    assert not unusable
    assert len(found) == 1
    return found[0]


N, STEP = 6, 3.3  # columns, rows and slices: equal, so that no shape tells axes apart; mm between slices
ORIGIN = np.array([-40.0, 12.5, 7.0])


def turned(degrees, directions):
    """About the axis from foot to head."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.round(np.reshape(directions, (2, 3)) @ [[c, s, 0], [-s, c, 0], [0, 0, 1]], 9).ravel().tolist()


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


def mr_slice(path, k=0, directions=None, axis=None, **header):
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


def mr_series(folder, directions, **header):
    for k in range(N):
        mr_slice(folder / f"{N - k}.dcm", k, directions, **header)
    return folder


def any_mask(*shape):
    return np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)


def load_mask(mask, image, **more):
    item = {"image": str(image), "label": str(mask), "id": "s1", **more}
    return LoadMaskd("label", ClinicalReader(), 3)(item)["label"][0].numpy()


def there_and_back(tmp_path, image, mask):
    return load_mask(write_mask(tmp_path / "mask", mask, image, 3).path, image)


def by_simpleitk(path, mask, image):
    """As 3D Slicer does: on the grid of the image as ITK reads it."""
    label = SimpleITK.GetImageFromArray(mask.T if mask.ndim == 3 else mask.T[None])
    label.CopyInformation(image)
    SimpleITK.WriteImage(label, str(path))
    return path
