"""Data sets in one file or a publisher's folder: zip, npz, CIFAR, SVHN, feature tables, Decathlon."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from containers import Member, archive, forged, npy, spoil_array, spoil_members
from doors import SOURCE, Harm, Kind, prepare
from formats import Array, nifti, png
from images import LPS, random
from spoil import Chance, append, json_file, render, same_table, spoil_bytes, spoil_tree, spoiled_table
from watch import Door, Input, Places

CLASSES = ["mild", "severe"]


def by_picture(pictures: Array, labels: Any, names: Any = None) -> dict[str, Any]:
    """Sum of the pixels of each picture to its label."""
    return {
        str(zlib.crc32(np.ascontiguousarray(pixels).tobytes())): names[label] if names else str(label)
        for pixels, label in zip(pictures, labels, strict=True)
    }


def prepared(places: Places, source: Path, *flags: object) -> dict[str, Any]:
    """`by_picture` of what `medssl prepare` wrote."""
    from PIL import Image

    told = prepare(source, places.out, *flags)
    found = {}
    content = json.loads((places.out / "datalist.json").read_text(encoding="utf-8"))
    for item in (item for section in ("training", "validation", "testing") for item in content.get(section, [])):
        with Image.open(places.out / item["image"]) as image:
            try:
                shown = str(zlib.crc32(np.asarray(image).tobytes()))
            except OSError:  # spoiled behind its header, which is all that is read of it here
                shown = item["image"]
            found[shown] = told[Path(item["image"]).name]
    return found


def doors(places: Places, source: Path, harm: Harm, truth: Any, names: tuple[str, ...], *flags: object) -> list[Door]:
    """`medssl prepare`; sound seeds, and those with bytes behind their end, must be understood."""
    expected: Any = {"none": "truth", "same": "truth or refusal", "spoiled": "anything"}[harm]
    names = (*names, source.name, *SOURCE)
    return [Door("prepare", lambda: prepared(places, source, *flags), names, expected, truth)]


def make_zip(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return a zip file with ``manifest.csv``."""
    what: list[str] = []
    pictures, labels = random(6, 8, 8), [0, 1, 0, 1, 1, 0]
    names = [f"folder/image_{k}.png" for k in range(6)]
    rows = [["image", "label", "id", "patient"]]
    rows += [
        [name, CLASSES[label], f"id{k}", f"p{k}"] for k, (name, label) in enumerate(zip(names, labels, strict=True))
    ]
    table = render(rows).encode()
    if harm == "same":
        table = same_table(rows, chance, what, ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    way = chance.randrange(5)
    if harm == "spoiled" and way == 0:
        table = spoiled_table(rows, chance, what)
    members = [Member(b"manifest.csv", table)]
    members += [Member(name.encode(), png(pixels)) for name, pixels in zip(names, pictures, strict=True)]
    if harm == "spoiled" and way in (1, 2, 3):
        before = {member.name for member in members}
        members = spoil_members(members, chance, what)
        new = [member.name for member in members if member.name not in before]
        if new and chance.random() < 0.8:  # the table names it, too
            lost = next(iter(before - {member.name for member in members}))
            renamed = render(rows).encode().replace(lost, b'"' + new[0] + b'"')
            members = [Member(b"manifest.csv", renamed) if m.name == b"manifest.csv" else m for m in members]
    content = archive(members)
    if harm == "spoiled" and way == 4:
        content = spoil_bytes(content, chance, what)
    source = places.source / "archive.zip"
    source.write_bytes(content)
    if harm == "spoiled" and chance.random() < 0.1:
        what.append("links in the output folder")
        (places.out / "folder").mkdir()
        for name in ("datalist.json", "prepare_report.json", names[0]):
            (places.out / name).symlink_to(places.victim)
    truth = by_picture(pictures, labels, CLASSES)
    return Input(doors(places, source, harm, truth, (), "--split", 1, 0, 0), what, source)


def npz(path: Path, arrays: Mapping[str, Array], chance: Chance, harm: Harm, what: list[str]) -> None:
    """Write arrays, one or two of them spoiled."""
    arrays = dict(arrays)
    way = chance.randrange(6) if harm == "spoiled" else None
    lied = chance.choice(list(arrays))
    if way in (0, 1, 2):
        name = chance.choice(list(arrays))
        action = chance.choice(["spoil", "spoil", "spoil", "gone", "exchanged"])
        what.append(f"npz: {action} {name}")
        if action == "spoil":
            arrays[name] = spoil_array(arrays[name], chance, what)
        elif action == "gone":
            del arrays[name]
        else:
            other = chance.choice(list(arrays))
            arrays[name], arrays[other] = arrays[other], arrays[name]
    members = [
        Member(f"{name}.npy".encode(), npy(array, chance, what) if way == 3 and name == lied else npy(array))
        for name, array in arrays.items()
    ]
    members = spoil_members(members, chance, what) if way == 4 else members
    content = archive(members)
    content = spoil_bytes(content, chance, what) if way == 5 else content
    path.write_bytes(append(content, chance) if harm == "same" and chance.random() < 0.3 else content)


def make_medmnist(chance: Chance, places: Places, harm: Harm) -> Input:
    """MedMNIST's arrays."""
    what: list[str] = []
    sizes = {"train": 6, "val": 3, "test": 2}
    pictures, labels = random(11, 8, 8, 3), np.array([0, 1, 2] * 3 + [0, 2])
    arrays, start = {}, 0
    for name, size in sizes.items():
        arrays[f"{name}_images"] = pictures[start : start + size]
        arrays[f"{name}_labels"] = labels[start : start + size, None].astype(np.uint8)
        start += size
    source = places.source / "arrays.npz"
    npz(source, arrays, chance, harm, what)
    return Input(doors(places, source, harm, by_picture(pictures, labels), ()), what, source)


def make_npz(chance: Chance, places: Places, harm: Harm) -> Input:
    """Images with ids."""
    what: list[str] = []
    pictures, labels = random(8, 8, 8), [0, 1] * 4
    arrays: dict[str, Array] = {
        "images": pictures,
        "ids": np.array([f"id{k}" for k in range(8)]),
        "labels": np.array(labels),
        "label_names": np.array(CLASSES),
        "split": np.array(["train"] * 4 + ["val"] * 2 + ["test"] * 2),
        "patients": np.array([f"p{k}" for k in range(8)]),
    }
    source = places.source / "arrays.npz"
    npz(source, arrays, chance, harm, what)
    return Input(doors(places, source, harm, by_picture(pictures, labels, CLASSES), ()), what, source)


def of_python_2(content: bytes) -> bytes:
    """Return a pickle of protocol 3 as Python 2 and an old NumPy wrote it, with text in place of bytes."""
    spoiled = bytearray(content)
    for operation, _, position in pickletools.genops(content):
        if position is not None and operation.name in ("SHORT_BINBYTES", "BINBYTES"):
            spoiled[position] = ord("U") if operation.name == "SHORT_BINBYTES" else ord("T")
    spoiled[1] = 2
    return bytes(spoiled).replace(b"cnumpy._core.", b"cnumpy.core.")


def make_cifar(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return the Python batches of CIFAR-10."""
    what: list[str] = []
    rows, labels = random(14, 3072), [k % 2 for k in range(14)]
    classes = [f"thing{k}" for k in range(10)]
    batches: dict[str, Any] = {}
    for name, part in (("data_batch_1", slice(0, 10)), ("test_batch", slice(10, 14))):
        files = [f"{name}_{k}.png".encode() for k in range(*part.indices(14))]
        batches[name] = {b"data": rows[part], b"labels": labels[part], b"filenames": files, b"batch_label": b"x"}
    batches["batches.meta"] = {b"label_names": [name.encode() for name in classes], b"num_vis": 3072}
    victim, way = chance.choice([*batches, "data_batch_1"]), chance.randrange(4)
    if harm == "spoiled" and way == 0:
        key = chance.choice(list(batches[victim]))
        what.append(f"pickle: forged {key!r}")
        batches[victim][key] = forged(chance)
    elif harm == "spoiled" and way == 1:
        if victim != "batches.meta" and chance.random() < 0.4:
            batches[victim][b"data"] = spoil_array(batches[victim][b"data"], chance, what)
        else:
            batches[victim] = spoil_tree(batches[victim], chance, what)
    for name, batch in batches.items():
        content = pickle.dumps(batch, protocol=chance.choice([3, 3, 4]))
        content = of_python_2(content) if content[1] == 3 and chance.random() < 0.7 else content
        if harm == "spoiled" and name == victim and way == 2:
            content = spoil_bytes(content, chance, what)
        elif harm == "spoiled" and name == victim and way == 3:
            old, new = chance.choice(
                [
                    (b"numpy", b"posix"),
                    (b"ndarray", b"dtype__"),
                    (b"_reconstruct", b"__import__\n_"),
                    (b"u1", b"O8"),
                    (b"K\x01", b"J\xff\xff\xff\x7f"),
                    (b"M\x00\x0c", b"J\xff\xff\xff\x7f"),
                ]
            )
            what.append(f"pickle: {new!r} for {old!r}")
            content = content.replace(old, new)
        (places.source / name).write_bytes(content)
    pictures = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Input(
        doors(places, places.source, harm, by_picture(pictures, labels, classes), tuple(batches)),
        what,
        places.source / victim,
    )


def make_svhn(chance: Chance, places: Places, harm: Harm) -> Input:
    """SVHN's MATLAB files."""
    from scipy.io import savemat

    what: list[str] = []
    pictures, labels = random(14, 32, 32, 3), [10 - k % 2 for k in range(14)]
    victim = chance.choice(["train_32x32.mat", "test_32x32.mat"])
    for name, part in (("train_32x32.mat", slice(0, 10)), ("test_32x32.mat", slice(10, 14))):
        arrays: dict[str, Any] = {
            "X": pictures[part].transpose(1, 2, 3, 0),
            "y": np.array(labels[part], np.uint8)[:, None],
        }
        way = chance.randrange(3) if name == victim and harm == "spoiled" else -1
        if way == 0:
            key = chance.choice("Xy")
            spoiled = spoil_array(arrays[key], chance, what)
            arrays[key] = np.array(["text"]) if spoiled.dtype.kind in "OUS" else spoiled
        content = io.BytesIO()
        savemat(content, arrays, do_compression=chance.random() < 0.5)
        encoded = content.getvalue()
        (places.source / name).write_bytes(spoil_bytes(encoded, chance, what) if way > 0 else encoded)
    truth = by_picture(pictures, [label % 10 for label in labels])
    return Input(
        doors(places, places.source, harm, truth, ("train_32x32.mat", "test_32x32.mat")), what, places.source / victim
    )


def make_features(chance: Chance, places: Places, harm: Harm) -> Input:
    """Tables of features."""
    what: list[str] = []
    features, targets = random(6, 5).astype(np.float32), np.array([0, 1, 1, 0, -1, 1])
    rows = [["id", "group"], *([f"id{k}", f"g{k}"] for k in range(6))]
    victim = chance.choice(["features", "targets", "items", "classes"]) if harm == "spoiled" else ""
    for name, array in (("features", features), ("targets", targets)):
        way = chance.randrange(3) if victim == name else -1
        spoiled = spoil_array(array, chance, what) if way == 0 else array
        content = npy(spoiled, chance, what) if way == 1 else npy(spoiled)
        content = spoil_bytes(content, chance, what) if way == 2 else content
        (places.source / f"train-{name}.npy").write_bytes(content)
    table = spoiled_table(rows, chance, what) if victim == "items" else render(rows).encode()
    if harm == "same":
        table = same_table(rows, chance, what, ["utf-8", "utf-8-sig", "utf-16"])
    (places.source / "train-items.csv").write_bytes(table)
    told = {"classes": list(CLASSES), "synthetic": False}
    json_file(places.source / "features.json", told, chance, what, harm == "same", victim == "classes")
    truth = {f"train-features.npy#{k}": None if t < 0 else CLASSES[t] for k, t in enumerate(targets)}
    expected: Any = {"none": "truth", "same": "truth", "spoiled": "anything"}[harm]
    names = ("train-features.npy", "train-targets.npy", "train-items.csv", "features.json", *SOURCE)
    call = Door("prepare", lambda: prepare(places.source, places.out, "--split", 1, 0, 0), names, expected, truth)
    return Input([call], what, places.source / f"train-{chance.choice(['features', 'targets'])}.npy")


def make_decathlon(chance: Chance, places: Places, harm: Harm) -> Input:
    """``dataset.json`` with volumes and their masks."""
    what: list[str] = []
    tree: dict[str, Any] = {"name": "liver", "labels": {"0": "background", "1": "liver"}, "training": [], "test": []}
    for folder in ("imagesTr", "labelsTr"):
        (places.source / folder).mkdir()
    for k in range(4):
        voxels, mask = random(4, 5, 3 + k, high=900, dtype=np.int16), random(4, 5, 3 + k, high=2)
        (places.source / f"imagesTr/case_{k}.nii.gz").write_bytes(nifti(voxels, LPS, True))
        (places.source / f"labelsTr/case_{k}.nii.gz").write_bytes(nifti(mask, LPS, True))
        tree["training"].append({"image": f"./imagesTr/case_{k}.nii.gz", "label": f"./labelsTr/case_{k}.nii.gz"})
    json_file(places.source / "dataset.json", tree, chance, what, harm == "same", harm == "spoiled")
    truth = {f"case_{k}.nii.gz": [f"case_{k}.nii.gz"] for k in range(4)}
    expected: Any = "anything" if harm == "spoiled" else "truth"
    names = ("dataset.json", *SOURCE)
    call = Door("prepare", lambda: prepare(places.source, places.out, "--split", 1, 0, 0), names, expected, truth)
    return Input([call], what, places.source / "dataset.json")


KINDS = [
    Kind("zip", make_zip),
    Kind("MedMNIST", make_medmnist),
    Kind("npz", make_npz),
    Kind("CIFAR", make_cifar),
    Kind("SVHN", make_svhn),
    Kind("feature tables", make_features),
    Kind("Decathlon", make_decathlon),
]
