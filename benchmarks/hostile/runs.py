"""What runs leave and read again: states, weights, metadata, the cache; and overrides of a command."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from containers import Evil, Evil2, Forged
from doors import Harm, Kind
from formats import png, voxels
from images import random
from spoil import Chance, Payloads, json_file, odd, spoil_bytes, spoil_tree, text
from watch import Door, Input, Places

from medssl_monai import bundle
from medssl_monai.bundle.describe import describe_data
from medssl_monai.bundle.overrides import check_overrides, nested
from medssl_monai.cli.overrides import parse_overrides
from medssl_monai.data import ImageDataset
from medssl_monai.handlers import TrainingCheckpoint
from medssl_monai.networks.pretrained import load_weights
from medssl_monai.pool import LabelPool, Labels

CLASSES = ["mild", "severe"]
BUNDLE = bundle.shipped_bundles() / "boostmis"


def values_of(state: Any) -> dict[str, Any]:
    """Tensors of a state, by name, as plain values."""
    return {name: voxels(value.numpy()) for name, value in state.items()}


def network() -> torch.nn.Module:
    """Return a small one, always the same."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 2)
    )


def trained() -> dict[str, Any]:
    """Weights that differ from those that `network` begins with."""
    return {
        name: value + 0.25 if value.is_floating_point() else value for name, value in network().state_dict().items()
    }


def odd_value(chance: Chance) -> Any:
    """In place of a part of a state."""
    tensors = [torch.full((4,), torch.nan), torch.zeros(0), torch.ones(3, 2, dtype=torch.float64), torch.tensor(True)]
    code = [Evil(), Evil2(), Forged(os.system, (f"touch {Payloads.canary}",)), Path("x"), torch.nn.Linear(1, 1)]
    return chance.choice([odd(chance), odd(chance), chance.choice(tensors), chance.choice(code)])


def save(path: Path, tree: Any, chance: Chance, harm: Harm, what: list[str]) -> bool:
    """Write a state, spoiled before or after; returns whether bytes were spoiled."""
    way = chance.randrange(3) if harm == "spoiled" else -1
    if way == 0:
        for _ in range(chance.choice([1, 1, 2])):
            tree = spoil_tree(tree, chance, what, odd_value) if isinstance(tree, dict | list) else tree
    torch.save(tree, path)
    if way > 0:
        path.write_bytes(spoil_bytes(path.read_bytes(), chance, what))
    return way > 0


def make_state(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return the state of a training, from which it goes on."""
    from ignite.engine import Engine

    what: list[str] = []
    path = places.source / "state.pt"
    items = [{"id": f"id{k}", "image": f"{k}.png", "label": k % 2} for k in range(4)]

    def parts() -> tuple[Any, Any, Any, Any]:
        model, engine = network(), Engine(lambda engine, batch: None)
        optimizer, pool = (
            torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
            LabelPool(Labels(items, names=CLASSES)),
        )
        engine.state.epoch_length, engine.state.max_epochs, engine.state.iteration = 3, 4, 0
        return model, optimizer, pool, engine

    def handler(model: Any, optimizer: Any, pool: Any, engine: Any) -> TrainingCheckpoint:
        checkpoint = TrainingCheckpoint(path, {"network": model, "optimizer": optimizer, "pool": pool})
        checkpoint.objects["trainer"] = engine
        return checkpoint

    model, optimizer, pool, engine = parts()
    model.load_state_dict(trained())
    engine.state.iteration = 6
    checkpoint = handler(model, optimizer, pool, engine)
    checkpoint.load(engine)  # there is none yet
    checkpoint.save(engine)
    bytewise = False
    if harm == "spoiled":
        tree = torch.load(path, weights_only=True)
        bytewise = save(path, tree, chance, harm, what)

    def loaded() -> Any:
        parts_of_run = parts()
        handler(*parts_of_run).load(parts_of_run[3])
        return values_of(parts_of_run[0].state_dict())

    expected: Any = "truth" if harm != "spoiled" else "truth or refusal" if bytewise else "anything"
    doors = [Door("TrainingCheckpoint", loaded, (path.name,), expected, values_of(trained()), (KeyError,))]
    return Input(doors, what, path)


def make_weights(chance: Chance, places: Places, harm: Harm) -> Input:
    """Weights that somebody else trained."""
    what: list[str] = []
    path = places.source / "model.pt"
    tree: dict[str, Any] = trained()
    if harm == "spoiled" and chance.random() < 0.1:
        name = chance.choice(["0.weight", "3.weight"])
        tree[name] = tree[name] * chance.choice([torch.nan, torch.inf])
        what.append("weights that are not finite")
        torch.save(tree, path)
    else:
        save(path, {"model": tree} if chance.random() < 0.3 else tree, chance, harm, what)

    def loaded() -> Any:
        model = network()
        load_weights(model, path)
        return values_of(model.state_dict())

    expected: Any = "truth" if harm != "spoiled" else "refusal" if "weights that are not finite" in what else "anything"
    return Input([Door("load_weights", loaded, (path.name,), expected, values_of(trained()))], what, path)


@cache
def metadata() -> str:
    """Of a shipped bundle."""
    return (BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8")


@cache
def inference() -> str:
    """Return the configuration that predicts, which reads the metadata."""
    return (BUNDLE / "configs" / "inference.json").read_text(encoding="utf-8")


def at_the_root(call: Callable[[], Any]) -> Any:
    """Return what `call` gives, or the error that MONAI has wrapped, as the command line says it."""
    try:
        return call()
    except RuntimeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from None


def make_metadata(chance: Chance, places: Places, harm: Harm) -> Input:
    """``metadata.json`` of a bundle, by our functions, and as ``monai.bundle run`` reads it for a prediction."""
    what: list[str] = []
    root = places.source / "bundle"
    (root / "configs").mkdir(parents=True)
    tree = json.loads(metadata())
    tree = {key: tree[key] for key in ("version", "monai_version", "name", "network_data_format")}
    formats = tree["network_data_format"]
    formats["outputs"]["pred"]["channel_def"] = dict(zip("01", CLASSES, strict=True))
    harmed = harm == "spoiled"
    if harmed and chance.random() < 0.3:
        what.append("hostile class")
        formats["outputs"]["pred"]["channel_def"]["1"] = text(chance)
    json_file(root / "configs" / "metadata.json", tree, chance, what, harm == "same", harmed and not what)
    (root / "configs" / "inference.json").write_text(inference(), encoding="utf-8")

    def told() -> Any:
        content = bundle.metadata_of(root)
        names, size = bundle.classes_of([], content), bundle.image_size_of(content)
        return [names, bundle.mask_classes_of([], content), bundle.channels_of([], content), size]

    def described() -> Any:
        describe_data(root, CLASSES, 1, [32, 32], False)
        return [bundle.classes_of([], bundle.metadata_of(root)), bundle.image_size_of(bundle.metadata_of(root))]

    file, asked = root / "configs" / "inference.json", ("classes", "channels", "image_size")

    def predicted() -> Any:
        run = bundle.workflow([file], "infer", logging_file=False, bundle_root=str(root))
        return [run.parser.get_parsed_content(name) for name in asked]

    def by_monai() -> Any:
        from monai.bundle import ConfigWorkflow

        run = ConfigWorkflow(str(file), workflow_type="infer", logging_file=False, bundle_root=str(root))
        return [run.parser.get_parsed_content(name) for name in asked]

    expected: Any = "anything" if harmed else "truth"
    name = ("metadata.json",)
    doors = [
        Door("metadata_of", told, name, expected, [CLASSES, CLASSES, 1, [64, 64]]),
        Door("workflow", lambda: at_the_root(predicted), name, expected, [CLASSES, 1, [64, 64]]),
        Door("monai.bundle run", by_monai, ("",), expected, [CLASSES, 1, [64, 64]], (Exception,)),  # its own messages
        Door("describe_data", described, name, expected, [CLASSES, [32, 32]]),
    ]
    return Input(doors, what, root / "configs" / "metadata.json")


def make_cache(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return a pack of decoded images; whatever is done to it, images are what their files hold."""
    from monai.transforms import Compose, LoadImaged, ScaleIntensityRanged

    from medssl_monai.readers import ClinicalReader

    what: list[str] = []
    pictures, items = random(5, 8, 8), []
    for k, pixels in enumerate(pictures):
        path = places.source / f"{k}.png"
        path.write_bytes(png(pixels))
        os.utime(path, (time.time() - 1000, time.time() - 1000))
        items.append({"image": str(path), "id": f"id{k}"})
    folder = places.out / "cache"

    def images() -> Any:
        load = LoadImaged("image", reader=ClinicalReader(), image_only=True, ensure_channel_first=True)
        chain = Compose([load, ScaleIntensityRanged("image", 0, 255, 0, 1)])
        return voxels(ImageDataset(items, chain, cache_dir=folder).images.numpy())

    images()
    pack = next(folder.glob("*/*.npy"))
    if harm == "spoiled":
        content = pack.read_bytes()
        way = chance.randrange(7)
        what.append(f"pack: way {way}")
        if way == 0:
            content = content.replace(
                b"(5, 1, 8, 8)", chance.choice([b"(8, 1, 5, 8)", b"(9999999999,)", b"(5, 1, 8,) ", b"(-1,)      "])
            )
        elif way == 1:
            content = content.replace(b"|u1", chance.choice([b"|i1", b"|O1", b"<f8", b"|b1"]))
        elif way == 2:
            content = content[:8] + struct.pack("<H", chance.choice([0, 1, 65535])) + content[10:]
        elif way == 3:
            evaluated = f"{Payloads.evaluated()[1][1:]}\n".encode()
            content = content[:8] + struct.pack("<H", len(evaluated)) + evaluated + content[128:]
        else:
            content = spoil_bytes(content, chance, what)
        pack.write_bytes(content)
    truth = voxels(pictures.transpose(0, 2, 1)[:, None])
    return Input([Door("ImageDataset", images, ("id",), "truth", truth)], what, pack)


@cache
def training() -> dict[str, Any]:
    """Return the configuration of a shipped bundle."""
    from monai.bundle import ConfigParser

    config: dict[str, Any] = nested(ConfigParser.load_config_file(BUNDLE / "configs" / "train.yaml"))
    return config


def make_overrides(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return flags of ``medssl loop``, and of ``monai.bundle run``."""
    what: list[str] = []
    flags: dict[str, str] = {"--labels": "20", "--seed": "1", "--query::budget": "5", "--image_size": "[32, 32]"}
    values: dict[str, Any] = {"labels": 20, "seed": 1, "query::budget": 5, "image_size": [32, 32]}
    words = [part for pair in flags.items() for part in pair]
    if harm == "same":
        words = [f"{name}={value}" for name, value in flags.items()]
        what.append("same: with =")
    elif harm == "spoiled":
        for _ in range(chance.choice([1, 1, 2])):
            k = chance.randrange(len(words))
            way = chance.randrange(8)
            what.append(f"flags: way {way} at {words[k]}")
            if way < 3:
                name = "--" if k % 2 == 0 else ""
                words[k] = name + text(chance).replace("\0", "")[:2000]
            elif way == 3:
                del words[k]
            elif way == 4:
                words.insert(k, words[k])
            elif way == 5:
                words[k] = chance.choice(
                    ["[" * 5000, "{a: b", "&a [*a]", "*a", "!!python/name:os.system", "- a: b: c", "\t", "2024-13-45"]
                )
            elif way == 6:
                bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
                bomb += "".join(
                    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n"
                    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
                )
                words[k] = bomb
            else:
                words[k] = chance.choice(
                    ["--", "--=", "---", "--config_file", "--network_def::", "--train::0::x", "--#", "-x", "--x=1"]
                )
            if not words:
                words = ["--"]
    said = tuple(word for word in words if word) or ("",)

    def parsed() -> Any:
        found = parse_overrides(words)
        check_overrides(found, training())
        return found

    def checked() -> Any:
        argv = ["/x/monai/bundle/__main__.py", "run", "--config_file", str(BUNDLE / "configs" / "train.yaml"), *words]
        with contextlib.redirect_stdout(io.StringIO()):
            bundle.check_command_line(argv)
        return "checked"

    expected: Any = "anything" if harm == "spoiled" else "truth"
    named = (*said, "override", "flag")
    doors = [
        Door("parse_overrides", parsed, named, expected, values),
        Door("check_command_line", checked, (*named, "config"), expected, "checked"),
    ]
    return Input(doors, what)


KINDS = [
    Kind("state", make_state),
    Kind("weights", make_weights),
    Kind("metadata", make_metadata),
    Kind("cache", make_cache),
    Kind("overrides", make_overrides),
]
