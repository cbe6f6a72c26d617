"""``medssl prepare``: make a datalist from images and a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medssl_monai.cli.command import SHOWN, Command


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    from medssl_monai.options import add_options

    parser.add_argument("source", type=Path, help="folder of images, .npz, .zip, dataset.json, ...")
    parser.add_argument("folder", type=Path, help="where datalist.json goes, and images that must be written")
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Make the datalist, and print what it holds and what was left out."""
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
        asked = arguments.masks or (rows and arguments.label_column)
        why = "what was dropped or noted says why; else " if asked else ""
        print(f"no label: {why}name a table (--table), masks (--masks) or --class_folders, or let `medssl loop` ask")
    print(path)
    return 0


COMMAND = Command("prepare", "make a datalist from images and a table", declare, run)
