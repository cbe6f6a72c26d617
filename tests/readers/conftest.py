"""Images that the tests of readers share."""

import numpy as np
import pytest
from support_readers import patient_dicom


@pytest.fixture
def picture():
    """Eight rows, six columns: no symmetry hides a flip or a swap."""
    return np.arange(48, dtype=np.uint8).reshape(8, 6) * 3


@pytest.fixture
def series(tmp_path):
    """A folder of five oblique slices of a tilted gantry, under names in another order, and their pixels."""
    folder = tmp_path / "Secret^Susan" / "T2 sag"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 4096, (5, 8, 6)).astype(np.uint16)
    tilt = np.radians(10)
    directions = [1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))]
    for k, name in enumerate("dbeca"):
        patient_dicom(
            folder / name,
            pixels[k],
            bits=12,
            PixelSpacing=[0.5, 0.25],
            ImageOrientationPatient=directions,
            ImagePositionPatient=[-10.0, 5.0, 3.0 * k - 40],
            SeriesInstanceUID="1.2.3",
            InstanceNumber=5 - k,
            RescaleSlope=k + 1,
            RescaleIntercept=0,
        )
    return folder, pixels
