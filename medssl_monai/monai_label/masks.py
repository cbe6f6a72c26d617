"""Masks as viewers hand them over, made to fit the classes and the grid of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import optional_import

from medssl_monai.data import LoadMaskd
from medssl_monai.data.load_mask import mask_reader
from medssl_monai.monai_label.files import NRRD
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.grids import Array
from medssl_monai.readers.mask_axes import in_patient
from medssl_monai.readers.reader import ClinicalReader

nib, _ = optional_import("nibabel")  # its functions are untyped

NOT_LABELED = "not labeled"
"""Name of a segment whose voxels nobody labeled; its index is the first that is no class."""


def settle_mask(
    file: Path, image: str | Path, classes: Sequence[str], names: Sequence[Mapping[str, Any]], folder: Path
) -> Path:
    """Return a mask whose values are the indices of `classes`, in a format that training reads.

    It is refused if it does not fit.

    3D Slicer numbers the segments of a scene, and says beside the file which number is which name; it may crop the
    file to where segments are. A file in NRRD becomes NIfTI, one that is cropped or whose numbers differ from the
    classes is written anew; else it stays as it is.

    Args:
        file: as it came: NIfTI, NRRD (with layers, if Slicer wrote ``.seg.nrrd``), PNG.
        image: path of the image that it belongs to.
        classes: names of the classes in a mask, background first.
        names: ``name`` and ``idx`` of every segment, as viewers send it (``label_info``); without, numbers are indices.
        folder: for a new file.

    Returns:
        `file`, or a new one.

    Raises:
        ValueError: if the file cannot be read, a segment is none of the classes, segments overlap, or the mask does
            not lie on the grid of its image.
    """
    result = file
    if file.name.lower().endswith(NRRD):
        result, names = _from_nrrd(file, names, folder)
    if (table := _table(names, classes)) is not None:
        result = _renumbered(result, table, folder)
    result = _uncropped(result, Path(image), folder)
    LoadMaskd("label", ClinicalReader(), len(classes))({"image": str(image), "label": str(result), "id": "this image"})
    return result


def _table(names: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[int, int] | None:
    """Map the number in the file to index of the class; None if they are the same."""
    entries = isinstance(names, (list, tuple)) and all(isinstance(entry, Mapping) for entry in names)
    if not entries or not all(type(entry.get("idx", 0)) is int for entry in names):
        raise ValueError('`label_info` must be a list of segments, each such as {"name": "lesion", "idx": 1}.')
    known = {name.lower(): index for index, name in enumerate([*classes, NOT_LABELED])}
    given = [
        (str(entry["name"]), entry.get("idx", place + 1)) for place, entry in enumerate(names) if entry.get("name")
    ]
    if unknown := [name for name, _ in given if name.lower() not in known]:
        raise ValueError(
            f"the segment {unknown[0]!r} is none of the classes {list(classes)}; rename or remove it in the viewer."
        )
    table = {number: known[name.lower()] for name, number in given}
    return None if all(number == index for number, index in table.items()) else table


def _renumbered(file: Path, table: Mapping[int, int], folder: Path) -> Path:
    if image_format(file) != "NIfTI":
        raise ValueError(
            f"the segments are numbered {dict(table)}, and only NIfTI and NRRD can be renumbered; use .nii.gz."
        )
    try:
        source = nib.load(file)
        mask = np.asanyarray(source.dataobj)
    except Exception:  # nibabel and gzip fail in any way
        raise ValueError("the file cannot be read as NIfTI; save it anew.") from None
    if unknown := [f"{value:g}" for value in np.unique(mask) if value != 0 and value not in table]:
        raise ValueError(f"the mask holds {', '.join(unknown[:5])}, and the viewer named the numbers {sorted(table)}.")
    numbers = np.zeros(mask.shape, np.uint8)
    for number, index in table.items():
        numbers[mask == number] = index
    result = folder / "renumbered.nii.gz"
    header = source.header.copy()
    header.set_data_dtype(np.uint8)
    header["scl_slope"], header["scl_inter"] = 1, 0
    nib.save(nib.Nifti1Image(numbers, source.affine, header), result)
    return result


def _uncropped(file: Path, image: Path, folder: Path) -> Path:
    """Return the mask on the whole grid of its image, if it is a part of that; else as it is."""
    try:
        (mask, meta), (pixels, grid) = mask_reader().get_data([file]), ClinicalReader().get_data([image])
    except ValueError:
        return file
    here, wanted = in_patient(file, meta), in_patient(image, grid)
    if here is None or wanted is None or mask.shape[1:] == pixels.shape[1:] or len(mask) > 1:
        return file
    size, room = ((*array.shape[1:], 1)[:3] for array in (mask, pixels))
    ends = (
        np.linalg.inv(here) @ wanted @ [*([0, side - 1] for side in room), [1, 1]]
    )  # of the image, in the mask's axes
    low, high = np.sort(ends[:3]).round().astype(int).T
    around = np.column_stack([-low, high + 1 - size])
    if sorted(high + 1 - low) != sorted(room) or around.min() < 0:
        return file
    here = here @ np.block([[np.eye(3), low[:, None]], [np.eye(4)[3:]]])
    result = folder / "placed.nii.gz"
    nib.save(nib.Nifti1Image(np.pad(mask.reshape(size), around), here, dtype=mask.dtype), result)
    return result


def _from_nrrd(
    file: Path, names: Sequence[Mapping[str, Any]], folder: Path
) -> tuple[Path, Sequence[Mapping[str, Any]]]:
    """Return the file as NIfTI, and the segments that it names itself, if it does; layers become one."""
    import SimpleITK as sitk  # noqa: N813

    try:
        image: Any = sitk.ReadImage(str(file))
    except RuntimeError:
        raise ValueError("the file cannot be read as NRRD; save it anew, or as .nii.gz.") from None
    tags = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.startswith("Segment")}
    mask, count = sitk.GetArrayFromImage(image), image.GetNumberOfComponentsPerPixel()
    try:
        segments = [
            {
                "name": tags[f"Segment{n}_Name"],
                "idx": int(tags.get(f"Segment{n}_LabelValue", 1)),  # an old file says neither: each has a layer of ones
                "layer": int(tags.get(f"Segment{n}_Layer", n)),
            }
            for n in range(len(tags))
            if f"Segment{n}_Name" in tags
        ]
    except ValueError:
        raise ValueError("the file numbers its segments or layers by something else; save it anew.") from None
    if lost := [segment["layer"] for segment in segments if count > 1 and not 0 <= segment["layer"] < count]:
        raise ValueError(f"the file names the layer {lost[0]}, and has {count}; save it anew.")
    if count > 1 and not segments:
        raise ValueError(f"the file has {count} components and names no segments; save a labelmap.")
    if count > 1:
        mask = _one_layer(mask, segments)
        segments = [{"name": segment["name"], "idx": place + 1} for place, segment in enumerate(segments)]
    out: Any = sitk.GetImageFromArray(mask)
    out.CopyInformation(image)
    result = folder / "mask.nii.gz"
    sitk.WriteImage(out, str(result))
    return result, segments or names


def _one_layer(layers: Array, segments: Sequence[Mapping[str, Any]]) -> Array:
    """Return layers ``(z, y, x, L)`` as one mask, in which segment n is n + 1."""
    flat = np.zeros(layers.shape[:-1], np.int16)
    for place, segment in enumerate(segments):
        inside = layers[..., segment["layer"]] == segment["idx"]
        if (overlap := int((flat[inside] > 0).sum())) > 0:
            raise ValueError(f"segments overlap in {overlap} voxels, and a voxel can be of one class; separate them.")
        flat[inside] = place + 1
    if lost := int(((layers != 0).any(-1) & (flat == 0)).sum()):
        raise ValueError(f"{lost} voxels are of no segment that the file names; save it anew.")
    return flat
