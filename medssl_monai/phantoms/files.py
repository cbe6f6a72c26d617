"""Files as a clinic has them, marked SYNTHETIC."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl_monai.phantoms.base import VERSION, Array
from medssl_monai.png import save_png

REMARK = "SYNTHETIC, not a patient"


def write_photograph(path: Path, pixels: Array) -> None:
    """Write a colour picture, ``(rows, columns, 3)``; the name says whether as PNG or JPEG."""
    if path.suffix == ".png":
        save_png(path, pixels, REMARK, compress_level=1)  # noise is large however long one tries
    else:
        from PIL import Image

        Image.fromarray(pixels).save(path, quality=92, subsampling=0, comment=REMARK.encode())


def write_dicom(
    path: Path,
    pixels: Array,
    modality: str,
    photometric: str,
    header: Mapping[str, Any],
    name: str,
    study: str,
) -> None:
    """Write a 12-bit image, ``(rows, columns)``, of patient `name`; identifiers follow from name, study and number."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    sop_class = {
        "CR": "1.2.840.10008.5.1.4.1.1.1",
        "DX": "1.2.840.10008.5.1.4.1.1.1.1",
        "MR": "1.2.840.10008.5.1.4.1.1.4",
    }[modality]
    key = ["medssl_monai phantom", str(VERSION), study, name]
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # is put right when written
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[*key, "image", str(header["InstanceNumber"])])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = generate_uid(entropy_srcs=key[:1])
    # Preamble and encoding given here make versions 2 and 3 of pydicom write the same valid file.
    dataset = FileDataset(
        str(path), {}, preamble=b"\0" * 128, file_meta=meta, is_implicit_VR=False, is_little_endian=True
    )
    content: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": sop_class,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": generate_uid(entropy_srcs=[*key, "study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[*key, "series", header["SeriesDescription"]]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[*key, "frame"]),
        "StudyDate": "20000101",
        "StudyTime": "120000",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "StudyID": "1",
        "SeriesNumber": 1,
        "Modality": modality,
        "Manufacturer": "SYNTHETIC",
        "PatientName": f"SYNTHETIC^{name}",
        "PatientID": name,
        "PatientBirthDate": "",
        "PatientSex": "O",
        "ImageComments": REMARK,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": photometric,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        **header,
    }
    for keyword, value in content.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(str(path))
