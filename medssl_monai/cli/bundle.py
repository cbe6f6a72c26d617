"""``medssl bundle``: copy a bundle to a folder of your own."""

from __future__ import annotations

import argparse
from pathlib import Path

from medssl_monai.cli.command import Command


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("name", help="boostmis, tear, s2mts2, ssal or multimix")
    parser.add_argument("folder", type=Path)


def run(arguments: argparse.Namespace) -> int:
    """Copy the bundle, and print its folder."""
    from medssl_monai.bundle.shipped import copy_bundle

    print(copy_bundle(arguments.name, arguments.folder))
    return 0


COMMAND = Command("bundle", "copy a bundle to a folder of your own", declare, run)
