"""What is said of images that cannot be read, or not as they are."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from medssl_monai.data.datalist import Item
from medssl_monai.readers.refusals import UnreadableImageError

logger = logging.getLogger(__name__)

NO_NUMBERS = "the image holds NaN or infinite values"


def reason_of(error: BaseException, item: Item, position: int) -> str:
    """Return the text of the first error of a chain, around which MONAI wraps others, with the id in place of paths."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UnreadableImageError):
        return error.reason
    text, image = str(error), item["image"]
    names: set[str] = set()
    for path in image if isinstance(image, list | tuple) else [image]:
        for file in [str(path), *(os.path.join(*found) for found in _below(path))]:
            whole = (os.path.realpath(file), os.path.abspath(file))
            names |= {*whole, *map(os.path.dirname, whole), file, os.path.basename(file)} - {"", os.sep}
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    text = re.sub(known, lambda _: str(item.get("id", position)), text)
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}"


def say_background(image: Any, item: Item, position: int) -> None:
    """Log that NaN was read as background, once for a volume: see `medssl_monai.readers.ClinicalReader`."""
    share = getattr(image, "meta", {}).get("nan_share", 0.0)
    if share and not item.get("slice"):
        name = item.get("id", position)
        logger.warning(f"{name}: NaN at its border, {share:.1%} of its voxels, is read as its smallest value.")


def _below(path: str) -> Iterator[tuple[str, str]]:
    return ((folder, name) for folder, _, names in os.walk(path) for name in names)
