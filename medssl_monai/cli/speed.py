"""``medssl speed``: compare a training step with its floor, and list where time goes."""

from __future__ import annotations

import argparse
from pathlib import Path

from medssl_monai.cli.command import Command


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", type=Path, nargs="?", help="folder of a bundle; default: the shipped BoostMIS")
    parser.add_argument("--datalist", type=Path)
    parser.add_argument("--device")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Print the report, as text or as JSON."""
    import json

    from medssl_monai.benchmark.speed import as_text, speed

    overrides = {name: str(value) for name in ("datalist", "device") if (value := getattr(arguments, name))}
    report = speed(arguments.bundle, overrides)
    print(json.dumps(report, indent=2) if arguments.json else as_text(report))
    return 0


COMMAND = Command("speed", "compare a training step with its floor, and list where time goes", declare, run)
