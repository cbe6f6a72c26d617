"""Who stored which label, and when."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medssl_monai.files import private_mode, sha256

NAME = "labels.jsonl"


class Record:
    """A file of one JSON object per line, to which is only added, readable by its owner alone.

    Each line has ``time`` (UTC), ``event`` (``stored``, ``removed``), ``user`` and ``client`` as the request says them,
    ``image``, ``tag``, ``kind`` (``class``, ``mask``) and ``sha256`` of the label's file. MONAI Label passes no user
    that it has authenticated, so that these two are claims; a proxy's own log knows better.

    Args:
        folder: beside the datastore's own file.

    Raises:
        OSError: if the file cannot be written, or is a link.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / NAME
        self._append("")  # what cannot be recorded must not be stored

    def write(self, event: str, image: str, tag: str, kind: str, file: Path | None, info: Mapping[str, Any]) -> None:
        """Add a line.

        Args:
            event: what happened.
            image: id.
            tag: of the label.
            kind: of the label.
            file: the label; None: there is none any more.
            info: of the request: ``user``, ``client_id``, or the ``model`` that predicted.
        """
        model = f"model {info['model']}" if isinstance(info.get("model"), str) else "unknown"
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "user": _said(info.get("user")) or model,
            "client": _said(info.get("client_id")) or "unknown",
            **{"image": image, "tag": tag, "kind": kind},
            "sha256": sha256(file) if file else None,
        }
        self._append(json.dumps(line) + "\n")

    def _append(self, text: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(self.path, flags, private_mode())
        try:
            os.write(handle, text.encode())
            os.fsync(handle)
        finally:
            os.close(handle)


def _said(value: Any) -> str:
    return value[:100] if isinstance(value, str) else ""
