"""The hash of a transform: equal only if it computes the same."""

from __future__ import annotations

import ast
import copyreg
import hashlib
import importlib.metadata
import importlib.util
import random
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from monai.transforms.traits import RandomizableTrait
from torch import Tensor

RANDOM_STATES = (np.random.RandomState, np.random.Generator, random.Random, torch.Generator)
PLAIN = (type(None), bool, int, float, complex, str, bytes)
PACKAGES = (
    *("medssl-monai", "monai", "torch", "numpy", "scipy", "nibabel", "SimpleITK", "pillow", "pydicom"),
    *("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "python-gdcm"),
)
"""Whose versions decide about pixels, whether or not a transform shows that it uses them."""


class NotCacheableError(ValueError):
    """A result may change without its fingerprint; the message says which and why."""


def fingerprint(value: Any) -> str:
    """Return the hash of a transform's structure, the same in every process.

    It covers classes and parameters, recursively; of functions and lambdas the code, what it is bound to, and the
    values of the globals that it names; versions of Python and of `PACKAGES`; the version of the installed package
    that a class or function is from or, where that is none (this package in development, a user's own file), the
    source of its module and of all such modules that this one imports. States of random generators are left out.
    Not noticed: class attributes changed while the program runs, and files edited inside of ``site-packages``.

    Args:
        value: usually a `monai.transforms.Compose`.

    Returns:
        Hex digest.

    Raises:
        NotCacheableError: if a part of it is random, was defined in a notebook, or cannot be looked into.
    """
    describer = _Describer()
    structure = describer.describe(value, ())
    content = (sys.version, [_installed(name) for name in PACKAGES], structure, sorted(describer.origins.items()))
    return hashlib.sha256(repr(content).encode()).hexdigest()


class _Describer:
    """Objects as nested tuples of plain values, and where their code is from."""

    def __init__(self) -> None:
        self.origins: dict[str, tuple[Any, ...]] = {}
        self.functions: dict[int, FunctionType] = {}

    def describe(self, value: Any, above: tuple[int, ...]) -> Any:
        """Return an object as nested tuples; `above` are the objects that this one is part of."""
        if type(value) in PLAIN:
            return value
        if id(value) in above:
            return "part of itself", above.index(id(value))
        above = (*above, id(value))
        kind = type(value).__qualname__
        if isinstance(value, RANDOM_STATES):
            return "random state"
        if isinstance(value, RandomizableTrait) and type(value) is not Compose:
            raise NotCacheableError(f"{kind} is random, and random transforms belong to the views")
        if isinstance(value, ModuleType):
            return "module", value.__name__, self.origin(value.__name__)
        if isinstance(value, type):
            if "<locals>" in value.__qualname__:
                raise NotCacheableError(f"the class {value.__qualname__} is defined inside of a function")
            return "class", value.__qualname__, self.origin(value.__module__)
        if isinstance(value, FunctionType):
            return self.function(value, above)
        if isinstance(value, CodeType):
            return value.co_code, value.co_names, value.co_freevars, self.describe(value.co_consts, above)
        if isinstance(value, Tensor):
            plain = torch.Tensor.detach(value).cpu().contiguous()
            pixels = plain.flatten().view(torch.uint8).numpy().tobytes()
            return kind, str(value.dtype), tuple(value.shape), hashlib.sha256(pixels).digest()
        if type(value) in (tuple, list):
            return kind, *(self.describe(part, above) for part in value)
        if type(value) is dict:
            return kind, *((self.describe(key, above), self.describe(part, above)) for key, part in value.items())
        if type(value) in (set, frozenset):
            return kind, *sorted(repr(self.describe(part, above)) for part in value)
        return self.object(value, above)

    def object(self, value: Any, above: tuple[int, ...]) -> Any:
        """Return an object as pickle sees it: what makes it, its state, its elements."""
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            reduced: Any = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:  # an object may refuse in any way
            raise NotCacheableError(f"a {type(value).__qualname__} cannot be looked into ({error})") from error
        if isinstance(reduced, str):  # a name, such as that of a built-in function
            return reduced, self.describe(type(value), above), getattr(value, "__module__", None)
        make, arguments, state, elements, pairs = [*reduced, None, None, None][:5]
        parts = (make, arguments, state, list(elements or ()), list(pairs or ()))
        return tuple(self.describe(part, above) for part in parts)

    def function(self, function: FunctionType, above: tuple[int, ...]) -> Any:
        """Return code, what it is bound to, and the globals that it names unless a package's version says it all."""
        if id(function) in self.functions:
            return "function", list(self.functions).index(id(function))
        self.functions[id(function)] = function
        try:
            bound = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError as error:
            raise NotCacheableError(f"{function.__qualname__} is bound to something that is not there yet") from error
        module = sys.modules.get(function.__module__ or "")
        origin = self.origin(module.__name__) if module and getattr(module, "__file__", None) else None
        names = set() if origin and _package(origin) else _names(function.__code__) & set(function.__globals__)
        used = {name: function.__globals__[name] for name in sorted(names)}
        parts = (function.__code__, function.__defaults__, function.__kwdefaults__, bound, used)
        return "function", origin, *(self.describe(part, above) for part in parts)

    def origin(self, module: str) -> str:
        """Return the module's name; what stands for its code goes to `origins`."""
        if module not in self.origins:
            self.origins[module] = _origin(module)
        return module


def _names(code: CodeType) -> set[str]:
    """Return the names that the code, or a function inside of it, looks up."""
    return set(code.co_names).union(*(_names(part) for part in code.co_consts if isinstance(part, CodeType)))


@cache
def _origin(module: str) -> tuple[Any, ...]:
    """Return what stands for the code of a module: a package and its version, or the hashes of sources."""
    package = _package(module)
    if package:
        return "package", *package
    sources: dict[str, str] = {}
    packages: set[tuple[str, str]] = set()
    queue = [module]
    while queue:
        name = queue.pop()
        package, path = _package(name), _path(name)
        if package:
            packages.add(package)
        elif path and name not in sources:
            sources[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            queue.extend(_imports(name, path))
    if module not in sources:
        raise NotCacheableError(f"the module {module} has no source, as a notebook; put what is in it into a file")
    return "sources", *sorted(sources.items()), *sorted(packages)


def _package(module: str) -> tuple[str, str] | None:
    """Return name and version of the installed package that a module is part of; None if it has no version."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return "python", ""
    path = _path(top)
    if path is None or not {"site-packages", "dist-packages"} & set(path.parts):
        return None
    version = getattr(sys.modules.get(top), "__version__", None) or _installed(top)
    if not version:
        version = " ".join(map(_installed, importlib.metadata.packages_distributions().get(top, ())))
    return (top, str(version)) if version else None


@cache
def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _path(module: str) -> Path | None:
    """Return the file of a module, whether it is imported already or not; None if there is none."""
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # not installed, or a class or function and no module
            return None
        file = spec.origin if spec else None
    path = Path(file) if file else None
    return path if path and path.is_file() else None


def _imports(module: str, path: Path) -> Iterator[str]:
    """Yield the modules that a module's source names in an import, at its top or anywhere else."""
    if path.suffix != ".py":
        return
    parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), parent)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
