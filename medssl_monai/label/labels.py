"""Labels as clients and viewers hand them over: a JSON file for classes, an image file for masks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from monai.utils import optional_import

from medssl_monai.data.dicom import Array
from medssl_monai.data.pool import NOTHING, Label, parse_label
from medssl_monai.data.reader import ClinicalReader, image_format
from medssl_monai.task import UNKNOWN, Task
from medssl_monai.transforms import LoadMaskd

nib, _ = optional_import("nibabel")  # its functions are untyped

Kind = Literal["class", "mask"]
NRRD = (".nrrd", ".seg.nrrd")


def kind_of(file: str | Path) -> Kind:
    """What a label file holds: JSON a class or findings, everything else a mask."""
    return "class" if str(file).lower().endswith(".json") else "mask"


def read_class(file: str | Path, classes: Sequence[str], task: Task | None = None) -> Label:
    """The class index or multi-hot list in a JSON file.

    The file is an object whose ``label`` is the name of the class or its index; or, for findings, a list of the names
    that are there (all others are absent), an object of names and ``true``, ``false`` or ``null`` for unknown, or a
    text as `medssl_monai.data.pool.read_annotations` takes it (``effusion; ?mass``, ``none``).

    Args:
        file: to read.
        classes: names of the classes or findings, in the order of their index.
        task: ``multiclass`` or ``multilabel``; None: as the file has it.

    Raises:
        ValueError: if it says none of these; the message names what is accepted.
    """
    wanted = f"one of {list(classes)}" if task != "multilabel" else f"a list out of {list(classes)}"
    example = json.dumps({"label": classes[0] if task != "multilabel" else [classes[0]]})
    how = f"a label is a JSON object such as {example}"
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"the file is no JSON; {how}.") from None
    if not isinstance(content, Mapping) or "label" not in content:
        raise ValueError(f"the file has no 'label'; {how}.")
    label = _findings(content["label"], classes) if task == "multilabel" else content["label"]
    if task is None and isinstance(label, list | dict):
        label = _findings(label, classes)
    elif task != "multilabel" and isinstance(label, str):
        label = parse_label(label, classes)
    if isinstance(label, list) and task != "multiclass" and any(value != UNKNOWN for value in label):
        return label
    if type(label) is int and task != "multilabel" and 0 <= label < len(classes):
        return label
    raise ValueError(f"the label is {content['label']!r}, and must be {wanted}; {how}.")


def _findings(value: Any, classes: Sequence[str]) -> list[int] | None:
    """A multi-hot list; None if `value` says none."""
    if isinstance(value, str):
        parsed = parse_label(value, classes, "multilabel")
        return parsed if isinstance(parsed, list) else None
    if isinstance(value, list) and len(value) == len(classes) and all(type(v) is int for v in value):
        return value if set(value) <= {-1, 0, 1} else None
    if isinstance(value, list):
        value = {**dict.fromkeys(classes, False), **{str(name): True for name in value if name != NOTHING}}
    if not isinstance(value, Mapping) or not set(value) <= set(classes):
        return None
    marks = {None: UNKNOWN, True: 1, False: 0}  # 1 and 0 are True and False
    states = [value.get(name) for name in classes]
    return [marks[state] for state in states] if set(states) <= {None, True, False} else None


def settle_mask(
    file: Path, image: str | Path, classes: Sequence[str], names: Sequence[Mapping[str, Any]], folder: Path
) -> Path:
    """A mask whose values are the indices of `classes`, in a format that training reads; refused if it does not fit.

    3D Slicer numbers the segments of a scene, and says beside the file which number is which name. A file in NRRD
    becomes NIfTI, one whose numbers differ from the classes is written anew; else it stays as it is.

    Args:
        file: as it came: NIfTI, NRRD (with layers, if Slicer wrote ``.seg.nrrd``), PNG.
        image: path of the image that it belongs to.
        classes: names of the classes in a mask, background first.
        names: ``name`` and ``idx`` of every segment, as viewers send it (``label_info``); without, numbers are indices.
        folder: for a new file.

    Returns:
        `file`, or a new one.

    Raises:
        ValueError: if a segment is none of the classes, or the mask does not lie on the grid of its image.
    """
    result = file
    if file.name.lower().endswith(NRRD):
        result, names = _from_nrrd(file, names, folder)
    if (table := _table(names, classes)) is not None:
        result = _renumbered(result, table, folder)
    LoadMaskd("label", ClinicalReader(), len(classes))({"image": str(image), "label": str(result), "id": "this image"})
    return result


def _table(names: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[int, int] | None:
    """Number in the file to index of the class; None if they are the same."""
    known = {name.lower(): index for index, name in enumerate(classes)}
    told = [(str(entry["name"]), entry.get("idx", place + 1)) for place, entry in enumerate(names) if entry.get("name")]
    if unknown := [name for name, _ in told if name.lower() not in known]:
        raise ValueError(f"the segment {unknown[0]!r} is none of the classes {list(classes)}; rename it in the viewer.")
    table = {int(number): known[name.lower()] for name, number in told}
    return None if all(number == index for number, index in table.items()) else table


def _renumbered(file: Path, table: Mapping[int, int], folder: Path) -> Path:
    if image_format(file) != "NIfTI":
        raise ValueError(
            f"the segments are numbered {dict(table)}, and only NIfTI and NRRD can be renumbered; use .nii.gz."
        )
    source = nib.load(file)
    mask = np.asanyarray(source.dataobj)
    if unknown := sorted({int(value) for value in np.unique(mask)} - {0} - table.keys()):
        raise ValueError(f"the mask holds {unknown[:5]}, and the viewer named the numbers {sorted(table)}.")
    numbers = np.zeros(mask.shape, np.uint8)
    for number, index in table.items():
        numbers[mask == number] = index
    result = folder / "renumbered.nii.gz"
    header = source.header.copy()
    header.set_data_dtype(np.uint8)
    header["scl_slope"], header["scl_inter"] = 1, 0
    nib.save(nib.Nifti1Image(numbers, source.affine, header), result)
    return result


def _from_nrrd(
    file: Path, names: Sequence[Mapping[str, Any]], folder: Path
) -> tuple[Path, Sequence[Mapping[str, Any]]]:
    """The file as NIfTI, and the segments that it names itself, if it does; layers become one."""
    import SimpleITK as sitk  # noqa: N813

    image: Any = sitk.ReadImage(str(file))
    keys = set(image.GetMetaDataKeys())
    own = [
        {
            "name": image.GetMetaData(f"Segment{n}_Name"),
            "idx": int(image.GetMetaData(f"Segment{n}_LabelValue")) if f"Segment{n}_LabelValue" in keys else n + 1,
            "layer": int(image.GetMetaData(f"Segment{n}_Layer")) if f"Segment{n}_Layer" in keys else 0,
        }
        for n in range(len(keys))
        if f"Segment{n}_Name" in keys
    ]
    layers = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        layers = layers[..., None]
    if len(own) and layers.shape[-1] > 1:
        flat = _one_layer(layers, own)
        own = [{"name": segment["name"], "idx": place + 1} for place, segment in enumerate(own)]
    elif layers.shape[-1] == 1:
        flat = layers[..., 0]
    else:
        raise ValueError(f"the file has {layers.shape[-1]} components and names no segments; save a labelmap.")
    out: Any = sitk.GetImageFromArray(flat.astype(np.int16))
    out.CopyInformation(image)
    result = folder / "mask.nii.gz"
    sitk.WriteImage(out, str(result))
    return result, own or names


def _one_layer(layers: Array, segments: Sequence[Mapping[str, Any]]) -> Array:
    flat = np.zeros(layers.shape[:-1], np.int16)
    for place, segment in enumerate(segments):
        inside = layers[..., segment["layer"]] == segment["idx"]
        if (overlap := int((flat[inside] > 0).sum())) > 0:
            raise ValueError(f"segments overlap in {overlap} voxels, and a voxel can be of one class; separate them.")
        flat[inside] = place + 1
    return flat
