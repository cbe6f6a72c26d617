"""From images and labels as they come to a datalist: split by group, without copies, with a report on the rest.

A *layout* is one way in which data sets come (`medssl_monai.prepare.layouts`); copies, splits, hidden labels and the
report are common to all.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from medssl_monai import limits
from medssl_monai.data.datalist import Item, write_datalist
from medssl_monai.files import write_json
from medssl_monai.kinds import Masks
from medssl_monai.kinds.grammar import numbers
from medssl_monai.options import Options
from medssl_monai.prepare.copies import drop_copies, drop_recurring
from medssl_monai.prepare.draw import hide_labels
from medssl_monai.prepare.images import channels, write_images
from medssl_monai.prepare.labels import kind_in, one_against_rest
from medssl_monai.prepare.layouts import lists
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.files import in_words
from medssl_monai.prepare.report import counts_text, make_report, why_empty
from medssl_monai.prepare.sources import Sources, is_synthetic
from medssl_monai.prepare.split import split_into_sections

logger = logging.getLogger(__name__)


def prepare(source: str | Path, out_dir: str | Path, options: Options | None = None, **changes: Any) -> Path:
    """Write ``datalist.json`` and ``prepare_report.json``.

    Args:
        source: what there is, in one of the layouts of `medssl_monai.prepare.layouts.LAYOUTS`: a folder of PNG, JPEG,
            NIfTI and DICOM files (with a `table`, with `class_folders`, or without labels), ``.npz`` and ``.zip``
            files, Decathlon, CheXpert, ChestX-ray14, CIFAR, SVHN, and feature tables. Files of a folder are used where
            they are; all others are written to `out_dir`.
        out_dir: where to write.
        options: what else there is to say.
        changes: single fields of it, by name: ``prepare(source, out_dir, table="labels.csv")``.

    Returns:
        Path of the datalist.

    Raises:
        FileNotFoundError: if there is no `source` or `table`.
        TypeError: if there is no such option.
        ValueError: if the layout is not known, columns are missing, or the split is not possible.
    """
    options = replace(options or Options(), **changes)
    with limits.raised(**options.bounds):
        return _prepare(Path(source), Path(out_dir), options)


def _prepare(source: Path, out_dir: Path, options: Options) -> Path:
    sources = Sources.of(source, out_dir, options)
    out_dir.mkdir(parents=True, exist_ok=True)  # items are found from here
    dataset = sources.layout.read(sources.first)
    label_list = lists.read(options.label_list, dataset) if options.label_list else None
    given_split = bool(options.split or options.split_column or options.folds)
    if split_of_list := label_list is not None and bool(label_list.sections) and not given_split:
        label_list.apply_split(dataset)
    if options.positive is not None:
        one_against_rest(dataset, options.positive, options.classes)
    sources.join(dataset)
    if not options.keep_duplicates:
        drop_copies(dataset, out_dir)
    _check(dataset, source, options)
    sections, how = split_into_sections(dataset, options, bool(options.split_column) or split_of_list)
    if label_list and split_of_list:
        how = how.replace("the source", label_list.name, 1)
    on_list = _show_labels(sections.get("training", []), options, label_list)
    write_images(dataset, out_dir)
    if options.unlabeled is not None and not dataset.features:
        drop_recurring(dataset, sections, out_dir)
    path = out_dir / "datalist.json"
    write_datalist(
        path,
        sections,
        classes=dataset.classes,
        name=source.stem if source.is_file() else out_dir.resolve().name,
        synthetic=dataset.synthetic or any(is_synthetic(request.source) for request in sources.requests),
        modality=("feature",) if dataset.features else channels(out_dir, itertools.chain(*sections.values())),
        allow_leaks=options.allow_leaks,
        mask_classes=options.mask_classes,
        quarantine=dataset.quarantine,
        label_kind=options.label_kind,
        **({"groups_as_written": True} if options.groups_as_written else {}),
    )
    report = make_report(dataset, sources, sections, options, split=how, label_list=on_list)
    write_json(out_dir / "prepare_report.json", report)
    for kind, findings in (("dropped", dataset.dropped), ("noted", dataset.noted)):
        if findings:
            logger.warning("%s: %s (see prepare_report.json)", kind, counts_text(findings))
    if report["unused"]:
        logger.warning("unused: %s", in_words(report["unused"]))
    return path


def _check(dataset: Dataset, source: Path, options: Options) -> None:
    """Refuse a data set without images, with bad names of classes, or with masks or labels of the wrong kind."""
    if not dataset.items:
        raise ValueError(why_empty(source, dataset))
    kind = kind_in(dataset, options.label_kind)
    kind.check(str(source))
    rising = numbers(" ".join(kind.names))
    if kind.ordered and not options.classes and (not rising or rising != sorted(rising)):
        raise ValueError(
            f"{source}: {kind.word} have an order, and nothing says that of {list(kind.names)}; name them all in "
            "`classes`, the lowest first."
        )
    Masks(options.mask_classes).check(str(source))
    if options.mask_classes and kind.cases is None:
        raise ValueError(f"the labels of {source} are masks, and classes are wanted; leave `mask_classes` out.")
    if options.mask_classes and not any("mask" in item for item in dataset.items):
        raise ValueError(f"{options.masked or source} holds no usable mask; noted: {counts_text(dataset.noted)}.")


def _show_labels(training: list[Item], options: Options, label_list: lists.LabelList | None) -> str | None:
    """Hide the labels of a training section but for those that were asked for; return what to say of a list."""
    wanted = (label_list, options.labels, options.mask_labels, options.unlabeled)
    if not training and any(option is not None for option in wanted):
        raise ValueError(
            "labels to show, and images without labels, are for the training section, and this split has none; give "
            "it a share, or leave them out."
        )
    on_list = label_list.hide_others(training) if label_list else None
    if options.labels is not None:
        hide_labels(training, options.labels, options.labels_by, options.seed)
    if options.mask_labels is not None:
        hide_labels(training, options.mask_labels, options.labels_by, options.seed, "mask")
    return on_list
