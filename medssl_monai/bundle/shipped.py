"""The bundles that this package ships, and copies of them."""

from __future__ import annotations

from pathlib import Path


def shipped_bundles() -> Path:
    """Return the folder of this package's bundles, in a source tree or in an installed wheel."""
    here = Path(__file__).parents[1]
    for folder in (here / "bundles", here.parent / "bundles"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("this installation has no bundles; install the package again.")


def copy_bundle(name: str, target: str | Path) -> Path:
    """Copy a shipped bundle to a folder of one's own.

    Raises:
        ValueError: if there is no such bundle.
        FileExistsError: if the folder is not empty.
    """
    import shutil

    names = sorted(path.name for path in shipped_bundles().iterdir() if (path / "configs").is_dir())
    if name not in names:
        raise ValueError(f"there is no bundle {name!r}; there are {names}.")
    target = Path(target)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; name a new folder.")
    shutil.copytree(
        shipped_bundles() / name,
        target,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("models", "eval", "__pycache__"),
    )
    return target
