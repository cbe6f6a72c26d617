"""Which column of a table says what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from medssl_monai.names import problem_of
from medssl_monai.prepare.layouts.conventions import EMPTY, SECTION_NAMES, SUFFIX, first, tidy
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.tables import Table


@dataclass(frozen=True)
class Columns:
    """Names of the columns by what they say; None or empty: none does. Several `labels` are findings, a column each."""

    image: str
    labels: tuple[str, ...] = ()
    id: str | None = None
    group: str | None = None
    split: str | None = None
    class_name: str | None = None
    slice: str | None = None

    @classmethod
    def of(cls, table: Table, request: Request, dataset: Dataset) -> Columns:
        """Return the columns that the caller named, else those that the header suggests and the cells bear out.

        Raises:
            ValueError: if a column that was named is not there, or one that was not holds what its name says by half.
        """
        labels = tuple(part.strip() for part in request.label_column.split(",")) if request.label_column else ()
        if request.mask_key == "mask":
            _refuse_paths(table, labels)
        elif labels == (request.masks,) or (labels == ("label",) and request.masks):
            labels = ()
        if labels == ("label",):
            labels = (first(table.header, "label") or "label",)
        columns = cls(
            image_column(table, request),
            labels,
            request.id_column or _if_ids(table, first(table.header, "id"), dataset),
            request.group_column or first(table.header, "patient", "patient_id", "lesion_id", "group"),
            request.split_column or _if_sections(table, first(table.header, "split"), dataset),
            _if_names(table, first(table.header, "label_name"), labels[0], dataset) if len(labels) == 1 else None,
            first(table.header, "slice"),
        )
        wanted = {"image": columns.image, "id": columns.id, "group": columns.group, "split": columns.split}
        for flag, name in [*wanted.items(), *(("label", name) for name in columns.labels)]:
            if name and name not in table.header:
                raise ValueError(
                    f"there is no column {name!r}, only {table.header}; say which one is meant with `{flag}_column`."
                )
        return columns


def image_column(table: Table, request: Request) -> str:
    """Return the column of the images' paths."""
    if request.image_column != "image":
        return request.image_column
    return first(table.header, "image", "file", "path", "filename") or "image"


def _if_ids(table: Table, column: str | None, dataset: Dataset) -> str | None:
    """Return the column if its cells are unique names, else None: it happens to be called so."""
    cells = [row[column] for _, row in table.rows] if column else []
    if column and (len(set(cells)) < len(cells) or any(cell.lower() in EMPTY or problem_of(cell) for cell in cells)):
        dataset.add(
            "noted", "column whose cells are no unique names, and which is not used; --id_column uses it", column
        )
        return None
    return column


def _if_sections(table: Table, column: str | None, dataset: Dataset) -> str | None:
    """Return the column if its cells name sections, None if none does: it happens to be called so."""
    cells = [(number, row[column]) for number, row in table.rows if row[column].lower() not in EMPTY] if column else []
    odd = [(number, cell) for number, cell in cells if cell.lower() not in SECTION_NAMES]
    if column and len(odd) == len(cells):
        dataset.add("noted", "column that names no sections, and is not used; --split_column uses it", column)
        return None
    if odd:
        raise ValueError(
            f"the column {column!r} names sections, and in row {odd[0][0]} holds {odd[0][1]!r}, which is neither "
            f"train, val nor test ({len(odd)} of {len(cells)} rows); mend it, or use it as it is with `split_column`, "
            "which leaves such rows out."
        )
    return column


def _if_names(table: Table, column: str | None, labels: str, dataset: Dataset) -> str | None:
    """Return the column if it has one name for each label, else None: it happens to be called so."""
    if column is None or labels not in table.header:
        return None
    names = {(tidy(row[labels]), row[column]) for _, row in table.rows if row[labels].lower() not in EMPTY}
    if any(count > 1 for side in zip(*names, strict=True) for count in Counter(side).values()):
        dataset.add("noted", "column that has not one name for each label, and is not used; rename or mend it", column)
        return None
    return column


def holds_paths(table: Table, column: str) -> bool:
    """Return whether the cells of a column are names of files, as a column of masks has."""
    return column in table.header and any(SUFFIX.search(row[column]) for _, row in table.rows)


def _refuse_paths(table: Table, labels: Sequence[str]) -> None:
    if paths := [name for name in labels if holds_paths(table, name)]:
        raise ValueError(
            f"the column {paths[0]!r} holds names of files, and with `mask_classes` the classes of the images are "
            "wanted beside the masks; name their column as `label_column`, or leave `mask_classes` out."
        )
