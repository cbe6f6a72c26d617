"""Embedded synthetic data: real files with patient groups, drawn from a seed, to learn and test with.

A file per kind says what makes its classes. Everything else (anatomy, position, scanner, exposure, bias field, noise)
varies between patients and says nothing about the label. The numbers in these files were fixed by supervised runs
alone, see `benchmarks/phantom/README.md`.

A further kind is one more file with a function that writes patients' files and yields their items, and an entry in
`KINDS`.
"""

from medssl_monai.phantoms.base import VERSION, Phantom
from medssl_monai.phantoms.make import KINDS, make_phantom

__all__ = ["KINDS", "VERSION", "Phantom", "make_phantom"]
