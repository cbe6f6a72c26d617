"""Where figures are from: machine, versions, and the commit of the sources."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import medssl_monai

ENVIRONMENT = ("machine", "cpu", "cores", "gpu", "python", "torch", "monai", "package", "commit", "threads", "date")
"""Names of the facts that stand beside every figure."""


def environment(threads: int) -> dict[str, Any]:
    """Return where figures are from: machine, versions, and the commit of this package's sources."""
    return {**_machine(), "threads": threads, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


@functools.cache
def _machine() -> dict[str, Any]:
    import monai
    import torch

    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "package": medssl_monai.__version__,
        "commit": _commit(),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Return the commit, with ``+`` if package or bundles have changed since; empty where there is no repository."""
    root = Path(medssl_monai.__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", "medssl_monai/__init__.py")
        changed = git("status", "--porcelain", "--", "medssl_monai", "bundles")
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
