"""Ids of samples, however Unicode writes their accents."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from medssl_monai.data.datalist import Item


def ids_of(datalist: Sequence[Item]) -> list[str]:
    """Return the ids of a datalist, in its order."""
    return [str(item.get("id", position)) for position, item in enumerate(datalist)]


def spellings(ids: Sequence[str]) -> dict[str, str]:
    """Return the ids by themselves with accents written in one way.

    Raises:
        ValueError: if an id occurs twice.
    """
    spelled = {nfc(name): name for name in ids}
    if len(spelled) != len(ids):
        twice = next(name for name, times in Counter(map(nfc, ids)).items() if times > 1)
        raise ValueError(f"the id {twice!r} occurs more than once in the datalist; every item needs its own id.")
    return spelled


def nfc(name: str) -> str:
    """Return a name whose accents are written in one way, as tables have them."""
    return unicodedata.normalize("NFC", name)
