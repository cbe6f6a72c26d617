"""The command ``medssl``."""

from medssl_monai.cli.program import main

__all__ = ["main"]
