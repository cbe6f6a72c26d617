"""``medssl annotate`` and ``medssl correct``: give new labels to a pool, or replace labels."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from medssl_monai.cli.command import Command

if TYPE_CHECKING:  # the commands import what they need
    from medssl_monai.data import Datalist
    from medssl_monai.pool import LabelPool


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of both commands."""
    parser.add_argument("table", type=Path)
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True, help="the pool's labels: a file that a run wrote")
    parser.add_argument("--output", type=Path, help="default: the same file")
    parser.add_argument("--query", type=Path, help="the query that asked (.json): BoostMIS learns its size")
    parser.add_argument("--dataset_dir", type=Path, help="folder that paths of the datalist start from")
    parser.add_argument("--allow_leaks", action="store_true", help="accept groups in more than one section")


def run(arguments: argparse.Namespace) -> int:
    """Take labels from a table into a file of labels; 1 if some are refused.

    Nobody else changes the file between reading and writing. A run has its labels in memory, and does not read its
    ``pool.json`` again: while it runs, that is not changed.
    """
    from medssl_monai.asking.record import read_query
    from medssl_monai.data import load_datalist
    from medssl_monai.locks import changing, check_free
    from medssl_monai.pool.annotate import annotate_from_table

    labels, output = arguments.labels, (arguments.output or arguments.labels).resolve()
    if output.suffix != ".json":
        raise ValueError(f"the labels are written as JSON, so {output} must end in .json; name another with --output.")
    data = load_datalist(arguments.datalist, "training", arguments.dataset_dir, arguments.allow_leaks)
    with changing(output):
        if output != labels.resolve() and output.exists():
            raise ValueError(f"{output} is there already, and its labels would be lost; name another with --output.")
        try:
            for folder in (output.parent, output.parent.parent):  # of a run, and of the loop that it is of
                check_free(folder)
        except OSError as error:
            reason = "a run writes over its labels, so that they are not changed while it runs"
            raise OSError(f"{reason}; wait, or name another file with --output: {error}") from None
        pool = _pool(labels, data)
        if arguments.query:
            pool.query_size = tuple(read_query(arguments.query)["query_size"])
        given = annotate_from_table(pool, arguments.table, correct=arguments.command == "correct")
        pool.save(output)
    for key, (accepted, refused) in given.items():
        print(f"{len(accepted)} {key}s taken, {len(refused)} refused")
    reasons = [reason for _, refused in given.values() for reason in refused]
    for reason in reasons:
        print(f"refused: {arguments.table.name}, {reason}", file=sys.stderr)
    return 1 if reasons else 0


def _pool(path: Path, data: Datalist) -> LabelPool:
    """Return the pool of the parts that a file of labels describes, and of those that the datalist may have beside."""
    from medssl_monai.data.datalist import FLAGS
    from medssl_monai.pool import LabelPool, Labels
    from medssl_monai.pool.files import is_table, read_pool
    from medssl_monai.pool.tables import column_of
    from medssl_monai.tables import Table

    if table := is_table(path):
        content = Table.read(path)
        there = [key for key in FLAGS if column_of(content, key, path)] or ["label"]
    else:
        file = read_pool(path)
        there = [part["key"] for part in (file, *file.get("others", []))]
    parts = [Labels(data, path, key) for key in FLAGS if key in there]
    if "label" in there:  # a table that says nothing of another part has none, and a file leaves it as it is
        parts += [Labels(data, 0 if table else None, key) for key in FLAGS if key not in there and data.names[key]]
    return LabelPool(parts)


TABLE = "from a table with the columns id and label, or mask"
ANNOTATE = Command("annotate", f"give new labels to a pool, {TABLE}", declare, run)
CORRECT = Command("correct", f"replace labels of a pool, {TABLE}", declare, run)
