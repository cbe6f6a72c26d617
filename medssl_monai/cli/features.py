"""``medssl features``: write features of images as tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from medssl_monai.cli.command import Command


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", type=Path, help="folder of a trained bundle")
    parser.add_argument("datalist", type=Path)
    parser.add_argument("folder", type=Path)


def run(arguments: argparse.Namespace) -> int:
    """Write the tables, and print their paths."""
    from medssl_monai.bundle.features import write_features

    for path in write_features(arguments.bundle, arguments.datalist, arguments.folder, arguments.overrides):
        print(path)
    return 0


COMMAND = Command(
    "features",
    "write features of images as tables",
    declare,
    run,
    overrides="Further flags override the bundle's configuration: --weights FILE --network_def @networks::resnet50",
)
