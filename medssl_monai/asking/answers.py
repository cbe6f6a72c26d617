"""Answer: who knows labels, and how they come into the pool."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from medssl_monai.asking.record import parts_asked, read_query
from medssl_monai.kinds import Label
from medssl_monai.methods.base import SSLMethod
from medssl_monai.pool.annotate import annotate_from_table
from medssl_monai.pool.pool import LabelPool

logger = logging.getLogger(__name__)

Answering = Literal["oracle", "person"]
"""Who answers: the labels that a datalist hides, or a person who fills in the table of a query."""


class Annotator(Protocol):
    """Gives labels by id, of one part of them; leaves out what it does not know."""

    def __call__(self, ids: Iterable[str], key: str = "label") -> Mapping[str, Label]: ...


class Oracle:
    """An annotator that knows what the datalist hides; for simulated experiments.

    What is unknown within a label, such as one finding, stays so.

    Args:
        pool: labels of a datalist, of which some are hidden.
    """

    def __init__(self, pool: LabelPool) -> None:
        self.pool = pool

    def __call__(self, ids: Iterable[str], key: str = "label") -> dict[str, Label]:
        labels = self.pool[key]
        hidden = labels.hidden()
        wanted = {name: labels.position[name] for name in ids if name in labels.position}
        return {name: hidden[position] for name, position in wanted.items() if position in hidden}


def give_answers(pool: LabelPool, record: Mapping[str, Any], annotator: Annotator) -> dict[str, Tensor]:
    """Give a pool what `annotator` knows of a query's items, and the query's size.

    Args:
        pool: pool to change; items that do not say what they ``ask`` for ask for its first part.
        record: as from `medssl_monai.asking.record.query_record`.
        annotator: is asked for one part after the other; of each, all labels are taken or none.

    Returns:
        Positions that were annotated, of each part.

    Raises:
        ValueError: if the query asks for what the pool does not hold.
    """
    asked = parts_asked(record, pool.first.key)
    given = dict.fromkeys(pool.parts, torch.zeros(0, dtype=torch.long))
    for key, names in asked.items():
        if lost := [name for name in names if name not in pool.position]:
            raise ValueError(
                f"the query asks for {lost[0]!r}, and the datalist lacks it; use the datalist of the query."
            )
        if key not in pool.parts:
            raise ValueError(f"the query asks for {key}s, and this run has none; give its pool labels of that part.")
    for key, names in asked.items():
        known = annotator(names) if key == "label" else annotator(names, key)  # many know labels alone
        answered = [name for name in names if name in known]
        given[key] = torch.tensor([pool.position[name] for name in answered], dtype=torch.long)
        pool[key].annotate(given[key], [known[name] for name in answered])
    returned, possible = record["query_size"]
    pool.query_size = (returned, possible)
    return given


def annotate(pool: LabelPool, method: SSLMethod, record: Mapping[str, Any], annotator: Annotator) -> int:
    """Give the answers, tell the method of those of the first part, and return how many items were answered."""
    given = give_answers(pool, record, annotator)
    method.on_query(given[pool.first.key], pool.query_size)
    return sum(map(len, given.values()))


def hand_over(query: Path, labels: Path, pool: LabelPool, annotator: Answering) -> bool:
    """Write the labels that the next round starts with; False if a person has not filled in anything yet.

    Args:
        query: what was asked for; a person's answers are in the table beside it.
        labels: file to write.
        pool: the labels before that; changed.
        annotator: who answers.
    """
    record, table = read_query(query), query.with_suffix(".csv")
    if annotator == "oracle":
        give_answers(pool, record, Oracle(pool))
    else:
        given = annotate_from_table(pool, table).values()
        for reason in (reason for part in given for reason in part.refused):
            logger.warning(f"{table}: {reason}; this row is left out.")
        accepted = {name for part in given for name in part.accepted}
        if not accepted and record["items"]:
            logger.info(f"Fill in {_how(table, record, pool)}, then start the same command again.")
            return False
        logger.info(f"{len(accepted)} of {len(record['items'])} queries were answered.")
    pool.query_size = tuple(record["query_size"])
    pool.save_over(labels)
    return True


def _how(table: Path, record: Mapping[str, Any], pool: LabelPool) -> str:
    """Return what a person is to write, and where."""
    if any("ask" in item for item in record["items"]):
        asked = parts_asked(record, pool.first.key)
        wanted = [f"{key}s with {labels.kind.wanted}" for key, labels in pool.parts.items() if key in asked]
        return f"the column of {table} that 'ask' names: {'; '.join(wanted)}"
    return f"the column {pool.first.key!r} of {table} with {pool.first.kind.wanted}"
