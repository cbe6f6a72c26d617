"""DICOM files made up for tests."""

import numpy as np
from pydicom.uid import MRImageStorage, generate_uid
from support import save_dicom

AXIAL = [1, 0, 0, 0, 1, 0]


def mr(path, value, z=None, series="1.2.3.1", instance=None, patient="P1", **elements):
    """A slice of one grey value at `z` mm; None: an image that does not say where it lies."""
    place = {} if z is None else {"ImagePositionPatient": [0, 0, z], "ImageOrientationPatient": AXIAL}
    uids = {"SOPInstanceUID": instance or generate_uid(), "SeriesInstanceUID": series, "StudyInstanceUID": "1.2.3"}
    kind = MRImageStorage if z is not None else "1.2.840.10008.5.1.4.1.1.1.1"
    path.parent.mkdir(parents=True, exist_ok=True)
    all_elements = {"SOPClassUID": kind, "PatientID": patient, "PixelSpacing": [1, 1], **uids, **place, **elements}
    return save_dicom(path, np.full((4, 6), value, np.uint16), "MONOCHROME2", **all_elements)
