"""Names for people and files that say nothing to whoever lacks the key."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from medssl_monai.data.patients import as_written, same_patient


def default_key_file() -> Path:
    """Return ``$MEDSSL_KEY_FILE``, or else ``medssl_monai/pseudonym.key`` in ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    if named := os.environ.get("MEDSSL_KEY_FILE"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medssl_monai" / "pseudonym.key"


def load_key(path: str | Path | None = None) -> bytes:
    """Return the private key of pseudonyms; made at the first call, readable by its owner only (mode 0600).

    Whoever has the key can tell which pseudonym a known person got. Another key gives other pseudonyms, so keep it
    with the data that it was used on, and never beside what is passed on.

    Args:
        path: file of 32 bytes in hexadecimal; default: `default_key_file`.

    Raises:
        PermissionError: if others may read the file.
        ValueError: if the file holds no key.
    """
    path = Path(path or default_key_file())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise PermissionError(f"others may read the key file {path}: protect it with `chmod 600`, or name another.")
    text = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < 16:
        raise ValueError(f"{path} holds no key (at least 16 bytes in hexadecimal); restore it, or name another file.")
    return key


def pseudonym(key: bytes, kind: str, name: str) -> str:
    """Return twelve hexadecimal digits of an HMAC-SHA256 of `name`, after a letter for its kind.

    Args:
        key: from `load_key`.
        kind: what is named, such as ``"patient"``; the same name of another kind gets another pseudonym.
        name: what must not be seen.
    """
    digest = hmac.new(key, f"{kind}\0{name}".encode("utf-8", errors="surrogatepass"), hashlib.sha256).hexdigest()
    return f"{kind[0]}{digest[:12]}"


@dataclass
class Names:
    """Ids and groups in place of what may name a person.

    Args:
        clear: keep paths and the groups of tables as they are, for images that are public anyway.
        key_file: see `medssl_monai.prepare.pseudonym.load_key`.
        as_written: groups whose names differ in case, blanks, ``^`` or leading zeros are not one.

    Attributes:
        spellings: how each group was written, in the order in which the spellings came.
    """

    clear: bool = False
    key_file: str | Path | None = None
    as_written: bool = False
    spellings: dict[str, dict[str, None]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> bytes:
        """Private key, made when first needed."""
        return load_key(self.key_file)

    def file(self, path: str, uid: str = "") -> str:
        """Return the id of a file, by its path relative to the source or, wherever it lies, by its DICOM UID."""
        return path if self.clear else pseudonym(self.key, "file", uid or path)

    def group(self, text: str) -> str:
        """Return the group of a cell: the same for all spellings of one patient, and for their DICOM files."""
        return self._group(text, self.clear)

    def patient(self, patient_id: str) -> str:
        """Return the group of a DICOM PatientID, which is never shown."""
        return self._group(patient_id, False)

    def _group(self, text: str, shown: bool) -> str:
        text = as_written(text)
        key = text if self.as_written else same_patient(text)
        if key not in self._names:
            self._names[key] = text if shown else pseudonym(self.key, "patient", key)
        self.spellings.setdefault(self._names[key], {})[text] = None
        return self._names[key]
