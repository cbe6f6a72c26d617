"""A query as a file: what was asked, why, of which model, and on which datalist."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from medssl_monai.data.datalist import FLAGS, SYNTHETIC, Key
from medssl_monai.data.pool import NOTHING, Label, LabelPool, label_text, read_table
from medssl_monai.files import write_json, write_text
from medssl_monai.losses.pseudo_label import confidence_of
from medssl_monai.query.base import PoolOutputs, Query
from medssl_monai.task import Task

logger = logging.getLogger(__name__)


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
        names = pools[kind].classes or tuple(map(str, range(own.probs.shape[1])))
        items.append(
            {
                "id": pool.ids[index],
                "rank": rank + 1,
                **({"ask": kind} if told else {}),
                "reason": query.reason[rank],
                "scores": {name: float(score[rank]) for name, score in query.scores.items()},
                **_prediction(own.probs[row], own.task, names),
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


def _prediction(probs: Tensor, task: Task, names: Sequence[str]) -> dict[str, Any]:
    """What is predicted for one sample with the probabilities ``(K,)``; see `query_record`."""
    if task == "segmentation":
        shares = zip(names[1:], probs[1:].tolist(), strict=True)
        return {"predicted": ", ".join(f"{name} {share:.1%}" for name, share in shares)}
    known = {
        "predicted": label_text(predicted_label(probs.tolist(), task), names),
        "confidence": float(confidence_of(probs.unsqueeze(0), task).amin()),
    }
    return known | ({"findings": dict(zip(names, probs.tolist(), strict=True))} if task == "multilabel" else {})


def predicted_label(probs: Sequence[float], task: Task) -> Label:
    """The label that probabilities ``(K,)`` stand for: the most probable class, or the findings above 0.5."""
    if task == "multilabel":
        return [int(p > 0.5) for p in probs]
    return max(range(len(probs)), key=lambda k: probs[k])


def write_query(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a query twice: ``path`` as JSON, and beside it as a CSV table with an empty column ``label`` to fill in.

    Both name images by id; which file that is stands in the datalist, and nowhere else. Multi-label, a further column
    ``choices`` shows what to write, names of findings, see `medssl_monai.data.pool.read_annotations`. Where there may
    be masks beside labels, there is a column ``mask`` as well, and ``ask`` says which one to fill in.

    Args:
        path: file to write, ending in ``.json``.
        record: as from `query_record`.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    items = record["items"]
    note = {"data": "SYNTHETIC"} if record["synthetic"] else {}
    if record["task"] == "multilabel" and record["classes"]:
        note["choices"] = "; ".join([NOTHING, *record["classes"]])
    several = any("ask" in item for item in items)
    empty = dict.fromkeys(FLAGS if several else ["label"], "")
    table.writerow(["id", "rank", "reason", *note, *(["ask"] if several else []), *empty])
    for item in items:
        asked = [item["ask"]] if several else []
        table.writerow([item["id"], item["rank"], item["reason"], *note.values(), *asked, *empty.values()])
    filled = Path(path).with_suffix(".csv")
    names, rows = read_table(filled) if filled.exists() else ([], [])
    if not rows or {(row.get("id"), row.get("ask")) for row in rows} != {(i["id"], i.get("ask")) for i in items}:
        answers = [name for name in FLAGS if name in names]
        if rows and (not answers or any((row[name] or "").strip() for row in rows for name in answers)):
            kept = next(p for n in itertools.count(1) if not (p := filled.with_suffix(f".previous{n}.csv")).exists())
            os.replace(filled, kept)  # a person's work on another query
            logger.warning(f"{filled} was filled in for another query; it is {kept.name} now.")
        write_text(filled, text.getvalue())
    write_json(path, record)


def read_query(path: str | Path) -> dict[str, Any]:
    """Read what `write_query` wrote."""
    return dict(json.loads(Path(path).read_text(encoding="utf-8")))
