"""The images that a configuration names: a section of a datalist, phantoms, or a folder to predict."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.data.datalist import Datalist, load_datalist, write_datalist
from medssl_monai.distributed import is_first, wait_for_all

logger = logging.getLogger(__name__)


def load_data(
    datalist: str | Path | None,
    section: str,
    dataset_dir: str | Path | None = None,
    allow_leaks: bool = False,
    phantom: Mapping[str, Any] | None = None,
) -> Datalist:
    """Return one section of a datalist file or, if there is none, of phantoms, which are made at the first call.

    Args:
        datalist: path of the file; None: phantoms.
        section: ``training``, ``validation`` or ``testing``.
        dataset_dir: folder that the file's paths start from, or that phantoms are kept in (default: the user's cache).
        allow_leaks: see `medssl_monai.data.load_datalist`.
        phantom: arguments of `medssl_monai.phantoms.make_phantom`.

    Raises:
        ValueError: for the training section, if patients or exact copies of images are in other sections as well,
            unless `allow_leaks`.
    """
    if datalist:
        if section == "training":
            from medssl_monai.audit.leaks import check_leaks

            check_leaks(datalist, dataset_dir, allow_leaks)
        return load_datalist(datalist, section, dataset_dir, allow_leaks)
    from medssl_monai.phantoms import make_phantom

    arguments = dict(phantom or {})
    folder = Path(dataset_dir) if dataset_dir else cache_dir() / "phantoms"
    folder = folder / f"{arguments.get('kind', 'spine2')}_seed{arguments.get('seed', 0)}"
    if is_first():
        make_phantom(folder, **arguments)
    wait_for_all()
    return load_datalist(folder / "datalist.json", section)


def load_images(
    datalist: str | Path | None,
    section: str = "testing",
    dataset_dir: str | Path | None = None,
    list_to: str | Path | None = None,
    volumes: bool = False,
) -> Datalist:
    """Return the images to predict: a section of a datalist or, without one, everything readable below a folder.

    What looks like an image and cannot be used stays in the list with its ``problem``, so that it is reported.

    Args:
        datalist: path of a datalist file, or None.
        section: of the datalist.
        dataset_dir: folder to search, or that the datalist's paths start from.
        list_to: where to write the datalist of the images of a folder: which id is which file. Series that share their
            folder, or lie in several, get folders of links beside it.
        volumes: volumes of a folder stay whole; else each slice is an image.

    Raises:
        ValueError: if neither is named, or the folder has no image.
    """
    if datalist:
        return load_datalist(datalist, section, dataset_dir, allow_leaks=True)  # nothing is trained or measured here
    if not dataset_dir:
        raise ValueError("name the images to predict: `--dataset_dir FOLDER` or `--datalist FILE`.")
    from medssl_monai.prepare.layouts.files import by_suffix, in_words
    from medssl_monai.prepare.layouts.listing import list_images

    gather = Path(list_to).parent if list_to else None
    items, unusable, passed_over = list_images(dataset_dir, volumes, gather=gather)
    rest = in_words(by_suffix(passed_over))
    if not items and not unusable:
        there = f"there are {rest}" if rest else "it is empty"
        raise ValueError(f"{dataset_dir} holds no PNG, JPEG, NIfTI or DICOM image; {there}.")
    if rest:
        logger.warning(f"Not predicted: {rest}.")
    if list_to:  # the user's own, as any datalist: results name ids only
        whole = [{**item, "image": os.path.abspath(item["image"])} for item in items]
        write_datalist(list_to, {"testing": whole}, quarantine=unusable)
    return Datalist([*items, *({**bad, "group": bad["id"], "problem": bad["reason"]} for bad in unusable)])


def cache_dir() -> Path:
    """Return the user's folder for what can be made anew: in ``$XDG_CACHE_HOME``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medssl_monai"


def feature_size(data: Sequence[Any]) -> int:
    """Return the width of the feature table that the items of a datalist are rows of."""
    import numpy as np

    return int(np.load(data[0]["image"], mmap_mode="r", allow_pickle=False).shape[1])
