"""Golden vectors: published results to reproduce, with a guard that no key of a file goes unused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Golden:
    """One file of golden vectors that keeps book of which arrays were used."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self._arrays = {key: file[key] for key in file.files}
        self.name = path.stem
        self.meta: dict[str, Any] = json.loads(str(self._arrays.pop("meta_json", "{}")))
        self.unused = set(self._arrays)

    def keys(self, prefix: str = "") -> list[str]:
        return [key for key in self._arrays if key.startswith(prefix)]

    def input(self, key: str) -> np.ndarray:
        self.unused.discard(key)
        return self._arrays[key].copy()

    def compare(self, key: str, value: Any, atol: float | None = None) -> None:
        """Shapes alike; floats within `atol` (1e-6 if both are float64, else 1e-4), all else equal."""
        expected, value = self.input(key), to_numpy(value)
        assert value.shape == expected.shape, f"{self.name}: {key} has shape {value.shape}, expected {expected.shape}"
        if np.issubdtype(expected.dtype, np.floating):
            if atol is None:
                atol = 1e-4 if np.float32 in (value.dtype, expected.dtype) else 1e-6
            np.testing.assert_allclose(value, expected, rtol=0, atol=atol, equal_nan=True, err_msg=key)
        else:
            np.testing.assert_array_equal(value, expected, err_msg=key)

    def compare_set(self, key: str, indices: Any) -> None:
        """The same indices in any order, none twice."""
        expected, found = self.input(key).ravel().tolist(), to_numpy(indices).ravel().tolist()
        assert sorted(found) == sorted(expected), f"{self.name}: {key} differs"

    def check_all_used(self) -> None:
        if self.unused:
            pytest.fail(f"{self.name}: neither read nor compared: {sorted(self.unused)}", pytrace=False)


def to_numpy(value: Any) -> np.ndarray:
    """Arrays, tensors (graph or not), numbers and iterables of indices."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    elif isinstance(value, Iterable) and not isinstance(value, np.ndarray):
        value = list(value)
    return np.asarray(value)


def open_golden(name: str) -> Golden:
    """`name` as in "boostmis/merge", in the folder that MEDSSL_GOLDEN names or in the one beside this file."""
    folder = Path(os.environ.get("MEDSSL_GOLDEN") or Path(__file__).parent / "golden")
    return Golden(folder / f"{name}.npz")


@pytest.fixture
def golden() -> Iterator[Callable[[str], Golden]]:
    """Opens a file of golden vectors; the test fails at its end if a key was neither read nor compared."""
    opened: list[Golden] = []

    def open_(name: str) -> Golden:
        opened.append(open_golden(name))
        return opened[-1]

    yield open_
    for file in opened:
        file.check_all_used()
