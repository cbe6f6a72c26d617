"""The command ``medssl``."""

from medssl_monai.cli.command import main

__all__ = ["main"]
