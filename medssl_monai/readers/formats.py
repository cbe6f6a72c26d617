"""The format of a file, and what is done with it by its format."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medssl_monai.readers.refusals import RefusedError, UnreadableImageError

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".dcm": "DICOM", ".dicom": "DICOM", ".ima": "DICOM"}
MEND = "mend its path in the datalist, or set `dataset_dir`"
BARE_DICOM = re.compile(rb"[\x02\x08]\x00.\x00(UL|CS|UI|DA|LO|SH|PN)|[\x02\x08]\x00\x00\x00\x04\x00\x00\x00", re.DOTALL)
"""Start of a DICOM file without preamble: an element of the first groups with its type, or the length of a group."""


def image_format(path: Path) -> str | None:
    """Return ``"PNG"``, ``"JPEG"``, ``"NIfTI"``, ``"DICOM"`` or None, by content, or by suffix where that says nothing.

    A folder is DICOM if a file directly in it is.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it is a device or a pipe.
    """
    if path.is_dir():
        inside = (file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return "DICOM" if any(image_format(file) == "DICOM" for file in inside) else None
    if not path.is_file():
        if path.exists():
            raise UnreadableImageError(path, "is neither a file nor a folder; take it away.")
        raise FileNotFoundError(f"there is no file {path}; {MEND}.")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return "NIfTI"
    with path.open("rb") as file:
        head = file.read(132)
    if head.startswith(b"\x89PNG"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[128:] == b"DICM" or BARE_DICOM.match(head) or is_bare_preamble(path):
        return "DICOM"
    return SUFFIXES.get(path.suffix.lower())


def is_bare_preamble(path: Path) -> bool:
    """Tell whether a file without a suffix holds but the zeros that a DICOM file begins with: the rest is lost."""
    if path.suffix or not 0 < path.stat().st_size < 132:
        return False
    return not path.read_bytes()[:128].strip(b"\0")


def by_format(path: Path, functions: Mapping[str, Callable[[Path], Any]]) -> Any:
    """Call the function for the format of a file, and say of any failure which file it was and how to mend it.

    Args:
        path: of a file, or of the folder of one DICOM series.
        functions: by format.

    Returns:
        What the function returns.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it is of another format, or the function fails.
    """
    kind = image_format(path)
    if kind is None:
        raise UnreadableImageError(
            path, "is neither PNG, JPEG, NIfTI nor DICOM; convert it, or take it out of the datalist."
        )
    try:
        return functions[kind](path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}; {MEND}.") from None
    except UnreadableImageError:  # of a file in the folder
        raise
    except RefusedError as error:
        raise UnreadableImageError(path, f"cannot be read as {kind}: {error}.") from None
    except Exception as error:  # decoders fail in any way; whoever reads the message needs the file, not the stack
        text = str(error).replace(str(path.resolve()), "the file").replace(str(path), "the file")
        text = " ".join(text.split())[:300]
        raise UnreadableImageError(
            path,
            f"cannot be read as {kind} ({type(error).__name__}: {text}). If it is cut short or damaged, copy it anew "
            "from its source; else take it out of the datalist.",
        ) from None
