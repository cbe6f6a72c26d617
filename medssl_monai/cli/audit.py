"""``medssl audit``: find leaks between the sections of a datalist, and copies."""

from __future__ import annotations

import argparse
from pathlib import Path

from medssl_monai.cli.command import SHOWN, Command


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("source", type=Path, help="datalist.json, or what `prepare` takes, as its publisher split it")
    parser.add_argument("folder", type=Path, nargs="?", help="where audit.json and audit.html go; default: beside it")
    parser.add_argument("--dataset_dir", type=Path, help="where a datalist's relative paths start; default: beside it")
    parser.add_argument("--allow_leaks", action="store_true", help="report leaks, and end without an error")


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; 1 if that is a leak or an error, and leaks are not allowed."""
    import tempfile

    from medssl_monai.audit.audit import audit
    from medssl_monai.prepare.prepare import prepare

    source, folder = arguments.source, arguments.folder
    if source.suffix == ".json" and source.name != "dataset.json":
        folder = folder or source.parent
        result = audit(source, folder, arguments.dataset_dir)
    elif arguments.dataset_dir:
        raise ValueError(f"`--dataset_dir` is for the paths of a datalist.json, and {source} is none; leave it out.")
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


COMMAND = Command("audit", "find leaks between the sections of a datalist, and copies", declare, run)
