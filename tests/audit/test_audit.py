"""The audit finds what was put into a datalist, and what is known of real ones."""

import csv
import io
import itertools
import json
import logging
import re
import zipfile
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from medssl_monai.audit.audit import audit
from medssl_monai.audit.leaks import check_leaks
from medssl_monai.data import load_datalist, write_datalist
from medssl_monai.prepare.prepare import prepare

PATIENT = re.compile(r"(person\d+|(?:NORMAL2-)?IM-\d+)[_-]")


def pixels(seed, size=40):
    rng = np.random.default_rng(seed)
    values = sum(np.kron(rng.normal(0, 1, (size // side,) * 2), np.ones((side, side))) for side in (2, 4, 8))
    return (40 + 170 * (values - values.min()) / np.ptp(values)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Writes a datalist of PNG files: per section, a list of items with ``seed`` in place of ``image``."""

    def _write(allow_leaks=True, classes=("benign", "malignant"), mask_classes=(), **sections):
        written = {}
        for section, items in sections.items():
            written[section] = []
            for position, item in enumerate(items):
                item = {"id": f"{section}-{position}", "label": 0, **item}
                if "seed" in item:
                    item["image"] = f"{item['id']}.png"
                    Image.fromarray(pixels(item.pop("seed"))).save(tmp_path / item["image"])
                written[section].append({"group": item["id"], **item})
        path = tmp_path / "datalist.json"
        write_datalist(path, written, classes=classes, name="made", allow_leaks=allow_leaks, mask_classes=mask_classes)
        return path

    return _write


def clean(count=4, start=0):
    return [{"seed": start + k, "label": k % 2} for k in range(count)]


def ids(entry):
    return [item["id"] for item in entry["items"]]


# what is clean


def test_a_clean_datalist_has_nothing_to_say(folder):
    path = folder(training=clean(), validation=clean(4, 10), testing=clean(4, 20))
    result = audit(path)
    assert result["leaks"] == result["errors"] == result["warnings"] == []
    assert result["sections"]["validation"] == {
        **{"items": 4, "groups": 4, "labeled": 4},
        "labels": {"benign": 2, "malignant": 2},
    }
    check_leaks(path)


def test_any_sections_will_do(folder):
    assert list(audit(folder(testing=clean()))["sections"]) == ["testing"]
    assert audit(folder(training=[], validation=clean()))["leaks"] == []


# groups


def test_groups_in_several_sections_with_the_items_concerned(folder):
    training = [{"seed": 0, "group": "p1"}, {"seed": 1, "group": "p1"}, {"seed": 2, "group": "p2"}, {"seed": 3}]
    validation = [{"seed": 10, "group": "p1"}, {"seed": 11, "group": "p2"}, {"seed": 12, "group": "p2"}, {"seed": 13}]
    path = folder(training=training, validation=validation, testing=[{"seed": 20, "group": "p2"}])
    result = audit(path)
    assert result["shared_groups"]["count"] == 2
    assert result["shared_groups"]["list"][0] == {"name": "p1", "items": {"training": 2, "validation": 1}}
    pairs = {tuple(pair["sections"]): (pair["count"], pair["items"]) for pair in result["shared_groups"]["pairs"]}
    assert pairs == {
        ("training", "validation"): (2, {"training": 3, "validation": 3}),
        ("training", "testing"): (1, {"training": 1, "testing": 1}),
        ("validation", "testing"): (1, {"validation": 2, "testing": 1}),
    }
    expected = (
        "groups (patients, lesions) in both training and validation: 2, with 3 of 4 training and 3 of 4 validation"
    )
    assert result["leaks"][0].startswith(expected)
    with pytest.raises(ValueError, match=r"leaks: groups .* in both training and validation: 2, .*`allow_leaks`"):
        check_leaks(path)


def test_spellings_of_a_patient_are_one_and_are_listed(folder, tmp_path):
    training = [{"seed": k, "group": str(k), "label": k % 2} for k in range(3)]
    validation = [{"seed": 10 + k, "group": group, "label": k % 2} for k, group in enumerate(("1.0", "002", "7"))]
    path = folder(training=training, validation=validation)
    result = audit(path, tmp_path)
    assert result["merged_groups"] == ["'1' = '1.0' (2 images)", "'2' = '002' (2 images)"]
    assert {entry["name"] for entry in result["shared_groups"]["list"]} == {"1 = 1.0", "2 = 002"}
    assert any("groups that are spelled in several ways, and count as one: 2" in text for text in result["warnings"])
    with pytest.raises(ValueError, match="training and validation: 2, with"):
        check_leaks(path)
    path.write_text(path.read_text().replace('"name": "made"', '"name": "made", "groups_as_written": true'))
    result = audit(path)
    assert result["merged_groups"] == ["'1' = '1.0' (2 images)"]  # .0 is none of the patient's
    assert result["shared_groups"]["count"] == 1
    path.write_text(path.read_text().replace('"1.0"', '"9"'))
    assert audit(path)["merged_groups"] == []
    check_leaks(path)


def test_slices_of_one_volume_in_two_sections(folder, tmp_path):
    import nibabel as nib

    volume = np.stack([pixels(seed) for seed in range(4)], axis=-1).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, np.diag([-1, -1, 1, 1])), tmp_path / "v.nii")
    cut = [{"image": "v.nii", "slice": k, "id": f"v#{k}"} for k in range(4)]  # no group: each slice is its own
    path = folder(training=cut[:3], validation=cut[3:])
    result = audit(path)
    assert result["leaks"] == [
        "volumes in both training and validation: 1, with 3 of 3 training and 1 of 1 validation images."
    ]
    assert result["shared_volumes"]["list"] == [{"items": {"training": 3, "validation": 1}}]  # its name is a path
    assert result["near_copies"]["count"] == result["exact_copies"]["count"] == 0
    with pytest.raises(ValueError, match="volumes in both training and validation: 1"):
        check_leaks(path)


# copies


def test_exact_copies_are_counted_as_distinct_images_and_copies(folder):
    training = [{"seed": 0}, {"seed": 0}, {"seed": 1}, {"seed": 2}, {"seed": 2}, {"seed": 3}]
    validation = [{"seed": 0}, {"seed": 1}, {"seed": 1}, {"seed": 10}]
    path = folder(training=training, validation=validation)
    result = audit(path)
    (recurring,) = result["recurring"]
    assert recurring["exact"] == {"images": 3, "copies": 3}
    assert recurring["list"][0] == {"id": "validation-0", "exact": ["training-0", "training-1"], "near": []}
    assert result["exact_copies"]["repeats"] == {"training": 2, "validation": 1}
    assert [ids(entry) for entry in result["exact_copies"]["list"]] == [
        ["training-0", "training-1", "validation-0"],
        ["training-2", "validation-1", "validation-2"],
        ["training-3", "training-4"],
    ]
    assert result["leaks"] == ["exact copies in training of validation images: 3 of 4 images, 3 copies."]
    assert "training images that repeat another one exactly: 2." in result["warnings"]
    with pytest.raises(ValueError, match=re.escape(result["leaks"][0])):
        check_leaks(path)


def test_equal_pixels_in_files_of_other_bytes(folder, tmp_path):
    path = folder(training=clean(), validation=[{"image": "again.png"}, {"image": "rgb.png"}, {"seed": 10}])
    Image.fromarray(pixels(0)).save(tmp_path / "again.png", compress_level=0)
    Image.fromarray(pixels(1)).convert("RGB").save(tmp_path / "rgb.png")
    result = audit(path)
    assert result["recurring"][0]["exact"] == {"images": 2, "copies": 2}
    check_leaks(path)  # bytes differ; only the audit decodes
    audit(path, path.parent)
    with pytest.raises(ValueError, match="exact copies in training of validation images: 2 of 3"):
        check_leaks(path)  # what an audit beside the datalist said counts


def test_near_copies_warn(folder, tmp_path, caplog):
    path = folder(training=clean(12), validation=[{"image": "near.jpg"}, *clean(3, 20)])
    Image.fromarray(pixels(5)).resize((60, 60)).save(tmp_path / "near.jpg", quality=50)
    result = audit(path, tmp_path)
    assert result["leaks"] == []
    assert result["warnings"][0] == "near copies in training of validation images: 1 of 4 images, 1 copies."
    (pair,) = result["near_copies"]["list"]
    assert ids(pair) == ["training-5", "validation-0"]
    assert (pair["crossing"], pair["same_group"]) == (True, False)
    assert 0.9 < pair["score"] < 1
    assert result["recurring"][0]["list"] == [{"id": "validation-0", "exact": [], "near": ["training-5"]}]
    with caplog.at_level(logging.WARNING):
        check_leaks(path)
    assert "audit of the data: near copies in training of validation images: 1 of 4 images" in caplog.text


def test_near_copies_of_exact_copies_name_the_pair_that_crosses(folder, tmp_path):
    training = [{"seed": 5}, {"image": "near.jpg", "label": 0}, *clean(3, 20)]
    path = folder(training=training, validation=[{"seed": 5, "label": 1}, *clean(3, 30)])
    Image.fromarray(pixels(5)).resize((60, 60)).save(tmp_path / "near.jpg", quality=50)
    (pair,) = audit(path)["near_copies"]["list"]
    assert sorted(ids(pair)) == ["training-1", "validation-0"]
    assert pair["crossing"] and pair["conflict"]


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [(0, 1, True), (0, 0, False), (0, None, False), ([1, -1], [1, 0], False), ([1, 0], [0, -1], True)],
)
def test_contradicting_labels(folder, tmp_path, first, second, conflict):
    training = [{"seed": 0, "label": first}, {"seed": 1, "label": first}]
    training += [{"seed": 0, "label": second}, {"image": "near.jpg", "label": second}]
    path = folder(training=training)
    Image.fromarray(pixels(1)).resize((60, 60)).save(tmp_path / "near.jpg", quality=50)
    result = audit(path)
    assert result["exact_copies"]["conflict"] == result["near_copies"]["conflict"] == conflict
    assert result["errors"] == ["sets of exact copies with labels that contradict each other: 1."] * conflict
    assert ("pairs of near copies with labels that contradict each other: 1." in result["warnings"]) == conflict
    check_leaks(path)  # within a section nothing leaks


@pytest.mark.parametrize("same", [True, False])
def test_masks_of_exact_copies_are_compared_by_their_pixels(folder, tmp_path, same):
    for name, level in (("a.png", 0), ("b.png", 1)):
        Image.fromarray(pixels(50 if same else 50 + level) > 120).save(tmp_path / name, compress_level=level)
    path = folder(training=[{"seed": 0, "label": "a.png"}, {"seed": 0, "label": "b.png"}])
    result = audit(path)
    assert result["exact_copies"]["conflict"] == (not same)
    assert result["exact_copies"]["list"][0]["items"][0]["label"] == "mask"
    assert "a.png" not in json.dumps(result)


@pytest.mark.parametrize("same", [True, False])
def test_classes_and_masks_beside_them_are_counted_and_compared(folder, tmp_path, same):
    for name, level in (("a.png", 0), ("b.png", 1)):
        Image.fromarray(pixels(50 if same else 50 + level) > 120).save(tmp_path / name, compress_level=level)
    training = [
        {"seed": 0, "mask": "a.png"},
        {"seed": 0, "label": None, "mask": "b.png"},
        {"seed": 1, "label": 1, "labeled": False},
        {"seed": 2, "label": 1, "mask": "a.png", "masked": False},
    ]
    validation = [{"seed": 3}, {"seed": 0, "label": None, "mask": "a.png"}]
    path = folder(training=training, validation=validation, mask_classes=["skin", "lesion"])
    result = audit(path, tmp_path)
    summary = result["sections"]["training"]
    assert {kind: summary[kind] for kind in ("items", "labeled", "masked")} == {"items": 4, "labeled": 2, "masked": 2}
    assert summary["labels"] == {"malignant": 2, "benign": 1, "none": 1}
    assert result["sections"]["validation"]["masked"] == 1
    assert "<th>labeled</th><th>masked</th>" in re.sub(r"<th[^>]*>", "<th>", (tmp_path / "audit.html").read_text())
    assert result["exact_copies"]["conflict"] == (not same)
    assert [item["label"] for item in result["exact_copies"]["list"][0]["items"]] == ["benign, mask", "mask", "mask"]
    assert result["leaks"] == ["exact copies in training of validation images: 1 of 2 images, 2 copies."]
    with pytest.raises(ValueError, match="exact copies in training of validation images"):
        check_leaks(path)


def test_images_of_one_grey_value_are_no_copies(folder, tmp_path):
    Image.new("L", (40, 40), 0).save(tmp_path / "black.png")
    Image.new("L", (40, 40), 0).save(tmp_path / "also.png")
    blank = [{"image": "black.png", "id": f"black {k}", "label": k % 2} for k in range(300)]
    path = folder(training=[*clean(), *blank], validation=[{"image": "also.png", "id": "also"}])
    result = audit(path)
    assert result["leaks"] == result["errors"] == []
    assert len(result["blank"]) == 301
    assert result["exact_copies"]["count"] == result["near_copies"]["count"] == 0
    check_leaks(path)


def test_large_sets_of_copies_are_sets_and_no_pairs(folder):
    result = audit(folder(training=[{"seed": 0}] * 60 + clean(4, 10)))
    (only,) = result["exact_copies"]["list"]
    assert len(only["items"]) == 60
    assert result["near_copies"]["count"] == 0


def test_rows_of_a_feature_table_are_images_of_their_own(folder, tmp_path):
    table = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    table[5] = table[1]
    np.save(tmp_path / "t-features.npy", table)
    rows = [{"image": "t-features.npy", "slice": k, "id": f"row {k}"} for k in range(6)]
    result = audit(folder(training=rows[:4], validation=rows[4:]), tmp_path)
    assert result["leaks"] == ["exact copies in training of validation images: 1 of 2 images, 1 copies."]
    assert ids(result["exact_copies"]["list"][0]) == ["row 1", "row 5"]


# shifts


def test_shifts_are_warnings_in_words(folder, tmp_path):
    training = [{"seed": k, "label": 0} for k in range(30)]
    path = folder(training=training, validation=[{"image": f"b{k}.png", "label": 1} for k in range(30)])
    for k in range(30):
        Image.fromarray(pixels(100 + k) // 2 + 120).save(tmp_path / f"b{k}.png")
    text = "\n".join(audit(path)["warnings"])
    assert "benign is 100.0% of training, 0.0% of validation: more than chance explains" in text
    assert "images of validation are brighter than those of training" in text
    assert "images of validation are of lower contrast than those of training" in text


# files that cannot be read, and privacy


def test_bad_files_are_listed_and_stop_nothing(folder, tmp_path):
    bad = [
        {"image": "cut.png"},
        {"image": "absent.png"},
        {"image": "note.txt"},
        {"image": "training-0.png", "slice": 3},
    ]
    path = folder(training=clean(), validation=[*bad, {"seed": 0, "id": "copy"}])
    Image.fromarray(pixels(3)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    (tmp_path / "note.txt").write_text("no image")
    result = audit(path, tmp_path)
    reasons = {entry["id"]: entry["reason"] for entry in result["unreadable"]}
    assert list(reasons) == ["validation-0", "validation-1", "validation-2", "validation-3"]
    for reason, words in zip(reasons.values(), ("truncated", "not there", "neither PNG", "no slice 3"), strict=True):
        assert words in reason
    assert "images that cannot be read: 4." in result["warnings"]
    assert result["recurring"][0]["exact"]["images"] == 1  # the others are compared
    with pytest.raises(ValueError, match="exact copies"):
        check_leaks(path)


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


# before a training


def test_allowed_leaks_are_logged(folder, caplog):
    with caplog.at_level(logging.WARNING):
        check_leaks(folder(training=clean(), validation=[{"seed": 0}]), allow_leaks=True)
    assert "leaks in the data, which are allowed: exact copies in training" in caplog.text


def test_files_of_equal_size_and_samples_are_compared_whole(folder, tmp_path):
    large = np.random.default_rng(0).integers(0, 256, 60000, dtype=np.uint8)
    other = large.copy()
    other[20000] += 1  # between the samples
    for name, content in (("a", large), ("b", large), ("c", other)):
        Image.fromarray(content.reshape(200, 300)).save(tmp_path / f"{name}.png", compress_level=0)
    sizes = {(tmp_path / f"{name}.png").stat().st_size for name in "abc"}
    assert len(sizes) == 1
    check_leaks(folder(training=[{"image": "a.png"}], validation=[{"image": "c.png"}]))
    with pytest.raises(ValueError, match="exact copies"):
        check_leaks(folder(training=[{"image": "a.png"}], validation=[{"image": "b.png"}]))


def test_an_audit_of_other_items_or_files_does_not_count(folder, tmp_path):
    audit(folder(training=clean(), validation=[{"seed": 0}]), tmp_path)
    check_leaks(folder(training=clean(), validation=[{"seed": 10}]))  # the same datalist, another file
    audit(folder(training=clean(), validation=[{"seed": 0}]), tmp_path)
    check_leaks(folder(training=clean(), validation=[{"seed": 10, "id": "other"}]))
    (tmp_path / "audit.json").write_text("{}")
    check_leaks(tmp_path / "datalist.json")


def test_paths_start_from_dataset_dir(folder, tmp_path):
    path = folder(training=clean(), validation=[{"seed": 0}])
    moved = tmp_path / "elsewhere" / "datalist.json"
    moved.parent.mkdir()
    path.rename(moved)
    assert audit(moved, dataset_dir=tmp_path)["recurring"][0]["exact"]["images"] == 1
    with pytest.raises(ValueError, match="exact copies"):
        check_leaks(moved, dataset_dir=tmp_path)


def test_no_datalist(tmp_path):
    for function in (audit, check_leaks):
        with pytest.raises(FileNotFoundError, match="there is no datalist"):
            function(tmp_path / "none.json")


# real images


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
