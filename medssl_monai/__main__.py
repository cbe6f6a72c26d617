"""``python -m medssl_monai``: the command ``medssl``."""

import sys

from medssl_monai.cli import main

if __name__ == "__main__":
    sys.exit(main())
