"""What a layout is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medssl_monai.data.datalist import Key
from medssl_monai.options import Options
from medssl_monai.prepare.pseudonym import Names


@dataclass(frozen=True)
class Request(Options):
    """The options of the caller, for one source; a layout decides on what they leave open."""

    source: Path
    out_dir: Path
    names: Names = field(default_factory=Names)

    @property
    def mask_key(self) -> Key:
        """Key of the masks in an item: beside the labels if their classes have names, else in place of the labels."""
        return "mask" if self.mask_classes else "label"
