"""``medssl label-app``: write an app for MONAI Label."""

from __future__ import annotations

import argparse
from pathlib import Path

from medssl_monai.cli.command import Command


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE", help="folders of (trained) bundles")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the app")
    parser.add_argument(
        "--overlay", action="append", default=[], metavar="FILE", help="config it was trained with: train_3d.yaml"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the app, and print how to start it."""
    from medssl_monai.monai_label import write_app

    folder = write_app(arguments.output, arguments.bundles, arguments.overlay, arguments.overrides).resolve()
    names = sorted(path.name for path in (folder / "model").iterdir())
    print(folder)
    print(f"serves {', '.join(names)}" if names else f"serves nothing yet: copy bundles to {folder / 'model'}")
    print(f"monailabel start_server --app {folder} --studies STUDIES --host 127.0.0.1 --port 8000")
    return 0


COMMAND = Command(
    "label-app",
    "write an app for MONAI Label that serves bundles, trains them and asks for labels",
    declare,
    run,
    overrides="Further flags are what the bundle was trained with: --network_def @networks::resnet50 ...",
)
