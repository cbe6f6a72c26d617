"""A query as a file: what was asked, why, of which model, and on which datalist."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from medssl_monai import names
from medssl_monai.data.datalist import FLAGS, SYNTHETIC
from medssl_monai.files import read_json, set_aside, write_json, write_text
from medssl_monai.kinds import KINDS
from medssl_monai.pool.files import check_query_size
from medssl_monai.pool.ids import nfc
from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.pool.pool import LabelPool
from medssl_monai.pool.tables import column_of
from medssl_monai.query.base import Query
from medssl_monai.tables import Table, text_of

logger = logging.getLogger(__name__)

ITEM: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "rank": int,
    "reason": str,
    "scores": dict,
    "predicted": str,
    "ask": str,
    "confidence": (int, float),
    "findings": dict,
}
"""What a query says of each sample; see `query_record`."""
OPTIONAL = {"ask", "confidence", "findings"}


def query_record(query: Query, outputs: PoolOutputs, pool: LabelPool, **facts: Any) -> dict[str, Any]:
    """Return a query by ids, as plain values.

    Args:
        query: as a strategy returned it.
        outputs: what the strategy saw.
        pool: knows the ids, and the parts of the labels.
        facts: further plain values, such as ``model_sha256``, ``round`` and ``strategy``.

    Returns:
        Plain values. ``parts`` has the ``kind`` and the ``names`` of each part of the labels, the first one first, and
        the ``threshold`` from which on the learner labels by itself, if it does. ``items`` has an entry for each
        sample: ``id``, ``rank``, ``reason``, ``scores``, and what its kind of labels says of the prediction
        (`medssl_monai.kinds.Kind.describe`): ``predicted``, as a person would write it, and ``confidence``, that of the
        least certain case; of findings the probability of each as well. Of masks ``predicted`` has the share of the
        voxels that each class but the background takes, as far as the mean probabilities tell, and there is no
        ``confidence``: how large a structure is does not say how sure the network is of it. Where several parts may be
        asked for, ``ask`` says which one, such as ``label`` or ``mask``, and ``predicted`` is the prediction of that.
    """
    asked = query.part or [pool.first.key] * len(query)
    told = query.part is not None or pool.first.key != "label"
    seen = outputs.parts
    row_of = {key: {int(index): row for row, index in enumerate(part.index)} for key, part in seen.items()}
    items = [
        {
            "id": pool.ids[index],
            "rank": rank + 1,
            **({"ask": key} if told else {}),
            "reason": query.reason[rank],
            "scores": {name: float(score[rank]) for name, score in query.scores.items()},
            **seen[key].kind.describe(seen[key].kept[row_of[key][index]]),
        }
        for rank, (index, key) in enumerate(zip(query.index.tolist(), asked, strict=True))
    ]
    returned, possible = query.size
    return {
        "synthetic": pool.synthetic,
        **({"notice": SYNTHETIC} if pool.synthetic else {}),
        **facts,
        "datalist_sha256": pool.datalist_sha256,
        "parts": {key: _said_of(part) for key, part in seen.items()},
        "query_size": [returned, possible],
        "items": items,
    }


def _said_of(part: PoolOutputs) -> dict[str, Any]:
    """Return what a query says of one part of the labels."""
    threshold = {} if part.threshold is None else {"threshold": part.threshold.plain()}
    return {"kind": part.kind.word, "names": list(part.kind.names), **threshold}


def parts_asked(record: Mapping[str, Any], first: str) -> dict[str, list[str]]:
    """Return the ids that a query asks for, by the part of their labels; items that do not say it ask for `first`."""
    found: dict[str, list[str]] = {}
    for item in record["items"]:
        found.setdefault(item.get("ask", first), []).append(item["id"])
    return found


def asked_for(record: Mapping[str, Any]) -> str:
    """Return what a query asks for, for people: ``4 labels and 1 masks``."""
    parts = list(record["parts"])
    asked = parts_asked(record, parts[0])
    return " and ".join(f"{len(asked[key])} {key}s" for key in parts if key in asked) or f"0 {parts[0]}s"


def write_query(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a query twice: ``path`` as JSON, and beside it as a CSV table with an empty column ``label`` to fill in.

    Both name images by id; which file that is stands in the datalist, and nowhere else. Where the kind of labels offers
    something to write, such as names of findings, it is in a further column ``choices``. Where several parts of the
    labels may be asked for, each has a column, such as ``mask``, and ``ask`` says which one to fill in.

    Args:
        path: file to write, ending in ``.json``.
        record: as from `query_record`.
    """
    items, (first, *_) = record["items"], record["parts"]
    several = any("ask" in item for item in items)
    empty = dict.fromkeys(record["parts"] if several else [first], "")
    kinds = {key: KINDS[part["kind"]](tuple(part["names"])) for key, part in record["parts"].items()}
    choices = {key: kinds[key].choices for key in empty}
    note = {"data": "SYNTHETIC"} if record["synthetic"] else {}
    extra = [*note, *(["choices"] if any(choices.values()) else []), *(["ask"] if several else [])]
    head = ["id", "rank", "reason", *extra, *empty]
    rows = [head]
    for item in items:
        key = item.get("ask", first)
        row = {**item, **note, "choices": choices[key], "ask": key, **empty}
        rows.append([row[column] for column in head])
    filled = Path(path).with_suffix(".csv")
    state = _state_of(filled, {(nfc(item["id"]), item.get("ask")) for item in items})
    if state == "of another":
        logger.warning(f"{filled} was filled in for another query; it is {set_aside(filled).name} now.")
    if state != "of this":
        write_text(filled, text_of(rows))
    write_json(path, record)


def _state_of(path: Path, asked: set[tuple[str, str | None]]) -> Literal["of this", "of another", "untouched"]:
    """Return of which query a table is, that at least might have been filled in."""
    if not path.exists() or not path.stat().st_size:
        return "untouched"
    try:
        table = Table.read(path)
        name, ask, *answers = (column_of(table, column, path) for column in ("id", "ask", *FLAGS))
    except ValueError:
        return "of another"  # whatever it is
    there = {(row.get(name or ""), row.get(ask or "")) for _, row in table.rows}
    if table.rows and (there == asked or (table.bad and there <= asked)):
        return "of this"
    columns = [column for column in answers if column]
    filled = any(row[column] for _, row in table.rows for column in columns)
    return "of another" if table.bad or filled or not (name and columns) else "untouched"


def read_query(path: str | Path) -> dict[str, Any]:
    """Read what `write_query` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: beginning with `path`, if it is damaged, or no query.
    """
    record = read_json(path)
    check_query_size(record.get("query_size"), str(path))
    parts, items = record.get("parts"), record.get("items")
    if not isinstance(record.get("synthetic"), bool) or not isinstance(parts, dict) or not parts:
        raise ValueError(f"{path} is no query: 'synthetic' or 'parts' is not as a run writes it.")
    for key, part in parts.items():
        _check_part(key, part, str(path))
    if not isinstance(items, list):
        raise ValueError(f"{path} is no query: 'items' must be a list, got {type(items).__name__}.")
    for position, item in enumerate(items):
        _check_item(item, parts, f"{path}, items[{position}]")
    return record


def _check_part(key: str, part: Any, where: str) -> None:
    if key not in FLAGS or not isinstance(part, dict) or part.get("kind") not in tuple(KINDS):
        raise ValueError(f"{where}: 'parts' has {key!r}, which is not as a run writes it; the file is damaged.")
    if not isinstance(part.get("names"), list):
        raise ValueError(f"{where}: the 'names' of {key!r} must be a list; the file is damaged.")
    KINDS[part["kind"]](tuple(part["names"])).check(where)


def _check_item(item: Any, parts: Mapping[str, Any], where: str) -> None:
    if not isinstance(item, dict):
        raise ValueError(f"{where} must be an object, got {type(item).__name__}.")
    for key, kind in ITEM.items():
        if key not in item and key in OPTIONAL:
            continue
        if not isinstance(item.get(key), kind) or isinstance(item[key], bool):
            raise ValueError(f"{where}: {key!r} is not as a run writes it; the file is damaged.")
    names.check_name(item["id"], "id", where)
    numbers = [*item["scores"].values(), *item.get("findings", {}).values()]
    if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers):
        raise ValueError(f"{where}: 'scores' and 'findings' must be numbers; the file is damaged.")
    asked = item.get("ask", next(iter(parts)))
    if asked not in parts:
        raise ValueError(f"{where}: 'ask' must be one of {list(parts)}, got {asked!r}.")
    known = parts[asked]["names"]
    if known and "findings" in item and list(item["findings"]) != known:
        raise ValueError(f"{where}: 'findings' are not the names of its part; the file is damaged.")
