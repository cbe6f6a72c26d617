"""Pixels and geometry of one file or series."""

from medssl_monai.readers.reader import ClinicalReader

__all__ = ["ClinicalReader"]
