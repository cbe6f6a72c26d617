"""What a command is: a name, its arguments, and a function that runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

SHOWN = 20
"""The most lines of one sort that a command prints."""


class Command(NamedTuple):
    """A command of ``medssl``. Its file imports what the function needs when it is called, so that help is quick.

    Args:
        name: as it is typed.
        help: what it does, in a line.
        declare: adds its arguments to a parser.
        run: gets all arguments as one object; returns the exit status.
        overrides: help on further flags, which override a bundle's configuration; empty if there are none.
    """

    name: str
    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    overrides: str = ""
