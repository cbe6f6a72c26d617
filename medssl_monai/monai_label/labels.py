"""Labels as clients and viewers hand them over: a JSON file for classes, an image file for masks."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from monai.utils import optional_import
from PIL import Image

from medssl_monai.names import NOTHING, find, fold
from medssl_monai.pool.pool import Label
from medssl_monai.pool.tables import parse_label
from medssl_monai.readers import LoadMaskd
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.grids import Array
from medssl_monai.readers.load_mask import mask_reader
from medssl_monai.readers.mask_axes import in_patient
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.task import UNKNOWN, Task

nib, _ = optional_import("nibabel")  # its functions are untyped

Kind = Literal["class", "mask"]
NRRD = (".nrrd", ".seg.nrrd")
CLASS_BYTES = 2**20
"""The most that the JSON of a label may take."""
NOT_LABELED = "not labeled"
"""Name of a segment whose voxels nobody labeled; its index is the first that is no class."""


def kind_of(file: str | Path) -> Kind:
    """What a label file holds: JSON a class or findings, everything else a mask."""
    return "class" if str(file).lower().endswith(".json") else "mask"


class TooLargeError(ValueError):
    """A label that is not read."""


def check_size(file: Path, most: int) -> None:
    """Refuse a label by its size, and by that of the pixels that its header announces, before it is decoded.

    Args:
        file: as it came.
        most: megabytes (MiB); of classes, `CLASS_BYTES` are the most in any case.

    Raises:
        TooLargeError: with what raises the bound.
    """
    size, bound = file.stat().st_size, most * 2**20
    if kind_of(file) == "class":
        if size > CLASS_BYTES:
            raise TooLargeError(f"the label has {size:,} bytes, and classes take {CLASS_BYTES:,} at most.")
        return
    size = max(size, _announced(file) if size <= bound else 0)
    if size > bound:
        raise TooLargeError(
            f"the label takes {math.ceil(size / 2**20):,} MB, and this server reads {most:,}; if this is meant, start "
            f"it with `--conf label_mb {math.ceil(size / 2**20)}`."
        )


def _announced(file: Path) -> int:
    """Bytes of the pixels by the header alone; 0 where that cannot be read, as who decodes the file will say."""
    try:
        if file.name.lower().endswith(NRRD):
            return _announced_by_nrrd(file)
        if file.name.lower().endswith((".nii", ".nii.gz")):
            image = nib.load(file)
            return math.prod(max(int(side), 0) for side in image.shape) * int(image.get_data_dtype().itemsize)
        with Image.open(file) as picture:
            return math.prod(picture.size) * len(picture.getbands())
    except Image.DecompressionBombError:
        return sys.maxsize
    except Exception:  # of any kind
        return 0


def _announced_by_nrrd(file: Path) -> int:
    """Axes of components are among the sizes; eight bytes a value are the most."""
    with file.open("rb") as stream:
        head = stream.read(2**16).partition(b"\n\n")[0].decode("latin-1")
    fields = dict(re.findall(r"^(sizes|type): *(.+?) *$", head, re.MULTILINE))
    small = re.search(r"char|int8|(?<!\d)8", fields.get("type", ""))
    return math.prod(int(side) for side in fields["sizes"].split()) * (1 if small else 8)


def read_class(file: str | Path, classes: Sequence[str], task: Task | None = None) -> Label:
    """The class index or multi-hot list in a JSON file.

    The file is an object whose ``label`` is the name of the class or its index; or, for findings, a list of the names
    that are there (all others are absent), an object of names and ``true``, ``false`` or ``null`` for unknown, or a
    text as `medssl_monai.pool.tables.parse_label` takes it (``effusion; ?mass``, ``none``).

    Args:
        file: to read.
        classes: names of the classes or findings, in the order of their index.
        task: ``multiclass`` or ``multilabel``; None: as the file has it, where a name alone is a class.

    Raises:
        ValueError: if it says none of these; the message names what is accepted.
    """
    wanted = f"one of {list(classes)}" if task != "multilabel" else f"a list out of {list(classes)}"
    example = json.dumps({"label": classes[0] if task != "multilabel" else [classes[0]]})
    how = f"a label is a JSON object such as {example}"
    try:
        content = json.loads(_text(Path(file)), object_pairs_hook=_object)
    except TooLargeError:
        raise
    except _TwiceError as error:
        raise ValueError(f"the file has {error.args[0]!r} twice; {how}.") from None
    except (ValueError, RecursionError):
        raise ValueError(f"the file is no JSON; {how}.") from None
    if not isinstance(content, Mapping) or "label" not in content:
        raise ValueError(f"the file has no 'label'; {how}.")
    label = content["label"]
    if task != "multilabel" and isinstance(label, str):
        label = parse_label(label, classes)
    if task == "multilabel" or (task is None and not isinstance(label, int)):
        label = _findings(label, classes)
    if isinstance(label, list) and task != "multiclass" and any(value != UNKNOWN for value in label):
        return label
    if type(label) is int and task != "multilabel" and 0 <= label < len(classes):
        return label
    raise ValueError(f"the label is {content['label']!r}, and must be {wanted}; {how}.")


class _TwiceError(Exception):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(key)
        found[key] = value
    return found


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        content = stream.read(CLASS_BYTES + 1)
    if len(content) > CLASS_BYTES:
        raise TooLargeError(f"the file has more than the {CLASS_BYTES:,} bytes that a class or findings take.")
    return content.decode("utf-8")


def _findings(value: Any, classes: Sequence[str]) -> list[int] | None:
    """A multi-hot list; None if `value` says none."""
    if isinstance(value, str):
        value = parse_label(value, classes, "multilabel")
    if isinstance(value, list) and value and all(type(state) is int for state in value):
        return value if len(value) == len(classes) and set(value) <= {-1, 0, 1} else None
    if isinstance(value, list):
        if not all(isinstance(name, str) for name in value):
            return None
        present = [] if [fold(name) for name in value] == [NOTHING] else value
        value = {**dict.fromkeys(classes, False), **{find(name, classes) or name: True for name in present}}
    if not isinstance(value, Mapping):
        return None
    named = {find(name, classes) or name: state for name, state in value.items()}
    if len(named) < len(value) or not named.keys() <= set(classes):
        return None
    states = [named.get(name) for name in classes]
    if not all(state is None or (isinstance(state, int) and -1 <= state <= 1) for state in states):
        return None
    return [UNKNOWN if state is None else int(state) for state in states]


def settle_mask(
    file: Path, image: str | Path, classes: Sequence[str], names: Sequence[Mapping[str, Any]], folder: Path
) -> Path:
    """A mask whose values are the indices of `classes`, in a format that training reads; refused if it does not fit.

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
    """Number in the file to index of the class; None if they are the same."""
    entries = isinstance(names, (list, tuple)) and all(isinstance(entry, Mapping) for entry in names)
    if not entries or not all(type(entry.get("idx", 0)) is int for entry in names):
        raise ValueError('`label_info` must be a list of segments, each such as {"name": "lesion", "idx": 1}.')
    known = {name.lower(): index for index, name in enumerate([*classes, NOT_LABELED])}
    told = [(str(entry["name"]), entry.get("idx", place + 1)) for place, entry in enumerate(names) if entry.get("name")]
    if unknown := [name for name, _ in told if name.lower() not in known]:
        raise ValueError(
            f"the segment {unknown[0]!r} is none of the classes {list(classes)}; rename or remove it in the viewer."
        )
    table = {number: known[name.lower()] for name, number in told}
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
    """The mask on the whole grid of its image, if it is a part of that; else as it is, for `LoadMaskd` to judge."""
    try:
        (mask, meta), (pixels, grid) = mask_reader().get_data([file]), ClinicalReader().get_data([image])
    except ValueError:
        return file
    own, wanted = in_patient(file, meta), in_patient(image, grid)
    if own is None or wanted is None or mask.shape[1:] == pixels.shape[1:] or len(mask) > 1:
        return file
    size, room = ((*array.shape[1:], 1)[:3] for array in (mask, pixels))
    ends = np.linalg.inv(own) @ wanted @ [*([0, side - 1] for side in room), [1, 1]]  # of the image, in the mask's axes
    low, high = np.sort(ends[:3]).round().astype(int).T
    around = np.column_stack([-low, high + 1 - size])
    if sorted(high + 1 - low) != sorted(room) or around.min() < 0:
        return file
    own = own @ np.block([[np.eye(3), low[:, None]], [np.eye(4)[3:]]])
    result = folder / "placed.nii.gz"
    nib.save(nib.Nifti1Image(np.pad(mask.reshape(size), around), own, dtype=mask.dtype), result)
    return result


def _from_nrrd(
    file: Path, names: Sequence[Mapping[str, Any]], folder: Path
) -> tuple[Path, Sequence[Mapping[str, Any]]]:
    """The file as NIfTI, and the segments that it names itself, if it does; layers become one."""
    import SimpleITK as sitk  # noqa: N813

    try:
        image: Any = sitk.ReadImage(str(file))
    except RuntimeError:
        raise ValueError("the file cannot be read as NRRD; save it anew, or as .nii.gz.") from None
    tags = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.startswith("Segment")}
    mask, count = sitk.GetArrayFromImage(image), image.GetNumberOfComponentsPerPixel()
    try:
        own = [
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
    if lost := [segment["layer"] for segment in own if count > 1 and not 0 <= segment["layer"] < count]:
        raise ValueError(f"the file names the layer {lost[0]}, and has {count}; save it anew.")
    if count > 1 and not own:
        raise ValueError(f"the file has {count} components and names no segments; save a labelmap.")
    if count > 1:
        mask = _one_layer(mask, own)
        own = [{"name": segment["name"], "idx": place + 1} for place, segment in enumerate(own)]
    out: Any = sitk.GetImageFromArray(mask)
    out.CopyInformation(image)
    result = folder / "mask.nii.gz"
    sitk.WriteImage(out, str(result))
    return result, own or names


def _one_layer(layers: Array, segments: Sequence[Mapping[str, Any]]) -> Array:
    """Layers ``(z, y, x, L)`` as one mask, in which segment n is n + 1."""
    flat = np.zeros(layers.shape[:-1], np.int16)
    for place, segment in enumerate(segments):
        inside = layers[..., segment["layer"]] == segment["idx"]
        if (overlap := int((flat[inside] > 0).sum())) > 0:
            raise ValueError(f"segments overlap in {overlap} voxels, and a voxel can be of one class; separate them.")
        flat[inside] = place + 1
    if lost := int(((layers != 0).any(-1) & (flat == 0)).sum()):
        raise ValueError(f"{lost} voxels are of no segment that the file names; save it anew.")
    return flat
