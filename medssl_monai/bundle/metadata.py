"""The file ``metadata.json`` of a bundle, in which MONAI would evaluate texts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from medssl_monai import names
from medssl_monai.engines.identity import building_parser
from medssl_monai.files import read_json, write_json

METADATA = "metadata.json"


def metadata_of(bundle_root: str | Path) -> dict[str, Any]:
    """Return the bundle's metadata as its file has them; without that, as the configuration has them that asks, if any.

    Configurations ask for them here and not by MONAI's ``@_meta_``, which evaluates what the file says before anybody
    can look at it, and replaces ``#``.

    Raises:
        ValueError: if the file is damaged, or MONAI would evaluate something in it, see `write_metadata`.
    """
    path = Path(bundle_root) / "configs" / METADATA
    if not path.is_file():
        parser = building_parser()
        metadata = copy.deepcopy(cast(dict[str, Any], parser.get("_meta_", {}))) if parser else {}
        names.check_inert(metadata, METADATA)
        return metadata
    content = read_json(path)
    try:
        marked = path.read_text(encoding="utf-8").startswith("\ufeff")
    except UnicodeDecodeError:
        marked = True
    if marked:
        raise ValueError(f"{path} is not in UTF-8 without a mark, which MONAI reads alone; save it so.")
    names.check_inert(content, str(path))
    return content


def write_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``metadata.json``, which MONAI reads as a part of every configuration.

    Raises:
        ValueError: if MONAI would evaluate a text in it; nothing is written.
    """
    names.check_inert(metadata, str(path))
    write_json(path, metadata, private=False)


def described(metadata: Mapping[str, Any], *keys: str) -> Any:
    """Return what the metadata say of the network's data under these keys.

    Raises:
        ValueError: if they say nothing there.
    """
    here: Any = metadata
    for depth, key in enumerate(path := ("network_data_format", *keys)):
        if not isinstance(here, Mapping) or key not in here:
            raise ValueError(
                f"{METADATA} does not say {'::'.join(path[: depth + 1])}; take that file from the bundle as it was."
            )
        here = here[key]
    return here
