"""Images for the page of an audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from medssl_monai.audit.items import Array, Entry, read, slice_of
from medssl_monai.audit.page import SHOWN, SHOWN_OF_SET


def previews(result: Mapping[str, Any], entries: Iterable[Entry]) -> dict[str, Array]:
    """Return the images that the page shows, by id: uint8, ``(H, W)`` or ``(H, W, 3)``."""
    shown = [entry for key in ("exact_copies", "near_copies") for entry in result[key]["list"][:SHOWN]]
    names = {item["id"] for entry in shown for item in entry["items"][:SHOWN_OF_SET]}
    cuts = {
        e.item["id"]: slice_of(read(e.item["image"]), e.item.get("slice")) for e in entries if e.item["id"] in names
    }
    return {name: _preview(cut) for name, cut in cuts.items() if cut.ndim > 2 and cut.shape[-2] > 1}


def _preview(array: Array) -> Array:
    array = array[..., array.shape[-1] // 2] if array.ndim == 4 else array
    array = array if len(array) == 3 else array[:1]
    if array.dtype != np.uint8:
        low, high = np.percentile(array, [1, 99])
        array = np.nan_to_num((array - low) / max(float(high - low), 1e-12)).clip(0, 1) * 255
    pixels = array.astype(np.uint8).transpose(2, 1, 0)
    return pixels if pixels.shape[2] == 3 else pixels[..., 0]
