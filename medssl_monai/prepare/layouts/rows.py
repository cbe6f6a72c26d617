"""Which row of a table is of which image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from medssl_monai.data.patients import same_patient
from medssl_monai.names import fold
from medssl_monai.prepare.layouts.columns import Columns
from medssl_monai.prepare.layouts.conventions import CONTRADICTION, EMPTY, tidy
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.paths import Paths, Place
from medssl_monai.prepare.layouts.units import Unit
from medssl_monai.tables import Row, Table


def row_names(numbers: Iterable[int]) -> list[str]:
    """Return what a report calls the rows with these numbers."""
    return [f"row {number}" for number in numbers]


def match_rows(
    table: Table, paths: Paths, units: Sequence[Unit], alias: dict[str, str], columns: Columns, dataset: Dataset
) -> dict[Place, tuple[int, Row]]:
    """Return the row of each unit or slice, with its line number; report rows that contradict or have no file."""
    slices = {unit.name: unit.slices for unit in units}
    rows: dict[Place, tuple[int, Row]] = {}
    by_name: dict[Place, list[int]] = defaultdict(list)
    past: list[int] = []
    for number, row in table.rows:
        fits = paths.fitting(row[columns.image])
        if len(fits) != 1:
            reason = "row whose file is missing" if not fits else "row that fits several files"
            dataset.add("dropped", reason, f"row {number}")
            continue
        name = alias.get(fits[0], fits[0])
        if name not in slices:
            dataset.add("dropped", "row whose file cannot be used", f"row {number}")
            continue
        if fits[0] in alias and fits[0] != name:
            dataset.add(
                "noted",
                "row that names one file of a series or a copy, and stands for the image itself",
                f"row {number}",
            )
        text = tidy(row[columns.slice]) if columns.slice and slices[name] else ""
        if text and not text.isdecimal():
            dataset.add("dropped", "row whose slice is no number from 0", f"row {number}")
            continue
        if text and int(text) >= (slices[name] or 0):
            dataset.add("dropped", "row whose slice the volume does not have", f"row {number}")
            past += [number] * (int(text) == slices[name])
            continue
        place = (name, int(text) if text else None)
        start, known = rows.setdefault(place, (number, dict(row)))
        if paths.is_bare(row[columns.image], fits[0]):
            by_name[place].append(number)
        if start != number:
            _merge(known, row, columns, f"rows {start} and {number}", dataset)
    if past and not any(k == 0 for _, k in rows):
        raise ValueError(
            f"row {past[0]} names the slice after the last of its volume, and no row a slice 0: the slices in the "
            f"column {columns.slice!r} seem to be counted from 1; count them from 0."
        )
    for place, numbers in by_name.items():
        if len(numbers) > 1 and CONTRADICTION in rows[place][1].values():
            dataset.add("dropped", "row with a file name alone, which others have too", *row_names(numbers))
            del rows[place]
    return rows


def _merge(known: Row, row: Row, columns: Columns, where: str, dataset: Dataset) -> None:
    """Take over a second row of the same file."""
    kinds = [*(("label", name) for name in columns.labels), ("id", columns.id), ("group", columns.group)]
    for kind, column in [*kinds, ("split", columns.split)]:
        same = {"label": lambda text: fold(tidy(text)), "group": same_patient}.get(kind, str)
        if not column or same(row[column]) == same(known[column]):
            continue
        if kind == "label" and EMPTY.issuperset({known[column].lower()}) and known[column] != CONTRADICTION:
            known[column] = row[column]
        elif row[column].lower() not in EMPTY:
            dataset.add("noted", f"rows of one file that contradict in {kind}", where)
            known[column] = CONTRADICTION
