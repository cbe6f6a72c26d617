"""Identifiers of a DICOM file, by which tables and datalists may name it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pydicom

from medssl_monai.files import sha256


def instance_uid(path: Path) -> str:
    """Return the SOPInstanceUID of a file, or the SHA-256 of its content where it has none."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=["SOPInstanceUID"])
            uid = str(ds.get("SOPInstanceUID") or "")
        except Exception:  # whatever pydicom makes of garbage
            uid = ""
    return uid or sha256(path)


def identifiers(path: Path) -> dict[str, str]:
    """Return what may name a file in a hospital's tables: PatientID, and the UIDs of study, series and instance."""
    names = ["PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=names)
            return {name: str(ds.get(name)) for name in names if ds.get(name)}
        except Exception:  # whatever pydicom makes of garbage
            return {}
