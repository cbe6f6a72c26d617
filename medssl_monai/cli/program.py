"""The program ``medssl``: every command is one call. For research, not a medical device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from medssl_monai import __version__
from medssl_monai.cli import audit, benchmark, bundle, features, label_app, labels, loop, phantom, prepare, speed
from medssl_monai.cli.overrides import parse_overrides

COMMANDS = (
    bundle.COMMAND,
    phantom.COMMAND,
    prepare.COMMAND,
    audit.COMMAND,
    features.COMMAND,
    loop.COMMAND,
    label_app.COMMAND,
    benchmark.COMMAND,
    speed.COMMAND,
    labels.ANNOTATE,
    labels.CORRECT,
)
"""In the order in which the help names them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = build_parser()
    known, rest = parser.parse_known_args(arguments)
    if known.command is None:
        if rest:
            parser.error(f"unknown argument {rest[0]!r}")
        parser.print_help()
        return 2
    command = next(command for command in COMMANDS if command.name == known.command)
    if rest and not command.overrides:
        parser.error(f"unknown argument {rest[0]!r}")
    try:
        if command.overrides:
            known.overrides = parse_overrides(rest)
        return command.run(known)
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
    """Return the parser of all commands and their arguments."""
    parser = argparse.ArgumentParser(
        prog="medssl",
        description="Label-efficient learning for medical images on MONAI. For research, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.declare(subparsers.add_parser(command.name, help=command.help, epilog=command.overrides or None))
    return parser
