"""``medssl phantom``: make synthetic images with a datalist."""

from __future__ import annotations

import argparse
from pathlib import Path

from medssl_monai.cli.command import Command


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "kind",
        help="spine2, spine6, spine_cord, chest, chest14, chest14_unknown, chest_joint, chest_joint_far, lesion7 or "
        "lesion_mask",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> int:
    """Make the images, and print the path of their datalist."""
    from medssl_monai.phantoms import make_phantom

    print(make_phantom(arguments.folder, arguments.kind, seed=arguments.seed))
    return 0


COMMAND = Command("phantom", "make synthetic images with a datalist", declare, run)
