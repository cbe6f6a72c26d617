"""What a transform is, as a hash."""

import functools
import importlib
import os
import random
import re
import subprocess
import sys
import threading
from types import ModuleType

import monai
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad, OneOf, RandFlipd, Resized, ScaleIntensityd
from support import ROOT

from medssl_monai.data import fingerprint as module
from medssl_monai.data.fingerprint import NotCacheableError, fingerprint
from medssl_monai.readers import ClinicalReader
from medssl_monai.transforms import Channelsd

LEVEL = 0.5


class Window:
    """A user's transform."""

    def __init__(self, low=0.0, high=1.0, **more):
        self.low, self.high = low, high
        self.__dict__.update(more)


def above(level):
    return lambda image: image > level


def default(level=1):
    return level


def helper(image):
    return image > LEVEL


def by_helper(image):
    return helper(image)


class Node:
    """Part of itself."""

    def __init__(self, value):
        self.value, self.me = value, self


def chain(size=(8, 8), low=0.0, level=0.5):
    return Compose(
        [Channelsd("image", 1), ScaleIntensityd("image", low), Lambdad("image", above(level)), Resized("image", size)]
    )


@pytest.fixture(autouse=True)
def _forget():
    module._origin.cache_clear()
    module._installed.cache_clear()
    yield
    module._origin.cache_clear()
    module._installed.cache_clear()


@pytest.mark.parametrize(
    "make",
    [
        chain,
        Window,
        ClinicalReader,
        lambda: above(0.5),
        lambda: functools.partial(default, level=2),
        lambda: Window(kind={"b", "a", "c"}, map={"x": [1, 2.5, None]}, number=np.float32(0.1)),
        lambda: Window(
            array=np.arange(3), tensor=torch.arange(3.0), meta=MetaTensor(torch.zeros(2)), scalar=torch.ones(())
        ),
        lambda: Window(pattern=re.compile("a+"), dtype=torch.float16, path=ROOT, method=chain().flatten),
        lambda: Node(1),
        lambda: (fingerprint, np.add, len, str.upper, Window),
    ],
)
def test_what_computes_the_same_has_one_fingerprint(make):
    assert fingerprint(make()) == fingerprint(make())
    assert len(fingerprint(make())) == 64


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (chain(), chain(size=(8, 9))),
        (chain(), chain(low=0.1)),
        (chain(), chain(level=0.6)),
        (chain(), Compose(chain().transforms[::-1])),
        (chain(), Compose(chain().transforms[1:])),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x + 1, lambda x: x - 1),
        (lambda x: x.a, lambda x: x.b),
        (lambda x: [y + 1 for y in x], lambda x: [y + 2 for y in x]),
        (lambda x=1: x, lambda x=2: x),
        (lambda *, x=1: x, lambda *, x=2: x),
        (Window(1), Window(1.0)),
        (Window(1), Window(True)),
        (Window("1"), Window(1)),
        (Window(("a", "b")), Window(["a", "b"])),
        (Window({1, 2}), Window({1, 3})),
        (Window({"a": 1}), Window({"a": 2})),
        (Window(np.zeros(2)), Window(np.ones(2))),
        (Window(np.zeros(2)), Window(np.zeros(2, dtype=np.float32))),
        (Window(torch.zeros(2, 1)), Window(torch.zeros(1, 2))),
        (Window(torch.zeros(2)), Window(torch.zeros(2, dtype=torch.int32))),
        (Window(torch.float16), Window(torch.bfloat16)),
        (Window(np.float32), Window(np.float64)),
        (Window(re.compile("a")), Window(re.compile("b"))),
        (Window(functools.partial(default, level=1)), Window(functools.partial(default, level=2))),
        (Window(len), Window(sum)),
        (Window(Window), Window(ClinicalReader)),
        (Window(chain(low=1).__call__), Window(chain(low=2).__call__)),
        (Node(1), Node(2)),
    ],
)
def test_what_may_compute_something_else_has_another(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_a_global_value_that_a_function_uses_counts_and_others_do_not(monkeypatch):
    before = fingerprint(Window(by_helper))
    monkeypatch.setitem(globals(), "UNUSED", 1)
    assert fingerprint(Window(by_helper)) == before
    monkeypatch.setitem(globals(), "LEVEL", 0.7)
    assert fingerprint(Window(by_helper)) != before


def test_functions_of_a_configuration_have_no_module_and_yet_a_fingerprint():
    def made(text, **names):
        return eval(text, {"np": np, **names})

    assert fingerprint(made("lambda x: np.sqrt(x) + a", a=1)) == fingerprint(made("lambda x: np.sqrt(x) + a", a=1))
    assert fingerprint(made("lambda x: np.sqrt(x) + a", a=1)) != fingerprint(made("lambda x: np.sqrt(x) + a", a=2))
    assert fingerprint(made("lambda x: np.sqrt(x)")) != fingerprint(made("lambda x: np.sqrt(x)", np=torch))


@pytest.mark.parametrize(
    "state",
    [np.random.RandomState, np.random.default_rng, random.Random, lambda seed: torch.Generator().manual_seed(seed)],
)
def test_the_state_of_random_generators_does_not_count(state):
    assert fingerprint(Window(state(1))) == fingerprint(Window(state(2)))


def test_a_composition_that_was_seeded_or_used_is_the_same():
    seeded = chain().set_random_state(3)
    before = fingerprint(seeded)
    seeded({"image": torch.rand(1, 4, 4)})
    assert fingerprint(seeded) == before == fingerprint(chain())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Compose([RandFlipd("image")]), "RandFlipd is random, and random transforms belong to the views"),
        (OneOf([chain()]), "OneOf is random"),
        (Window(threading.Lock()), "a lock cannot be looked into"),
        (Window(part for part in ()), "a generator cannot be looked into"),
    ],
)
def test_what_cannot_be_known_is_refused(value, reason):
    with pytest.raises(NotCacheableError, match=reason):
        fingerprint(value)


def test_a_class_that_a_function_makes_is_refused():
    class Local(Window):
        pass

    with pytest.raises(NotCacheableError, match="Local is defined inside of a function"):
        fingerprint(Local())


def test_a_class_of_a_notebook_is_refused(monkeypatch):
    notebook = ModuleType("notebook")
    exec("class Mine: pass", vars(notebook))
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    with pytest.raises(NotCacheableError, match=r"the module notebook has no source.*put what is in it into a file"):
        fingerprint(notebook.Mine())


def test_a_function_that_is_not_complete_yet_is_refused():
    def outer():
        def inner():
            return later

        with pytest.raises(NotCacheableError, match="inner is bound to something that is not there yet"):
            fingerprint(inner)
        later = 1
        return inner

    assert fingerprint(outer()) == fingerprint(outer())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's package of three files: the transform, what it imports, and what that imports when it is called."""
    folder = tmp_path / "mylab"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "transform.py").write_text(
        "import json\nfrom . import first\n\nclass Mine:\n    pass\n\ndef f(x):\n    return x\n"
    )
    (folder / "first.py").write_text(
        "def call():\n    from mylab.second import second\n    import nowhere\n    return second\n"
    )
    (folder / "second.py").write_text("second = 1\n")
    (folder / "unused.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]


@pytest.mark.parametrize("what", ["Mine", "f"])
@pytest.mark.parametrize(("file", "counts"), [("transform", 1), ("first", 1), ("second", 1), ("unused", 0)])
def test_the_source_of_one_s_own_code_counts_and_that_of_all_it_imports(package, what, file, counts):
    mine = getattr(importlib.import_module("mylab.transform"), what)
    value = mine() if what == "Mine" else mine
    before = fingerprint(value)
    path = package / f"{file}.py"
    path.write_text(path.read_text() + "# changed\n")
    module._origin.cache_clear()
    assert (fingerprint(value) != before) == bool(counts)


def test_the_version_of_a_package_counts_for_what_is_from_it(monkeypatch):
    monkeypatch.setattr(module, "PACKAGES", ())
    before = fingerprint(Resized("image", (4, 4))), fingerprint(Window())
    module._origin.cache_clear()
    monkeypatch.setattr(monai, "__version__", "9.9")
    after = fingerprint(Resized("image", (4, 4))), fingerprint(Window)
    assert before[0] != after[0]


@pytest.mark.parametrize("name", ["monai", "medssl-monai", "pillow", "pydicom"])
def test_versions_of_decoders_count_for_everything(monkeypatch, name):
    before = fingerprint(len)
    versions = {package: module._installed(package) for package in module.PACKAGES}
    monkeypatch.setattr(module, "_installed", {**versions, name: "9.9"}.get)
    assert fingerprint(len) != before


def test_an_installed_package_stands_for_itself_under_whatever_name():
    assert module._package("PIL.Image") is not None
    assert module._package("sklearn.metrics") is not None
    assert module._package("json") == ("python", "")
    assert module._package("medssl_monai.readers.reader") is None or "site-packages" in module.__file__


@pytest.mark.slow
def test_processes_agree():
    code = (
        "import sys; sys.path += ['tests', '.']\n"
        "from medssl_monai.readers import ClinicalReader\n"
        "from medssl_monai.data.fingerprint import fingerprint\n"
        "from monai.transforms import *\n"
        "load, cut = LoadImaged('image', reader=ClinicalReader()), Lambdad('image', lambda x: x in {'a', 'b'})\n"
        "print(fingerprint(Compose([load, cut, Resized('image', (4, 4))])))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] and len(runs[0].strip()) == 64
