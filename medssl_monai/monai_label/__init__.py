"""MONAI Label: our bundles, semi-supervised training and our queries in the radiologist's viewer.

`app`, `infer`, `train` and `scoring` import MONAI Label, which has an environment of its own; the other files do not.
"""

from medssl_monai.monai_label.write import write_app

__all__ = ["write_app"]
