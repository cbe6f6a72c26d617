"""What a user may say about images and labels that become a datalist: declared here, once, for Python and the shell."""
# ruff: noqa: RUF009  # each default makes a field

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from medssl_monai import limits

Policy = Literal["ignore", "zero", "one"]
LabelsBy = Literal["image", "group"]
Nan = Literal["refuse", "background"]


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value > 1 or text.isdigit() else value


def _option(default: Any, about: str, parse: Callable[[str], Any] | None = None, **argument: Any) -> Any:
    """Return a field; `about` is its help in the shell, `argument` what else `argparse` has to know."""
    return field(default=default, metadata={"help": about, "type": parse, **argument})


def _choice(choices: Any, about: str) -> Any:
    return _option(get_args(choices)[0], about, choices=get_args(choices))


def _flag(about: str) -> Any:
    return _option(False, about, action="store_true")


def _bound(name: str) -> Any:
    usual, unit = limits.LIMITS[name]
    return _option(None, f"most {unit} that one file or table may hold (default {usual:,})", int, metavar="N")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `medssl_monai.prepare.prepare.prepare` and ``medssl prepare``; the fields say it themselves.

    Raises:
        ValueError: if options contradict each other.
    """

    table: Path | None = _option(
        None,
        "table with a row per image or series of the folder (comma, semicolon or tab separated); default: the only "
        ".csv file in it. Images without a row have no label; a row may name any file of a DICOM series for all of it; "
        "columns without a meaning here go to the items' meta; a column `slice` gives slices of a volume (from 0) rows",
        Path,
    )
    image_column: str = _option(
        "image", "column of paths below the source, or of file names that are unique there, with or without suffix"
    )
    label_column: str = _option(
        "label",
        "column of class names or indices, an empty cell means unlabeled; several, separated by commas, are findings "
        "with 1, 0, -1 or nothing; '': there are no labels",
    )
    label_kind: str = _option(
        "",
        "what a label is, where the values do not tell: grades, whose names in `classes` rise from the lowest, look "
        "like classes; default: as the values look",
    )
    id_column: str | None = _option(
        None, "column of unique names; default: `id` if it holds such, else pseudonyms of path or DICOM UID"
    )
    group_column: str | None = _option(
        None,
        "column of the patient, lesion or whatever must not be in two sections (in a .npz an array); default: "
        "`patient`, `patient_id`, `lesion_id` or `group`, DICOM's PatientID, else every file is a group of its own",
    )
    groups_as_written: bool = _flag(
        "keep groups apart whose names differ in nothing but case, blanks, ^ or leading zeros; by default they are one"
    )
    split_column: str | None = _option(
        None, "column that names the section of each image; default: `split` if it holds nothing else"
    )
    masks: str | None = _option(
        None,
        "masks as labels: a column with their paths, a folder of files named as the images are (below the source or "
        "beside it), what ends or begins their names (_seg), or an array of a .npz",
    )
    mask_classes: tuple[str, ...] = _option(
        (), "masks stand beside classes; the names of theirs, background first", nargs="+", metavar="CLASS"
    )
    class_folders: bool = _flag(
        "the folder of an image names its class; folders train, val and test above it its section"
    )
    ignore: tuple[str, ...] = _option(
        (), "files of a folder to pass over, such as '*_overlay.png'", nargs="+", metavar="PATTERN"
    )
    volumes: bool = _flag("keep volumes whole, for networks of three dimensions; else every slice is an image")
    nan: Nan = _choice(
        Nan,
        "NaN in an image: refuse it, or read NaN connected with the border of a volume as background (its smallest "
        "value); NaN inside, and infinity, are always refused",
    )
    classes: tuple[str, ...] = _option(
        (),
        "names of the classes in the order of their index; default: as the source says, else the sorted texts of the "
        "label column. Other labels are reported and ignored",
        nargs="+",
        metavar="CLASS",
    )
    positive: str | None = _option(None, "make it binary: this class against all others")
    uncertain: Policy = _choice(Policy, "what -1 as a finding means: unknown, absent or present")
    blank: Policy = _choice(Policy, "what nothing as a finding means")
    split: tuple[float, ...] | None = _option(
        None,
        "shares of training, validation and testing; groups stay together, classes are spread evenly, a share of 0 "
        "leaves a section out. Default: the publisher's split if it keeps groups together, else 0.8 0.2 0",
        float,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
    )
    folds: int | None = _option(
        None, "cross-validation by group: how many folds; the publisher's testing section stays out of it", int
    )
    fold: int | None = _option(None, "which of them, from 0, is for validation", int)
    labels: int | float | None = _option(
        None, "training items that count as labeled, balanced by class: a number or fraction; default: all", _number
    )
    mask_labels: int | float | None = _option(
        None, "likewise, training items whose mask beside the label counts as known", _number
    )
    labels_by: LabelsBy = _choice(
        LabelsBy, "group: --labels counts groups, of which all labels are shown or none; more include the fewer"
    )
    label_list: str | None = _option(None, "published list of the labeled images: its name, or a file")
    unlabeled: Path | None = _option(
        None,
        "second source, in any layout, whose images join the training without a label; left out are those of groups "
        "that are in another section, and copies of images there, near ones too",
        Path,
    )
    masked: Path | None = _option(
        None,
        "second source, in any layout, of other images, whose masks are what --masks and --mask_classes tell; each "
        "source is split by itself, but for groups that both have",
        Path,
    )
    keep_duplicates: bool = _flag("keep exact copies of an image, of which by default the first is used")
    allow_leaks: bool = _flag("keep a split that has groups in several sections")
    clear_names: bool = _flag("ids and groups as they are, for public images; default: pseudonyms by a private key")
    key_file: Path | None = _option(None, "private key of the pseudonyms", Path)
    seed: int = _option(0, "decides split, folds and hidden labels", int)
    max_classes: int | None = _bound("max_classes")
    max_rows: int | None = _bound("max_rows")
    max_table_bytes: int | None = _bound("max_table_bytes")
    max_json_bytes: int | None = _bound("max_json_bytes")
    max_values: int | None = _bound("max_values")
    max_voxels: int | None = _bound("max_voxels")
    max_bytes: int | None = _bound("max_bytes")
    max_files: int | None = _bound("max_files")
    max_file_bytes: int | None = _bound("max_file_bytes")

    def __post_init__(self) -> None:
        for name in ("table", "unlabeled", "masked", "key_file"):
            self._settle(name, Path)
        for name in ("mask_classes", "ignore", "classes", "split"):
            self._settle(name, tuple)
        self._settle("label_list", str)
        for option in fields(self):
            choices, value = option.metadata.get("choices"), getattr(self, option.name)
            if choices and value not in choices:
                raise ValueError(f"`{option.name}` must be one of {choices}, got {value!r}.")
        if self.split is not None and self.split_column is not None:
            raise ValueError("give either `split` (shares for a new split) or `split_column` (a split that exists).")
        if self.label_list is not None and self.labels is not None:
            raise ValueError("give either `labels` (how many to draw) or `label_list` (which ones), not both.")
        self._check_folds()
        self._check_joint()

    def _settle(self, name: str, kind: Callable[[Any], Any]) -> None:
        """Turn a list into a tuple, and a text into a path: what Python's users give."""
        value = getattr(self, name)
        if value is not None:
            object.__setattr__(self, name, kind(value))
        elif kind is tuple and name != "split":
            object.__setattr__(self, name, ())

    def _check_folds(self) -> None:
        folds, fold = self.folds, self.fold
        if (folds is None) != (fold is None):
            raise ValueError("give `folds` (how many) and `fold` (which one, from 0, is for validation) together.")
        if folds is None or fold is None:
            return
        if self.split is not None or self.split_column is not None:
            raise ValueError("give either `folds` or a split (`split`, `split_column`), not both.")
        if folds < 2 or not 0 <= fold < folds:
            raise ValueError(f"`folds` must be at least 2, and `fold` from 0 to one less, got fold {fold} of {folds}.")

    def _check_joint(self) -> None:
        """Refuse options of masks beside labels without those that belong to them."""
        classes = list(self.mask_classes)
        if not classes and (self.mask_labels is not None or self.masked is not None):
            raise ValueError(
                "`mask_labels` and `masked` are for masks beside labels; name their classes, `mask_classes`."
            )
        if classes and len(classes) < 2:
            raise ValueError(f"`mask_classes` names the background and at least one other class, got {classes}.")
        if classes and self.masks is None and self.masked is None:
            raise ValueError("`mask_classes` are given, and no masks; say where they are with `masks`, or `masked`.")

    @property
    def bounds(self) -> dict[str, int | None]:
        """Bounds, as `medssl_monai.limits.raised` takes them."""
        return {name: getattr(self, name) for name in limits.LIMITS}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a command a flag for each field."""
    for option in fields(Options):
        argument: dict[str, Any] = {key: value for key, value in option.metadata.items() if value is not None}
        parser.add_argument(
            f"--{option.name}", default=option.default, **{**argument, "help": _escaped(argument["help"])}
        )


def options_of(arguments: argparse.Namespace) -> Options:
    """Return the options that a command line names."""
    return Options(**{option.name: getattr(arguments, option.name) for option in fields(Options)})


def option_names() -> Sequence[str]:
    """Return the names of all options, in the order of their declaration."""
    return [option.name for option in fields(Options)]


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
