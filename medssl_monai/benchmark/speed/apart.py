"""Measurements in a process of their own, so that a peak of memory is its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast


def apart(work: Callable[..., dict[str, Any]], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a function returns that is called in a fresh process.

    Args:
        work: at the top of its module.
        arguments: plain values, by name.

    Raises:
        ValueError: if the process fails.
    """
    code = (
        "import importlib, json, sys; from pathlib import Path; "
        "work = getattr(importlib.import_module(sys.argv[1]), sys.argv[2]); "
        "Path(sys.argv[4]).write_text(json.dumps(work(**json.loads(sys.argv[3]))))"
    )
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-c", code, work.__module__, work.__name__, json.dumps(arguments), str(answer)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ValueError(f"the measurement `{work.__name__}` ended early: {last}")
        return cast(dict[str, Any], json.loads(answer.read_text(encoding="utf-8")))
