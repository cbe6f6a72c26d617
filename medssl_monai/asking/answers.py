"""Answers between two rounds: the labels that the next one starts with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medssl_monai.asking.record import read_query
from medssl_monai.data.datalist import Item
from medssl_monai.handlers.query import Oracle, give_answers
from medssl_monai.names import NOTHING
from medssl_monai.pool.pool import LabelPool
from medssl_monai.pool.tables import annotate_from_table

logger = logging.getLogger(__name__)

Answering = Literal["oracle", "person"]
"""Who answers: the labels that a datalist hides, or a person who fills in the table of a query."""


def hand_over(query: Path, labels: Path, pool: LabelPool, datalist: Sequence[Item], annotator: Answering) -> bool:
    """Write the labels that the next round starts with; False if a person has not filled in anything yet.

    Args:
        query: what was asked for; a person's answers are in the table beside it.
        labels: file to write.
        pool: the labels before that, and the masks `beside` them; changed.
        datalist: what the oracle knows; a person needs none.
        annotator: who answers.
    """
    record, table = read_query(query), query.with_suffix(".csv")
    if annotator == "oracle":
        give_answers(pool, record, Oracle(datalist))
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
    """Say what a person is to write, and where."""
    paths = "paths of masks, from the folder of that table"
    findings = f"what is there, separated by semicolons, with '?' before what is unknown, or {NOTHING!r}"
    if any("ask" in item for item in record["items"]):
        labels = f"; a label is {findings}" if pool.task == "multilabel" else ""
        return f"the column of {table} that 'ask' names: masks with {paths}{labels}"
    how = {"multilabel": f" with {findings}", "segmentation": f" with {paths}"}.get(pool.task, "")
    return f"the column 'label' of {table}{how}"
