"""The audit as a whole, on data made up and on real ones."""

import csv
import io
import itertools
import json
import re
import zipfile
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image
from support_audit import clean, pixels

from medssl_monai.audit.audit import audit
from medssl_monai.audit.leaks import check_leaks
from medssl_monai.data import load_datalist, write_datalist
from medssl_monai.prepare.prepare import prepare

PATIENT = re.compile(r"(person\d+|(?:NORMAL2-)?IM-\d+)[_-]")


def test_a_clean_datalist_has_nothing_to_say(folder):
    path = folder(training=clean(), validation=clean(4, 10), testing=clean(4, 20))
    result = audit(path)
    assert result["leaks"] == result["errors"] == result["warnings"] == []
    assert result["sections"]["validation"] == {
        **{"items": 4, "groups": 4, "labeled": 4},
        "labels": {"benign": 2, "malignant": 2},
    }
    check_leaks(path)


def test_shifts_are_warnings_in_words(folder, tmp_path):
    training = [{"seed": k, "label": 0} for k in range(30)]
    path = folder(training=training, validation=[{"image": f"b{k}.png", "label": 1} for k in range(30)])
    for k in range(30):
        Image.fromarray(pixels(100 + k) // 2 + 120).save(tmp_path / f"b{k}.png")
    text = "\n".join(audit(path)["warnings"])
    assert "benign is 100.0% of training, 0.0% of validation: more than chance explains" in text
    assert "images of validation are brighter than those of training" in text
    assert "images of validation are of lower contrast than those of training" in text


def test_files_that_were_set_aside_are_listed(folder):
    path = folder(training=clean())
    content = json.loads(path.read_text())
    path.write_text(
        json.dumps({**content, "quarantine": [{"id": "q", "image": "secret.dcm", "reason": "is damaged."}]})
    )
    assert audit(path)["unreadable"] == [{"id": "q", "section": "none", "reason": "is damaged."}]


def test_no_path_is_in_any_result(tmp_path):
    images = tmp_path / "Doe^Jane 1970" / "images"
    images.mkdir(parents=True)
    items = {"training": [], "validation": []}
    for k, (section, seed) in enumerate([("training", 0), ("training", 1), ("validation", 0), ("validation", 1)]):
        Image.fromarray(pixels(seed)).resize((40 + 20 * (k == 3),) * 2).save(images / f"secret{k}.png")
        items[section].append({"image": f"images/secret{k}.png", "id": f"i{k}", "group": f"g{k}", "label": 0})
    items["validation"].append({"image": "images/secret9.png", "id": "gone", "group": "g9", "label": 0})
    write_datalist(images.parent / "datalist.json", items, name="data")
    out = tmp_path / "out"
    result = audit(images.parent / "datalist.json", out)
    assert result["exact_copies"]["count"] == result["near_copies"]["count"] == len(result["unreadable"]) == 1
    for name in ("audit.json", "audit.html"):
        text = (out / name).read_text(encoding="utf-8")
        assert "i0" in text
        assert not re.search(r"secret|Doe|Jane|\.png", text)


def test_the_file_holds_what_is_returned(folder, tmp_path):
    result = audit(folder(training=clean(), validation=[{"seed": 0}]), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8")) == result
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2
    assert "validation-0" in page


@pytest.fixture(scope="module")
def pneumonia(real_data, tmp_path_factory):
    """PneumoniaMNIST with the publisher's split, and its arrays."""
    source = real_data / "pneumoniamnist_28_trainval.npz"
    with np.load(source) as file:
        arrays = {name: file[name] for name in file.files}
    return prepare(source, tmp_path_factory.mktemp("pneumonia"), keep_duplicates=True, allow_leaks=True), arrays


@pytest.mark.slow
def test_pneumonia_mnist(pneumonia):
    path, arrays = pneumonia
    result = audit(path)
    images = {part: [image.tobytes() for image in arrays[f"{part}_images"]] for part in ("train", "val")}
    count = Counter(images["train"])
    recurring = [image for image in images["val"] if image in count]
    assert (len(recurring), sum(count[image] for image in set(recurring))) == (8, 10)  # as the data's README says
    assert result["recurring"][0]["exact"] == {"images": 8, "copies": 10}
    assert result["exact_copies"]["repeats"] == {"training": 18}
    patients = {part: [PATIENT.match(name) for name in arrays[f"{part}_ids"]] for part in ("train", "val")}
    known = {match[1] for match in patients["train"] if match}
    assert sum(bool(match and match[1] in known) for match in patients["val"]) == 341
    assert result["shared_groups"]["pairs"][0]["items"]["validation"] == 341
    assert result["near_copies"]["count"] <= 5
    with pytest.raises(ValueError, match=r"341 of 524 validation .* 8 of 524 images, 10 copies"):
        check_leaks(path)


@pytest.mark.slow
def test_lesions_that_cross_the_lists_of_tear(real_data, tmp_path):
    with zipfile.ZipFile(real_data / "ham10000_200x150_trainval.zip") as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("manifest.csv").decode())))
    lists = defaultdict(list)
    for row in rows:
        if row["tear_split"]:
            lists[row["tear_split"]].append(row)
    assert {name: len(members) for name, members in lists.items()} == {"train": 7673, "val": 59, "test": 270}
    with np.load(real_data / "ham10000_28_trainval.npz") as file:
        images = dict(zip(file["ids"].tolist(), file["images"], strict=True))
    sections = defaultdict(list)
    for name, section in (("train", "training"), ("val", "validation"), ("test", "testing")):
        for row in lists[name]:
            Image.fromarray(images[row["id"]]).save(tmp_path / f"{row['id']}.png", compress_level=1)
            item = {"image": f"{row['id']}.png", "id": row["id"], "group": row["lesion_id"], "label": int(row["label"])}
            sections[section].append(item)
    write_datalist(tmp_path / "datalist.json", sections, allow_leaks=True)
    result = audit(tmp_path / "datalist.json")
    lesions = {name: {row["lesion_id"] for row in members} for name, members in lists.items()}
    crossing = [lesion for lesion, times in Counter(itertools.chain(*lesions.values())).items() if times > 1]
    assert len(crossing) > 100
    assert {entry["name"] for entry in result["shared_groups"]["list"]} == set(crossing)
    concerned = sum(row["lesion_id"] in lesions["train"] for row in lists["test"])
    pair = next(p for p in result["shared_groups"]["pairs"] if p["sections"] == ["training", "testing"])
    assert pair["items"]["testing"] == concerned > 100
    with pytest.raises(ValueError, match=rf"{concerned} of 270 testing images"):
        check_leaks(tmp_path / "datalist.json")


@pytest.mark.slow
def test_planted_copies_of_real_chest_radiographs(real_data):
    from medssl_monai.data.copies import near_copies, picture

    with np.load(real_data / "nih_cxr_64_unlabelled.npz") as file:
        images = file["images"][:2500]
    rng = np.random.default_rng(2024)
    planted = rng.permutation(len(images))[:250]
    copies = []
    for position in planted:
        values = (images[position] / 255) ** rng.uniform(0.9, 1.1) * 255
        image = Image.fromarray(values.round().astype(np.uint8))
        image = image.resize([round(64 * rng.uniform(0.5, 2.0))] * 2, rng.choice([2, 3, 4]))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=50)
        copies.append(np.asarray(Image.open(buffer)))
    thumbnails = [picture(array[None]).thumbnail for array in [*images, *copies]]
    found = {(i, j) for i, j, _ in near_copies(thumbnails, list(range(len(thumbnails))))}
    expected = {(int(position), len(images) + k) for k, position in enumerate(planted)}
    assert len(found & expected) >= 0.95 * len(expected)
    assert len(found - expected) <= 5


@pytest.mark.slow
def test_slices_of_real_volumes_are_no_copies(real_data, tmp_path):
    path = prepare(real_data / "msd_hippocampus_trainval.zip", tmp_path, keep_duplicates=True)
    assert len(load_datalist(path)) > 5000
    result = audit(path)
    assert result["leaks"] == result["errors"] == []
    assert result["near_copies"]["count"] <= 5
