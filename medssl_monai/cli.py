"""The command ``medssl``: every command is one call. For research, not a medical device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medssl_monai import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = build_parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and known.command != "loop":
        parser.error(f"unknown argument {rest[0]!r}")
    if known.command is None:
        parser.print_help()
        return 2
    if known.command == "loop":
        known.overrides = parse_overrides(rest)
    try:
        return int(COMMANDS[known.command](known))
    except (ValueError, KeyError, OSError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"medssl {known.command}: {text}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    parser = argparse.ArgumentParser(
        prog="medssl",
        description="Label-efficient learning for medical images on MONAI. For research, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    bundle = commands.add_parser("bundle", help="copy a bundle to a folder of your own")
    bundle.add_argument("name", help="boostmis")
    bundle.add_argument("folder", type=Path)

    phantom = commands.add_parser("phantom", help="make synthetic images with a datalist")
    phantom.add_argument("kind", help="spine2, spine6 or chest")
    phantom.add_argument("folder", type=Path)
    phantom.add_argument("--seed", type=int, default=0)

    prepare = commands.add_parser("prepare", help="make a datalist from images and a table")
    prepare.add_argument("source", type=Path, help="folder of images, .npz or .zip file")
    prepare.add_argument("folder", type=Path, help="where datalist.json goes, and images that must be unpacked")
    prepare.add_argument("--table", type=Path, help="CSV file, one row per image")
    prepare.add_argument("--image_column", default="image")
    prepare.add_argument("--label_column", default="label")
    prepare.add_argument("--id_column")
    prepare.add_argument("--group_column", help="patient or lesion; groups are never split")
    prepare.add_argument("--split_column", help="column with training, validation or testing")
    prepare.add_argument("--split", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="fractions by group")
    prepare.add_argument("--classes", nargs="+", help="names of the classes in the order of their index")
    prepare.add_argument("--labels", type=_number, help="training items that count as labeled: a number or fraction")
    prepare.add_argument("--keep_duplicates", action="store_true", help="keep exact copies of an image")
    prepare.add_argument("--seed", type=int, default=0)

    loop = commands.add_parser(
        "loop",
        help="train, ask, annotate, round by round",
        epilog="Further flags override the bundle's configuration: --datalist FILE --labels 20 --seed 1 ...",
    )
    loop.add_argument("bundle", type=Path, help="folder of a bundle")
    loop.add_argument("folder", type=Path, help="folder of the loop")
    loop.add_argument("--rounds", type=int, default=3)
    loop.add_argument("--annotator", choices=["oracle", "person"], default="oracle")
    loop.add_argument("--weights", choices=["fresh", "continued"], default="fresh")

    for name, text in (("annotate", "give new labels to a pool"), ("correct", "replace labels of a pool")):
        command = commands.add_parser(name, help=f"{text}, from a table with the columns id and label")
        command.add_argument("table", type=Path)
        command.add_argument("--datalist", type=Path, required=True)
        command.add_argument("--labels", type=Path, required=True, help="the pool's labels: a file that a run wrote")
        command.add_argument("--output", type=Path, help="default: the same file")
        command.add_argument("--query", type=Path, help="the query that asked (.json): BoostMIS learns its size")
        command.add_argument("--dataset_dir", type=Path, help="folder that paths of the datalist start from")
        command.add_argument("--allow_leaks", action="store_true", help="accept groups in more than one section")
    return parser


def parse_overrides(flags: Sequence[str]) -> dict[str, Any]:
    """``--key value`` pairs as values, read as YAML.

    Raises:
        ValueError: if a flag has no value.
    """
    import yaml

    values: dict[str, Any] = {}
    flags = [part for flag in flags for part in (flag.split("=", 1) if flag.startswith("--") else [flag])]
    for position in range(0, len(flags), 2):
        name = flags[position]
        if not name.startswith("--") or position + 1 == len(flags):
            raise ValueError(f"{name!r} must be a flag with a value, as in `--labels 20`.")
        values[name[2:]] = None if flags[position + 1] == "None" else yaml.safe_load(flags[position + 1])
    return values


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value > 1 or text.isdigit() else value


def _bundle(arguments: argparse.Namespace) -> int:
    from medssl_monai.bundle import copy_bundle

    print(copy_bundle(arguments.name, arguments.folder))
    return 0


def _phantom(arguments: argparse.Namespace) -> int:
    from medssl_monai.data.phantom import make_phantom

    print(make_phantom(arguments.folder, arguments.kind, seed=arguments.seed))
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    from medssl_monai.data.prepare import prepare

    options = {k: v for k, v in vars(arguments).items() if k not in ("command", "source", "folder") and v is not None}
    if "split" in options:
        options["split"] = tuple(options["split"])
    print(prepare(arguments.source, arguments.folder, **options))
    return 0


def _loop(arguments: argparse.Namespace) -> int:
    import logging

    from medssl_monai.rounds import run_loop

    logging.basicConfig(level=logging.INFO)
    done = run_loop(
        arguments.bundle,
        arguments.folder,
        arguments.rounds,
        arguments.annotator,
        arguments.weights,
        arguments.overrides,
    )
    print(arguments.folder / "report.html" if done else "a query waits for labels")
    return 0


def _change_labels(arguments: argparse.Namespace) -> int:
    from medssl_monai.data import LabelPool, load_datalist
    from medssl_monai.data.pool import annotate_from_table, read_annotations
    from medssl_monai.query.record import read_query

    output = arguments.output or arguments.labels
    if output.suffix != ".json":
        raise ValueError(f"the labels are written as JSON, so {output} must end in .json; name another with --output.")
    data = load_datalist(arguments.datalist, "training", arguments.dataset_dir, arguments.allow_leaks)
    pool = LabelPool(data, labels=arguments.labels)
    if arguments.query:
        pool.query_size = tuple(read_query(arguments.query)["query_size"])
    rows = read_annotations(arguments.table, pool.classes)
    accepted, refused = annotate_from_table(pool, rows, correct=arguments.command == "correct")
    pool.save(output)
    for reason in refused:
        print(f"refused: {reason}", file=sys.stderr)
    print(f"{len(accepted)} labels taken, {len(refused)} refused")
    return 1 if refused else 0


COMMANDS = {
    "bundle": _bundle,
    "phantom": _phantom,
    "prepare": _prepare,
    "loop": _loop,
    "annotate": _change_labels,
    "correct": _change_labels,
}
