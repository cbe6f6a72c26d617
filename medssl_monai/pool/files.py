"""Files of labels, as `medssl_monai.pool.LabelPool.save` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medssl_monai.data.datalist import FLAGS
from medssl_monai.files import read_json
from medssl_monai.kinds import KINDS

PART = {"key", "kind", "names", "labels"}
"""What a file says of each part of the labels."""
HEAD = {"synthetic", "notice", "datalist_sha256", "query_size", "others"}


def is_table(path: str | Path) -> bool:
    """Whether a file of labels is a table that a person fills in, and not what a pool writes."""
    return Path(path).suffix.lower() != ".json"


def read_pool(path: str | Path) -> dict[str, Any]:
    """Return what a file of labels holds: the first part, the size of the last query, and ``others``, further parts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: beginning with `path`, if it is damaged, or no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`labels` names {path}, and there is no such file.")
    content = read_json(path)
    others = content.get("others", [])
    parts = [content, *(others if isinstance(others, list) else [others])]
    for part, keys in zip(parts, (PART | HEAD, *[PART] * len(parts)), strict=False):
        if not isinstance(part, dict) or not PART <= part.keys() <= keys or not {"query_size"} <= content.keys():
            raise ValueError(f"{path} is no file of labels that a run or `medssl annotate` wrote; name such a file.")
        if part["key"] not in tuple(FLAGS) or part["kind"] not in tuple(KINDS):
            raise ValueError(f"{path}: 'key' is {part['key']!r} and 'kind' {part['kind']!r}; it is damaged.")
        if not isinstance(part["names"], list) or not isinstance(part["labels"], dict):
            raise ValueError(f"{path}: 'names' must be a list and 'labels' an object; it is damaged.")
        KINDS[part["kind"]](tuple(part["names"])).check(str(path))
    check_query_size(content["query_size"], str(path))
    return content


def read_part(path: str | Path, key: str) -> dict[str, Any]:
    """Return what a file of labels says of one part, with its ``query_size``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or lacks that part.
    """
    content = read_pool(path)
    parts = {part["key"]: part for part in (content, *content.get("others", []))}
    if key not in parts:
        raise ValueError(f"{path} holds {' and '.join(parts)}s, and these are {key}s; name another file.")
    returned, possible = content["query_size"]
    return {**parts[key], "query_size": (returned, possible)}


def check_query_size(size: Any, source: str) -> None:
    """Refuse what is not how many samples a query returned, and how many it could have.

    Raises:
        ValueError: beginning with `source`.
    """
    if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int or not 0 <= n < 2**31 for n in size):
        raise ValueError(f"{source}: 'query_size' must be two whole numbers from 0, such as [4, 10], got {size!r}.")
