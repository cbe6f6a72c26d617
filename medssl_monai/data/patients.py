"""Spellings of one patient, however a spreadsheet, a person or a scanner wrote the name or number.

Cells are texts and never numbers: ``1.10`` is not ``1.1``, ``1E5`` not ``100000``, and twenty digits stay twenty. Only
``7.0``, which spreadsheets make of ``7``, is ``7``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

FLOAT = re.compile(r"(\d+)\.0", re.ASCII)
ZEROS = re.compile(r"0+(?=[^\W_])")
MONTH = "(jan|feb|mar|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)"
DATE = re.compile(
    rf"\d{{4}}([-/.])\d{{1,2}}\1\d{{1,2}}([ T].*)?|\d{{1,2}}([-/.])\d{{1,2}}\3(\d{{2}}|\d{{4}})( .*)?"
    rf"|{MONTH}[-. ]\d{{1,4}}|\d{{1,2}}[-. ]+{MONTH}([-. ]+\d{{2,4}})?",
    re.IGNORECASE | re.ASCII,
)


def as_written(text: str) -> str:
    """Return a cell or DICOM PatientID, apart from how its accents are encoded, and from what a spreadsheet adds."""
    return FLOAT.sub(r"\1", tidy) if FLOAT.fullmatch(tidy := unicodedata.normalize("NFC", text).strip()) else tidy


def same_patient(text: str) -> str:
    """Return what is equal for spellings that differ in case, blanks, ``^`` or leading zeros: one patient for a split.

    Two patients taken for one cost a little balance; one taken for two is in training and validation.
    """
    plain = unicodedata.normalize("NFKC", as_written(text)).casefold()
    shown = "".join(sign for sign in plain if sign != "^" and not sign.isspace() and unicodedata.category(sign) != "Cf")
    return ZEROS.sub("", shown, count=1) if ZEROS.match(shown) else shown


def looks_like_date(text: str) -> bool:
    """Tell whether a cell is a date, which spreadsheets make of numbers such as ``1-2``."""
    return bool(DATE.fullmatch(text.strip()))


def listed(spellings: Mapping[str, Iterable[str]], images: Mapping[str, int]) -> list[str]:
    """Return a line for each patient of several spellings, by group, with the number of images.

    As everywhere in a datalist, each slice of a volume that is cut into slices is an image.
    """
    return [
        f"{' = '.join(map(repr, of))} ({images.get(group, 0)} images)"
        for group, texts in spellings.items()
        if len(of := list(texts)) > 1
    ]
