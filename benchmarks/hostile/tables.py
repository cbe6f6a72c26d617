"""What persons write: tables, answers, lists of labels, datalists; and pools and queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from doors import SOURCE, Harm, Kind, command, groups, prepare
from formats import png
from images import random
from spoil import Chance, Rows, json_file, render, same_table, spoiled_table
from watch import Door, Input, Places

from medssl_monai.asking.record import read_query
from medssl_monai.data import load_datalist
from medssl_monai.pool import LabelPool, Labels

CLASSES = ["mild", "severe", "größer"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"]
EXPECTED: dict[Harm, Any] = {"none": "truth", "same": "truth", "spoiled": "anything"}


def table_of(rows: Rows, chance: Chance, harm: Harm, what: list[str]) -> bytes:
    """Return a table as the harm wants it."""
    if harm == "none":
        return render(rows).encode()
    return same_table(rows, chance, what, ENCODINGS) if harm == "same" else spoiled_table(rows, chance, what)


def pictures(folder: Path, names: list[str]) -> None:
    """Return a PNG file each, all different."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(random(6 + number % 5, 7 + number // 5)))


def make_table(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return a folder of images with a table: a class for each, or several findings; sections of the publisher."""
    what: list[str] = []
    names = [f"site_{k % 2}/scan_{k}.png" for k in range(8)]
    pictures(places.source, names)
    form = chance.choice(["classes", "numbers", "findings", "sections"])
    flags: list[object] = ["--split", 1, 0, 0]
    labels: list[Any] = [CLASSES[k % 3] for k in range(8)]
    cells: Rows = [[name, label, f"0{k // 2}"] for k, (name, label) in enumerate(zip(names, labels, strict=True))]
    rows: Rows = [["image", "label", "patient"], *cells]
    if form == "numbers":
        rows = [
            ["path", "label", "patient", "id"],
            *([n, str(k % 3), f"P-{k // 2}", f"id{k}"] for k, n in enumerate(names)),
        ]
        labels = [str(k % 3) for k in range(8)]
    elif form == "findings":
        flags += ["--label_column", "edema,mass"]
        rows = [["image", "edema", "mass", "patient"]]
        rows += [[name, str(k % 2), str(k // 2 % 2), f"p{k}"] for k, name in enumerate(names)]
        labels = [[*(["edema"] if k % 2 else []), *(["mass"] if k // 2 % 2 else [])] for k in range(8)]
    elif form == "sections":
        flags = []
        section = ["train", "train", "train", "train", "val", "val", "test", "test"]
        rows = [[*rows[0], "split"], *([*row, own] for row, own in zip(rows[1:], section, strict=True))]
    path = places.source / "labels_of_scans.csv"
    path.write_bytes(table_of(rows, chance, harm, what))
    flags += ["--table", path] if chance.random() < 0.5 else []
    known = {Path(name).name: label for name, label in zip(names, labels, strict=True)}
    together = 1 if form == "findings" else 2
    patients = [[Path(name).name for name in names[k : k + together]] for k in range(0, 8, together)]

    def prepared() -> Any:
        return [prepare(places.source, places.out, *flags), groups(places.out / "datalist.json")]

    named = (path.name, *SOURCE, *(Path(name).name for name in names))
    call = Door("prepare", prepared, named, EXPECTED[harm], [known, patients])
    return Input([call], [form, *what], path)


def make_chest(chance: Chance, places: Places, harm: Harm) -> Input:
    """CheXpert's and NIH's tables."""
    what: list[str] = []
    if chance.random() < 0.5:
        names = [f"patient0000{k}/study1/view1_frontal_{k}.png" for k in range(6)]
        pictures(places.source / "train", names)
        findings = ["No Finding", "Edema", "Fracture"]
        from medssl_monai.prepare.layouts.chest import CHEXPERT

        rows: Rows = [["Path", "Sex", *CHEXPERT]]
        for k, name in enumerate(names):
            present = findings[k % 3]
            rows.append(
                [f"CheXpert-v1.0/train/{name}", "Female", *("1.0" if f == present else "0.0" for f in CHEXPERT)]
            )
        truth = {Path(name).name: [findings[k % 3]] for k, name in enumerate(names)}
        path = places.source / "train.csv"
    else:
        names = [f"images/0000000{k}_000.png" for k in range(6)]
        pictures(places.source, names)
        cells = ["Hernia", "Mass|Nodule", "Edema"]
        rows = [["Image Index", "Finding Labels", "Follow-up #", "Patient ID"]]
        rows += [[Path(name).name, cells[k % 3], "0", str(k + 1)] for k, name in enumerate(names)]
        truth = {Path(name).name: cells[k % 3].split("|") for k, name in enumerate(names)}
        path = places.source / "Data_Entry_2017.csv"
    path.write_bytes(table_of(rows, chance, harm, what))
    found = (path.name, *SOURCE, *(Path(name).name for name in names))
    call = Door("prepare", lambda: prepare(places.source, places.out, "--split", 1, 0, 0), found, EXPECTED[harm], truth)
    return Input([call], [path.name, *what], path)


def make_list(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return published lists of the labeled images."""
    what: list[str] = []
    names = [f"scan_{k}.png" for k in range(8)]
    pictures(places.source / "images", names)
    rows = [["image", "label"], *([f"images/{name}", CLASSES[k % 2]] for k, name in enumerate(names))]
    (places.source / "images.csv").write_bytes(render(rows).encode())
    listed = names[:4]
    if chance.random() < 0.5:
        path = places.source / "chosen.txt"
        content = "\n".join(listed).encode() + b"\n"
        if harm == "spoiled":
            content = spoiled_table([[name] for name in listed], chance, what)
    else:
        path = places.temporary / "chosen.csv"
        content = table_of(
            [["image", "label"], *([n, CLASSES[k % 2]] for k, n in enumerate(listed))], chance, harm, what
        )
    path.write_bytes(content)

    def labeled() -> list[str]:
        command("prepare", places.source, places.out, "--split", 1, 0, 0, "--label_list", path, "--table",
                places.source / "images.csv")  # fmt: skip
        content = json.loads((places.out / "datalist.json").read_text(encoding="utf-8"))
        return sorted(Path(item["image"]).name for item in content["training"] if item.get("labeled", True))

    found = (path.name, *SOURCE, *names)
    return Input([Door("prepare", labeled, found, EXPECTED[harm], sorted(listed))], [path.name, *what], path)


# what follows has a datalist


def datalist(places: Places, task: str = "classes") -> dict[str, Any]:
    """Return a small datalist; the first six of ten training items have a label."""
    labels: list[Any] = (
        [k % 3 for k in range(10)] if task == "classes" else [[k % 2, k // 2 % 2, -1] for k in range(10)]
    )
    training = [
        {"image": f"scan_{k}.png", "id": f"id{k}", "group": f"p{k}", **({"label": labels[k]} if k < 6 else {})}
        for k in range(10)
    ]
    other = [{"image": f"other_{k}.png", "id": f"v{k}", "group": f"q{k}", "label": labels[k]} for k in range(3)]
    return {
        "name": "small",
        "synthetic": False,
        "modality": {"0": "image"},
        "labels": {str(k): name for k, name in enumerate(CLASSES)},
        "training": training,
        "validation": other,
    }


def make_datalist(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return a datalist, written by hand."""
    what: list[str] = []
    tree = datalist(places, chance.choice(["classes", "findings"]))
    path = places.source / "datalist.json"
    truth = {s: [[i["id"], i["group"], i.get("label")] for i in tree[s]] for s in ("training", "validation")}
    names = list(tree["labels"].values())
    json_file(path, tree, chance, what, harm == "same", harm == "spoiled")

    def loaded(section: str) -> Any:
        data = load_datalist(path, section)
        return [list(data.classes), [[item["id"], item["group"], item.get("label")] for item in data]]

    doors = [
        Door(
            f"load_datalist {section}",
            lambda section=section: loaded(section),
            (path.name,),
            EXPECTED[harm],
            [names, truth[section]],
            (KeyError,),
        )
        for section in ("training", "validation")
    ]
    if chance.random() < 0.3:
        (places.temporary / "answers.csv").write_bytes(render([["id", "label"], ["id7", "mild"]]).encode())
        (places.temporary / "pool.json").write_text(json.dumps(pool_tree()), encoding="utf-8")
        doors.append(Door("annotate", lambda: annotated(places, "annotate", path), (path.name, "pool.json", "'id")))
    return Input(doors, what, path)


def pool_tree() -> dict[str, Any]:
    """Return what `LabelPool.save` writes."""
    labels = {f"id{k}": k % 3 for k in range(6)}
    head = {"synthetic": False, "datalist_sha256": "0" * 64, "key": "label", "names": CLASSES, "kind": "classes"}
    return {**head, "query_size": [0, 0], "labels": labels}


def annotated(places: Places, verb: str, path: Path, *flags: object) -> Any:
    """Return the labels after ``annotate`` or ``correct``."""
    labels, output = places.temporary / "pool.json", places.out / "pool_after.json"
    answers = next(places.temporary.glob("answers*"), places.temporary / "answers of Dr. X.csv")  # which may be gone
    command(verb, answers, "--datalist", path, "--labels", labels, "--output", output, *flags)
    return json.loads(output.read_text(encoding="utf-8"))["labels"]


def make_answers(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return the table that a person fills in."""
    what: list[str] = []
    verb = chance.choice(["annotate", "correct"])
    path = places.source / "datalist.json"
    path.write_text(json.dumps(datalist(places)), encoding="utf-8")
    tree = pool_tree()
    (places.temporary / "pool.json").write_text(json.dumps(tree), encoding="utf-8")
    ids = [f"id{k}" for k in (range(6, 10) if verb == "annotate" else range(4))]
    given = {name: chance.randrange(3) for name in ids}
    rows = [["id", "rank", "reason", "label"]]
    rows += [[n, "1", "uncertain", chance.choice([CLASSES[k], str(k)])] for n, k in given.items()]
    (places.temporary / "answers of Dr. X.csv").write_bytes(table_of(rows, chance, harm, what))
    names = (
        "answers of Dr. X.csv",
        "refused: ",
        *(f"'{name}'" for name in tree["labels"]),
        *(f"'{name}'" for name in ids),
    )
    truth = {**tree["labels"], **given}
    call = Door(verb, lambda: annotated(places, verb, path), names, EXPECTED[harm], truth)
    return Input([call], [verb, *what], places.temporary / "answers of Dr. X.csv")


def make_pool(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return the labels of a pool, as JSON and as a table."""
    what: list[str] = []
    path = places.source / "datalist.json"
    path.write_text(json.dumps(datalist(places)), encoding="utf-8")
    tree, data = pool_tree(), load_datalist(path)
    truth = [*(k % 3 for k in range(6)), *[None] * 4]
    if chance.random() < 0.6:
        file = places.source / "pool.json"
        if chance.random() < 0.3:  # written by a version of other order of classes
            tree["names"] = CLASSES[::-1]
            tree["labels"] = {name: 2 - label for name, label in tree["labels"].items()}
        json_file(file, tree, chance, what, harm == "same", harm == "spoiled")
    else:
        file = places.source / "pool.csv"
        rows = [["id", "label"], *([f"id{k}", CLASSES[k % 3]] for k in range(6))]
        file.write_bytes(table_of(rows, chance, harm, what))

    def loaded() -> Any:
        pool = LabelPool(Labels(data, file, names=CLASSES))
        return [pool.first.label(k) for k in range(10)]

    return Input([Door("LabelPool", loaded, (file.name,), EXPECTED[harm], truth)], [file.name, *what], file)


def make_query(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return a query as a file, read alone, and by ``annotate --query``."""
    what: list[str] = []
    path = places.source / "datalist.json"
    path.write_text(json.dumps(datalist(places)), encoding="utf-8")
    (places.temporary / "pool.json").write_text(json.dumps(pool_tree()), encoding="utf-8")
    (places.temporary / "answers.csv").write_bytes(render([["id", "label"], ["id7", "mild"]]).encode())
    items = [
        {"id": f"id{k}", "rank": k - 5, "reason": "uncertain", "scores": {"entropy": 0.5}, "predicted": "mild"}
        for k in (6, 7)
    ]
    tree = {"synthetic": False, "round": 0, "strategy": "x", "datalist_sha256": "0" * 64}
    tree |= {"parts": {"label": {"kind": "classes", "names": CLASSES}}, "query_size": [2, 4], "items": items}
    file = places.source / "round_00.json"
    truth = json.loads(json.dumps(tree))
    json_file(file, tree, chance, what, harm == "same", harm == "spoiled")
    labels = {**pool_tree()["labels"], "id7": 0}
    flags = ("--query", file)
    doors = [
        Door("read_query", lambda: read_query(file), (file.name,), EXPECTED[harm], truth),
        Door("annotate", lambda: annotated(places, "annotate", path, *flags), (file.name,), EXPECTED[harm], labels),
    ]
    return Input(doors, what, file)


KINDS = [
    Kind("table", make_table),
    Kind("chest tables", make_chest),
    Kind("label list", make_list),
    Kind("datalist", make_datalist),
    Kind("answers", make_answers),
    Kind("pool", make_pool),
    Kind("query", make_query),
]
