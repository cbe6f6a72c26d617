"""A query as a file: what was asked, why, of which model, and on which datalist."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from medssl_monai import names
from medssl_monai.data.datalist import FLAGS, SYNTHETIC, Key
from medssl_monai.files import read_json, set_aside, write_json, write_text
from medssl_monai.losses.pseudo_label import confidence_of
from medssl_monai.names import NOTHING
from medssl_monai.pool.pool import Label, LabelPool, check_query_size, nfc
from medssl_monai.pool.tables import column_of, label_text
from medssl_monai.query.base import PoolOutputs, Query
from medssl_monai.tables import Table, text_of
from medssl_monai.task import TASKS, Task

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
    """A query by ids, as plain values.

    Args:
        query: as a strategy returned it.
        outputs: what the strategy saw.
        pool: knows the ids, and what it holds, the pool `beside` it included.
        facts: further plain values, such as ``model_sha256``, ``round`` and ``strategy``.

    Returns:
        Plain values, with an entry in ``items`` for each sample: ``id``, ``rank``, ``reason``, ``scores``,
        ``predicted`` (as a person would write it) and ``confidence``; multi-label: that of the least certain finding,
        and ``findings``, the probability of each. For masks ``predicted`` has the share of the voxels that each class
        but the background takes, as far as the mean probabilities tell, and there is no ``confidence``: how large a
        structure is does not say how sure the network is of it. Where there may be masks beside labels, ``ask`` says
        which of both is asked for, ``label`` or ``mask``, and ``predicted`` is the prediction of that.
    """
    kinds = query.kind or [pool.key] * len(query)
    told = query.kind is not None or pool.key != "label"
    seen = {pool.key: outputs} if outputs.beside is None else {"label": outputs, "mask": outputs.beside}
    row_of = {kind: {int(index): row for row, index in enumerate(own.index)} for kind, own in seen.items()}
    pools = pools_of(pool)
    items = []
    for rank, (index, kind) in enumerate(zip(query.index.tolist(), kinds, strict=True)):
        row, own = row_of[kind][index], seen[kind]
        classes = pools[kind].classes or tuple(map(str, range(own.probs.shape[1])))
        items.append(
            {
                "id": pool.ids[index],
                "rank": rank + 1,
                **({"ask": kind} if told else {}),
                "reason": query.reason[rank],
                "scores": {name: float(score[rank]) for name, score in query.scores.items()},
                **_prediction(own.probs[row], own.task, classes),
            }
        )
    returned, possible = query.size
    return {
        "synthetic": pool.synthetic,
        **({"notice": SYNTHETIC} if pool.synthetic else {}),
        **facts,
        "datalist_sha256": pool.datalist_sha256,
        "classes": list(pool.classes),
        "task": outputs.task,
        "query_size": [returned, possible],
        "items": items,
    }


def pools_of(pool: LabelPool) -> dict[Key, LabelPool]:
    """A pool and the one `beside` it, by what they hold."""
    return {own.key: own for own in (pool, pool.beside) if own is not None}


def asked_for(record: Mapping[str, Any]) -> str:
    """What a query asks for, for people: ``4 labels and 1 masks``."""
    kinds = [item.get("ask", "label") for item in record["items"]]
    return " and ".join(f"{kinds.count(kind)} {kind}s" for kind in FLAGS if kind in kinds) or "0 labels"


def _prediction(probs: Tensor, task: Task, classes: Sequence[str]) -> dict[str, Any]:
    """What is predicted for one sample with the probabilities ``(K,)``; see `query_record`."""
    if task == "segmentation":
        shares = zip(classes[1:], probs[1:].tolist(), strict=True)
        return {"predicted": ", ".join(f"{name} {share:.1%}" for name, share in shares)}
    known = {
        "predicted": label_text(predicted_label(probs.tolist(), task), classes),
        "confidence": float(confidence_of(probs.unsqueeze(0), task).amin()),
    }
    return known | ({"findings": dict(zip(classes, probs.tolist(), strict=True))} if task == "multilabel" else {})


def predicted_label(probs: Sequence[float], task: Task) -> Label:
    """The label that probabilities ``(K,)`` stand for: the most probable class, or the findings above 0.5."""
    if task == "multilabel":
        return [int(p > 0.5) for p in probs]
    return max(range(len(probs)), key=lambda k: probs[k])


def write_query(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a query twice: ``path`` as JSON, and beside it as a CSV table with an empty column ``label`` to fill in.

    Both name images by id; which file that is stands in the datalist, and nowhere else. Multi-label, a further column
    ``choices`` shows what to write, names of findings, see `medssl_monai.pool.tables.parse_label`. Where there may
    be masks beside labels, there is a column ``mask`` as well, and ``ask`` says which one to fill in.

    Args:
        path: file to write, ending in ``.json``.
        record: as from `query_record`.
    """
    items = record["items"]
    note = {"data": "SYNTHETIC"} if record["synthetic"] else {}
    if record["task"] == "multilabel" and record["classes"]:
        note["choices"] = "; ".join([NOTHING, *record["classes"]])
    several = any("ask" in item for item in items)
    empty = dict.fromkeys(FLAGS if several else ["label"], "")
    rows = [["id", "rank", "reason", *note, *(["ask"] if several else []), *empty]]
    for item in items:
        asked = [item["ask"]] if several else []
        rows.append([item["id"], item["rank"], item["reason"], *note.values(), *asked, *empty.values()])
    filled = Path(path).with_suffix(".csv")
    state = _state_of(filled, {(nfc(item["id"]), item.get("ask")) for item in items})
    if state == "of another":
        logger.warning(f"{filled} was filled in for another query; it is {set_aside(filled).name} now.")
    if state != "of this":
        write_text(filled, text_of(rows))
    write_json(path, record)


def _state_of(path: Path, asked: set[tuple[str, str | None]]) -> Literal["of this", "of another", "untouched"]:
    """Of which query a table is, that at least might have been filled in."""
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
    classes, task, items = record.get("classes"), record.get("task"), record.get("items")
    if not isinstance(record.get("synthetic"), bool) or task not in TASKS or not isinstance(classes, list):
        raise ValueError(f"{path} is no query: 'synthetic', 'task' or 'classes' is not as a run writes it.")
    names.check_classes(classes, "class", str(path), findings=task == "multilabel")
    if not isinstance(items, list):
        raise ValueError(f"{path} is no query: 'items' must be a list, got {type(items).__name__}.")
    for position, item in enumerate(items):
        _check_item(item, classes, f"{path}, items[{position}]")
    return record


def _check_item(item: Any, classes: Sequence[str], where: str) -> None:
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
    if "ask" in item and item["ask"] not in FLAGS:
        raise ValueError(f"{where}: 'ask' must be one of {list(FLAGS)}, got {item['ask']!r}.")
    if classes and "findings" in item and list(item["findings"]) != list(classes):
        raise ValueError(f"{where}: 'findings' are not those of 'classes'; the file is damaged.")
