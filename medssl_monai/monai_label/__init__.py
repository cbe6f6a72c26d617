"""MONAI Label: our bundles, semi-supervised training and our queries in the radiologist's viewer.

MONAI Label has an environment of its own: `write` and what it imports do without it.
"""

from medssl_monai.monai_label.write import write_app

__all__ = ["write_app"]
