"""What a layout is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medssl_monai.data.datalist import Key
from medssl_monai.options import Options
from medssl_monai.prepare.pseudonym import Names


@dataclass(frozen=True)
class Request(Options):
    """What the caller said, of which source, and where to write; a layout decides what they left open."""

    source: Path
    out_dir: Path
    names: Names = field(default_factory=Names)

    @property
    def mask_key(self) -> Key:
        """Where masks go: with names for their classes beside the labels, else in their place."""
        return "mask" if self.mask_classes else "label"
