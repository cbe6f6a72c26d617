"""Answers of people for all parts of a pool."""

from __future__ import annotations

from pathlib import Path

from medssl_monai.data.datalist import FLAGS
from medssl_monai.pool.labels import Given
from medssl_monai.pool.pool import LabelPool
from medssl_monai.pool.tables import column_of, unread
from medssl_monai.tables import Table


def annotate_from_table(pool: LabelPool, path: str | Path, correct: bool = False) -> dict[str, Given]:
    """Give the labels of a table to a pool; bad rows are refused by their line.

    The table has the column ``id`` and one for each part of the labels, such as ``label`` and ``mask``; others are
    ignored, and so are rows without a label. What to write, says the kind of labels (`medssl_monai.kinds`). Ids are
    equal however Unicode writes their accents. A path starts from the folder of the table, with either separator; its
    file must be there, and serves one image. Two answers for one id that differ are both refused.

    Args:
        pool: pool to change.
        path: table, as `medssl_monai.tables.Table` reads it.
        correct: replace known labels instead of adding new ones.

    Returns:
        What became of the answers, by the part.

    Raises:
        FileNotFoundError: if there is no such table.
        ValueError: if it is no table, or lacks one of the columns.
    """
    table = Table.read(path)
    answered = [labels for key, labels in pool.parts.items() if column_of(table, key, path)] or [pool.first]
    given: dict[str, Given] = {labels.key: labels.take(table, Path(path), correct) for labels in answered}
    first = given[answered[0].key].refused
    first[:0] = unread(table)
    for key in FLAGS.keys() - pool.parts.keys():
        column = column_of(table, key, path)
        if lines := [line for line, row in table.rows if column and row[column]]:
            first.append(f"line {lines[0]}: there is a {key} in {len(lines)} rows, and these labels have no {key}s")
    return given
