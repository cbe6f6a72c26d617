"""The command ``medssl``: every command is one call. For research, not a medical device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl_monai import __version__

if TYPE_CHECKING:  # the commands import what they need
    from medssl_monai.data import Datalist
    from medssl_monai.pool import LabelPool

SHOWN = 20
"""Files that cannot be used, in the terminal."""
OPEN = ("loop", "features", "label-app")
"""Commands whose further flags override a bundle's configuration."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = build_parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and known.command not in OPEN:
        parser.error(f"unknown argument {rest[0]!r}")
    if known.command is None:
        parser.print_help()
        return 2
    try:
        if known.command in OPEN:
            known.overrides = parse_overrides(rest)
        return int(COMMANDS[known.command](known))
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__  # MONAI wraps what a component says
        if not isinstance(cause, ValueError | KeyError | OSError):
            raise
        text = cause.args[0] if isinstance(cause, KeyError) and cause.args else cause
        print(f"medssl {known.command}: {text}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    from medssl_monai.options import add_options

    parser = argparse.ArgumentParser(
        prog="medssl",
        description="Label-efficient learning for medical images on MONAI. For research, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    bundle = commands.add_parser("bundle", help="copy a bundle to a folder of your own")
    bundle.add_argument("name", help="boostmis, tear, s2mts2, ssal or multimix")
    bundle.add_argument("folder", type=Path)

    phantom = commands.add_parser("phantom", help="make synthetic images with a datalist")
    phantom.add_argument(
        "kind",
        help="spine2, spine6, spine_cord, chest, chest14, chest14_unknown, chest_joint, chest_joint_far, lesion7 or "
        "lesion_mask",
    )
    phantom.add_argument("folder", type=Path)
    phantom.add_argument("--seed", type=int, default=0)

    prepare = commands.add_parser("prepare", help="make a datalist from images and a table")
    prepare.add_argument("source", type=Path, help="folder of images, .npz, .zip, dataset.json, ...")
    prepare.add_argument("folder", type=Path, help="where datalist.json goes, and images that must be written")
    add_options(prepare)

    audit = commands.add_parser("audit", help="find leaks between the sections of a datalist, and copies")
    audit.add_argument("source", type=Path, help="datalist.json, or what `prepare` takes, as its publisher split it")
    audit.add_argument("folder", type=Path, nargs="?", help="where audit.json and audit.html go; default: beside it")
    audit.add_argument("--allow_leaks", action="store_true", help="report leaks, and end without an error")

    features = commands.add_parser(
        "features",
        help="write features of images as tables",
        epilog="Further flags override the bundle's configuration: --weights FILE --network_def @networks::resnet50",
    )
    features.add_argument("bundle", type=Path, help="folder of a trained bundle")
    features.add_argument("datalist", type=Path)
    features.add_argument("folder", type=Path)

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

    label_app = commands.add_parser(
        "label-app",
        help="write an app for MONAI Label that serves bundles, trains them and asks for labels",
        epilog="Further flags are what the bundle was trained with: --network_def @networks::resnet50 ...",
    )
    label_app.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE", help="folders of (trained) bundles")
    label_app.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the app")
    label_app.add_argument(
        "--overlay", action="append", default=[], metavar="FILE", help="config it was trained with: train_3d.yaml"
    )

    benchmark = commands.add_parser("benchmark", help="run a grid of methods, queries and seeds; one table of all")
    benchmark.add_argument("grid", type=Path, help="YAML file, such as benchmarks/boostmis/grid.yaml")
    benchmark.add_argument("folder", type=Path, nargs="?", help="where cells and results go; default: runs/NAME")
    benchmark.add_argument("--jobs", type=int, default=1, help="cells at a time")
    benchmark.add_argument("--dry_run", action="store_true", help="say what is left and what it costs")

    speed = commands.add_parser("speed", help="compare a training step with its floor, and list where time goes")
    speed.add_argument("bundle", type=Path, nargs="?", help="folder of a bundle; default: the shipped BoostMIS")
    speed.add_argument("--datalist", type=Path)
    speed.add_argument("--device")
    speed.add_argument("--json", action="store_true")

    for name, text in (("annotate", "give new labels to a pool"), ("correct", "replace labels of a pool")):
        command = commands.add_parser(name, help=f"{text}, from a table with the columns id and label, or mask")
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
        ValueError: if a flag has no value, or one that is no YAML.
    """
    import yaml

    values: dict[str, Any] = {}
    flags = [part for flag in flags for part in (flag.split("=", 1) if flag.startswith("--") else [flag])]
    for position in range(0, len(flags), 2):
        name = flags[position]
        if not name.startswith("--") or position + 1 == len(flags):
            raise ValueError(f"{name!r} must be a flag with a value, as in `--labels 20`.")
        text = flags[position + 1]
        refers = text.startswith(("@", "%", "$"))  # references, macros and expressions of MONAI are no YAML
        try:
            values[name[2:]] = text if refers else None if text == "None" else yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ValueError(f"the value of {name}, {text[:80]!r}, is no YAML; put quotes around a text.") from None
    return values


def _bundle(arguments: argparse.Namespace) -> int:
    from medssl_monai.bundle.run import copy_bundle

    print(copy_bundle(arguments.name, arguments.folder))
    return 0


def _phantom(arguments: argparse.Namespace) -> int:
    from medssl_monai.phantoms import make_phantom

    print(make_phantom(arguments.folder, arguments.kind, seed=arguments.seed))
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    import json

    from medssl_monai.options import options_of
    from medssl_monai.prepare.prepare import prepare

    path = prepare(arguments.source, arguments.folder, options_of(arguments))
    report = json.loads((path.parent / "prepare_report.json").read_text(encoding="utf-8"))
    for name, section in report["sections"].items():
        counts = ", ".join(f"{count} {label}" for label, count in section["classes"].items())
        labels = f"{section['labeled']} labeled" + (f" ({counts} in all)" if counts else "")
        labels += f", {section['masked']} masked" if "masked" in section else ""
        print(f"{name}: {section['items']} images, {section['groups']} groups, {labels}")
    rows, used = report["rows"].values()
    if used < rows:
        print(f"table: only {used} of its {rows} rows are of images here; the others are under 'dropped'")
    print(f"groups: {report['groups']}; split: {report['split']}")
    if report["label_list"]:
        print(report["label_list"])
    for line in report["merged_groups"][:SHOWN]:
        print(f"one group in several spellings: {line}")
    if len(report["merged_groups"]) > SHOWN:
        print(f"and {len(report['merged_groups']) - SHOWN} more, under 'merged_groups' in prepare_report.json")
    refused = json.loads(path.read_text(encoding="utf-8"))["quarantine"]
    for bad in refused[:SHOWN]:
        print(f"  {bad['id']} is {bad['image']}: {bad['reason']}", file=sys.stderr)
    if len(refused) > SHOWN:
        print(f"  and {len(refused) - SHOWN} more, under 'quarantine' in {path}", file=sys.stderr)
    if not any(section["labeled"] or section.get("masked") for section in report["sections"].values()):
        told = arguments.masks or (rows and arguments.label_column)
        why = "what was dropped or noted says why; else " if told else ""
        print(f"no label: {why}name a table (--table), masks (--masks) or --class_folders, or let `medssl loop` ask")
    print(path)
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    import tempfile

    from medssl_monai.audit.audit import audit
    from medssl_monai.prepare.prepare import prepare

    source, folder = arguments.source, arguments.folder
    if source.suffix == ".json" and source.name != "dataset.json":
        folder = folder or source.parent
        result = audit(source, folder)
    else:
        folder = folder or Path("audit")
        with tempfile.TemporaryDirectory() as temporary:
            result = audit(prepare(source, temporary, keep_duplicates=True, allow_leaks=True), folder)
    for line in result["merged_groups"][:SHOWN]:
        print(f"one group in several spellings: {line}")
    for kind in ("leaks", "errors", "warnings"):
        for text in result[kind]:
            print(f"{kind.removesuffix('s')}: {text}")
    bad = bool(result["leaks"] or result["errors"])
    images = sum(section["items"] for section in result["sections"].values())
    print(f"{images} images{'' if bad or result['warnings'] else ', nothing found'}; {folder / 'audit.html'}")
    return int(bad and not arguments.allow_leaks)


def _features(arguments: argparse.Namespace) -> int:
    from medssl_monai.bundle.features import write_features

    for path in write_features(arguments.bundle, arguments.datalist, arguments.folder, arguments.overrides):
        print(path)
    return 0


def _loop(arguments: argparse.Namespace) -> int:
    import logging

    from medssl_monai.asking.rounds import run_loop

    logging.basicConfig(level=logging.INFO)
    done = run_loop(
        arguments.bundle,
        arguments.folder,
        arguments.rounds,
        arguments.annotator,
        arguments.weights,
        arguments.overrides,
    )
    if done:
        print(arguments.folder / "report.html")
        return 0
    from medssl_monai.asking.record import read_query
    from medssl_monai.data import load_datalist

    query = max(arguments.folder.glob("round_*/queries/*.json"))
    print(f"a query waits for labels in {query.with_suffix('.csv')}")
    if arguments.overrides.get("datalist"):  # which file an id is stands here, in the terminal, and in no result
        settings = {name: arguments.overrides.get(name) for name in ("dataset_dir", "allow_leaks")}
        data = {item["id"]: item for item in load_datalist(arguments.overrides["datalist"], **settings)}
        for item in (data[asked["id"]] for asked in read_query(query)["items"]):
            print(f"  {item['id']} is {item['image']}" + (f", slice {item['slice']}" if "slice" in item else ""))
    return 0


def _label_app(arguments: argparse.Namespace) -> int:
    from medssl_monai.monai_label import write_app

    folder = write_app(arguments.output, arguments.bundles, arguments.overlay, arguments.overrides).resolve()
    names = sorted(path.name for path in (folder / "model").iterdir())
    print(folder)
    print(f"serves {', '.join(names)}" if names else f"serves nothing yet: copy bundles to {folder / 'model'}")
    print(f"monailabel start_server --app {folder} --studies STUDIES --host 127.0.0.1 --port 8000")
    return 0


def _benchmark(arguments: argparse.Namespace) -> int:
    import logging

    from medssl_monai.benchmark import run_benchmark

    logging.basicConfig(level=logging.INFO)
    states = run_benchmark(arguments.grid, arguments.folder, arguments.jobs, arguments.dry_run)
    return 0 if arguments.dry_run or all(state == "finished" for state, _ in states.values()) else 1


def _speed(arguments: argparse.Namespace) -> int:
    import json

    from medssl_monai.benchmark.speed import as_text, speed

    overrides = {name: str(value) for name in ("datalist", "device") if (value := getattr(arguments, name))}
    report = speed(arguments.bundle, overrides)
    print(json.dumps(report, indent=2) if arguments.json else as_text(report))
    return 0


def _change_labels(arguments: argparse.Namespace) -> int:
    """Labels of a person for a file of labels, which nobody else changes between reading and writing.

    A run has its labels in memory, and does not read its ``pool.json`` again: while it runs, that is not changed.
    """
    from medssl_monai.asking.record import read_query
    from medssl_monai.data import load_datalist
    from medssl_monai.locks import changing, check_free
    from medssl_monai.pool.tables import annotate_from_table

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
    lost = [reason for own in given.values() for reason in own.refused]
    for reason in lost:
        print(f"refused: {arguments.table.name}, {reason}", file=sys.stderr)
    return 1 if lost else 0


def _pool(labels: Path, data: Datalist) -> LabelPool:
    """The pool that a file of labels, of masks, or of both describes."""
    from medssl_monai.files import read_json
    from medssl_monai.pool import LabelPool
    from medssl_monai.pool.pool import is_table
    from medssl_monai.pool.tables import column_of
    from medssl_monai.tables import Table

    if table := is_table(labels):
        content = Table.read(labels)
        kinds = {key for key in ("label", "mask") if column_of(content, key, labels)}
    else:
        kinds = {str(read_json(labels).get("key"))}
    if "mask" in kinds and "label" not in kinds:
        return LabelPool(data, labels=labels, key="mask")
    if not data.mask_classes:
        return LabelPool(data, labels=labels)
    masks = labels if "mask" in kinds else 0 if table else None  # None: a file that says nothing of masks leaves them
    return LabelPool(data, labels=labels, beside=LabelPool(data, labels=masks, key="mask"))


COMMANDS = {
    "bundle": _bundle,
    "phantom": _phantom,
    "prepare": _prepare,
    "audit": _audit,
    "features": _features,
    "loop": _loop,
    "label-app": _label_app,
    "benchmark": _benchmark,
    "speed": _speed,
    "annotate": _change_labels,
    "correct": _change_labels,
}
