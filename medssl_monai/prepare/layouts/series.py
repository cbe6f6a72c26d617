"""Folders for DICOM series that share theirs with others."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def put_series(folder: Path, files: Sequence[Path], link: bool = False) -> None:
    """Give the files of a series a folder of their own, in place of what was there.

    Args:
        folder: which.
        files: of the series.
        link: do not copy them, where the file system can link.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, mode=0o700)
    for k, file in enumerate(files):
        target = temporary / f"{k:05d}.dcm"
        if link:
            with suppress(OSError):
                target.symlink_to(file.resolve())
        if not target.is_symlink():
            shutil.copyfile(file, target)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
