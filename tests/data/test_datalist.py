import json
import re

import pytest

from medssl_monai.data.datalist import Datalist, hash_items, load_datalist, validate_datalist, write_datalist


def item(name, **keys):
    return {"image": f"images/{name}.png", "id": name, "group": name, **keys}


@pytest.fixture
def sections():
    return {
        "training": [item("a", label=0), item("b", label=1, labeled=False, meta={"age": 3}), item("c", slice=4)],
        "validation": [item("d", label=1)],
    }


def test_what_is_written_is_read(tmp_path, sections):
    path = tmp_path / "datalist.json"
    write_datalist(path, sections, ["normal", "pneumonia"], name="x-rays", modality=["CR"], licence="CC0")
    for section, items in sections.items():
        read = load_datalist(path, section)
        assert list(read) == [{**i, "image": str(tmp_path / i["image"])} for i in items]
        assert read.classes == ("normal", "pneumonia")
        assert read.modality == ("CR",)
        assert read.name == "x-rays"
        assert not read.synthetic
    assert json.loads(path.read_text())["licence"] == "CC0"


def test_class_names_are_sorted_as_numbers(tmp_path):
    names = [f"class {k}" for k in range(11)]
    write_datalist(tmp_path / "d.json", {"training": [item("a", label=10)]}, names)
    assert load_datalist(tmp_path / "d.json").classes == tuple(names)


def test_missing_id_and_group_are_filled_in():
    content = validate_datalist({"training": [{"image": "a.png"}, {"image": "v.nii", "slice": 2}]})
    assert [(i["id"], i["group"]) for i in content["training"]] == [("a.png", "a.png"), ("v.nii#2", "v.nii#2")]


def test_masks_and_absolute_paths(tmp_path):
    write_datalist(tmp_path / "d.json", {"training": [item("a", label="masks/a.png"), item("b") | {"image": "/b.png"}]})
    a, b = load_datalist(tmp_path / "d.json", dataset_dir="/data")
    assert (a["image"], a["label"], b["image"]) == ("/data/images/a.png", "/data/masks/a.png", "/b.png")


def test_hash_knows_the_content_but_not_the_place(tmp_path, sections):
    for folder in ("here", "there"):
        write_datalist(tmp_path / folder / "d.json", sections, ["normal", "pneumonia"])
    here, there = (load_datalist(tmp_path / folder / "d.json").sha256 for folder in ("here", "there"))
    moved = load_datalist(tmp_path / "here" / "d.json", dataset_dir="/elsewhere").sha256
    assert here == there == moved
    relabeled = [sections["training"][0] | {"label": 1}, *sections["training"][1:]]
    remarked = [sections["training"][0] | {"meta": {"age": 5}}, *sections["training"][1:]]
    assert hash_items(relabeled) != hash_items(sections["training"]) == hash_items(remarked)
    assert hash_items(sections["training"][::-1]) != hash_items(sections["training"])


def test_a_group_in_two_sections_is_refused_unless_allowed(tmp_path):
    leak = {"training": [item("a")], "testing": [item("b", label=0) | {"group": "a"}]}
    with pytest.raises(ValueError, match="group 'a' is in both 'training' and 'testing' \\(1 items there\\)"):
        write_datalist(tmp_path / "d.json", leak)
    assert not (tmp_path / "d.json").exists()
    write_datalist(tmp_path / "d.json", leak, allow_leaks=True)
    with pytest.raises(ValueError, match="allow_leaks"):
        load_datalist(tmp_path / "d.json")
    assert len(load_datalist(tmp_path / "d.json", allow_leaks=True)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be a JSON object with at least one of the lists"),
        ({"images": []}, "must be a JSON object with at least one of the lists"),
        ({"training": {"a": 1}}, "'training' must be a list of items, got dict"),
        ({"training": ["a.png"]}, r"training\[0\] must be an object with at least the key 'image', got 'a.png'"),
        ({"training": [{"label": 0}]}, r"training\[0\]: key 'image' must be the path of a file, got None"),
        ({"training": [{"image": "a", "lable": 0}]}, r"training\[0\] has the unknown key 'lable'.*under 'meta'"),
        ({"training": [{"image": "a", "slice": -1}]}, "key 'slice' must be an index from 0, got -1"),
        ({"training": [{"image": "a", "slice": True}]}, "key 'slice' must be an index from 0, got True"),
        ({"training": [{"image": "a", "id": 7}]}, "key 'id' must be a non-empty text, got 7"),
        ({"training": [{"image": "a", "group": ""}]}, "key 'group' must be a non-empty text, got ''"),
        ({"training": [{"image": "a", "labeled": 1}]}, "key 'labeled' must be true or false, got 1"),
        ({"training": [{"image": "a", "labeled": True}]}, "'labeled' is true but there is no 'label'"),
        (
            {"training": [{"image": "a"}, {"image": "b", "label": 2}]},
            r"training\[1\]: key 'label' is 2, and must be a class index from 0 to 1",
        ),
        ({"training": [{"image": "a", "label": -1}]}, "must be a class index from 0 to 1"),
        ({"training": [{"image": "a", "label": True}]}, "must be a class index, a list of 1, 0 and -1 .* got True"),
        ({"training": [{"image": "a", "label": 0.5}]}, "must be a class index, a list of 1, 0 and -1 .* got 0.5"),
        ({"training": [{"image": "a", "label": [1]}]}, "with 1 entries for 2 findings"),
        ({"training": [{"image": "a", "label": [1, 2]}]}, "must hold 1 .* 0 .* or -1"),
        ({"training": [{"image": "a", "label": ""}]}, "is an empty path"),
        ({"training": [{"image": "a"}], "testing": [{"image": "a"}]}, "the id 'a' occurs 2 times"),
    ],
)
def test_every_problem_is_named_with_its_place(content, message):
    if isinstance(content, dict):
        content["labels"] = {"0": "normal", "1": "pneumonia"}
    with pytest.raises(ValueError, match=message) as error:
        validate_datalist(content, source="my.json")
    assert "my.json" in str(error.value)


def test_multi_hot_labels_may_be_unknown():
    content = {"labels": {"0": "a", "1": "b"}, "training": [{"image": "a", "label": [1, -1]}]}
    assert validate_datalist(content)["training"][0]["label"] == [1, -1]


def test_validation_leaves_its_input_alone(sections):
    before = json.dumps(sections)
    validate_datalist({"training": [{"image": "a.png"}], **sections})
    assert json.dumps(sections) == before


def test_missing_file_section_and_broken_json(tmp_path):
    with pytest.raises(FileNotFoundError, match="medssl prepare"):
        load_datalist(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_datalist(tmp_path / "broken.json")
    write_datalist(tmp_path / "d.json", {"training": [item("a")]})
    with pytest.raises(KeyError, match="has no section 'testing'"):
        load_datalist(tmp_path / "d.json", "testing")


def test_a_plain_list_is_a_datalist_too():
    datalist = Datalist([item("a")])
    assert datalist.sha256 == hash_items([item("a")])
    assert datalist.classes == ()


def test_masks_beside_labels(tmp_path):
    items = [
        item("a", label=1, mask="masks/a.png", masked=False),
        item("b", mask="/masks/b.png"),
        item("c", label=0, labeled=False),
    ]
    names = {"classes": ["normal", "pneumonia"], "mask_classes": ["background", "lung"]}
    write_datalist(tmp_path / "d.json", {"training": items}, **names)
    read = load_datalist(tmp_path / "d.json", dataset_dir="/data")
    assert [i.get("mask") for i in read] == ["/data/masks/a.png", "/masks/b.png", None]
    assert [i.get("masked") for i in read] == [False, None, None]
    assert (read.classes, read.mask_classes) == (("normal", "pneumonia"), ("background", "lung"))
    assert hash_items([{**items[0], "mask": "other.png"}]) != hash_items(items[:1]) != hash_items([item("a", label=1)])
    write_datalist(tmp_path / "d.json", {"training": items[2:]})
    assert "mask_classes" not in json.loads((tmp_path / "d.json").read_text())
    assert load_datalist(tmp_path / "d.json").mask_classes == ()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mask": 1}, "key 'mask' is 1, and must be the path of a mask"),
        ({"mask": ""}, "key 'mask' is an empty path"),
        ({"mask": "m", "label": "n"}, "beside a 'mask', the 'label' must say the class, and it is a path as well"),
        ({"masked": True}, "'masked' is true but there is no 'mask'"),
        ({"mask": "m", "masked": 0}, "key 'masked' must be true or false, got 0"),
    ],
)
def test_every_problem_of_masks_beside_labels_is_named(keys, message):
    content = {"mask_classes": {"0": "background", "1": "lung"}, "training": [{"image": "a", **keys}]}
    with pytest.raises(ValueError, match=message):
        validate_datalist(content)


@pytest.mark.parametrize(("classes", "message"), [({}, "names no classes of masks"), ({"0": "lung"}, "at least one")])
def test_masks_beside_labels_need_the_names_of_their_classes(classes, message):
    with pytest.raises(ValueError, match=message):
        validate_datalist({"mask_classes": classes, "training": [{"image": "a", "mask": "m.png"}]})


def test_spellings_of_a_patient_leak_unless_they_are_to_be_kept_apart():
    content = {"training": [{"image": "a", "group": "7"}], "validation": [{"image": "b", "group": "007"}]}
    with pytest.raises(ValueError, match=r"group '007', there as '7', is in both 'training' and 'validation'"):
        validate_datalist(content)
    validate_datalist({**content, "groups_as_written": True})
    validate_datalist(content, allow_leaks=True)


# ---- what others wrote --------------------------------------------------------------------------------------------

EXPRESSION = "$open('EXECUTED', 'w')"
HEAD = {"labels": {"0": "normal", "1": "pneumonia"}, "mask_classes": {"0": "background", "1": "lung"}}


def hostile(place, name):
    """A datalist with a name at a place."""
    content = json.loads(json.dumps({**HEAD, "modality": {"0": "CR"}, "training": [item("a", label=0)]}))
    if place in ("id", "group", "source"):
        content["training"][0][place] = name
    elif place == "name":
        content["name"] = name
    else:
        content[place]["1" if place != "modality" else "0"] = name
    return content


PLACES = ["labels", "mask_classes", "modality", "id", "group", "source", "name"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [EXPRESSION, "@risk", "%x", "=cmd()", "+1+1", "-2+3", "a\tb", "a\u202eb", " a"])
def test_names_that_others_would_evaluate_are_refused_wherever_they_stand(tmp_path, place, name):
    (tmp_path / "d.json").write_text(json.dumps(hostile(place, name)))
    where = r"d.json, training\[0\]" if place in ("id", "group", "source") else "d.json"
    with pytest.raises(ValueError, match=f"{where}.*{re.escape(repr(name)[1:6])}.*rename it"):
        load_datalist(tmp_path / "d.json")
    content = hostile(place, name)
    head = {"classes": list(content["labels"].values()), "modality": list(content["modality"].values()),
            "mask_classes": list(content["mask_classes"].values()), "name": content.get("name", "")}  # fmt: skip
    with pytest.raises(ValueError, match="rename it"):
        write_datalist(tmp_path / "new.json", {"training": content["training"]}, **head)
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["-", "+", "-1", "a $b", "50%", "a#b", "_target_", "<b>&", "none", "?", "a;b"])
def test_odd_names_that_mean_nothing_to_others_are_kept(tmp_path, place, name):
    (tmp_path / "d.json").write_text(json.dumps(hostile(place, name)))
    read = load_datalist(tmp_path / "d.json")
    there = {"labels": read.classes, "mask_classes": read.mask_classes, "modality": read.modality, "name": [read.name]}
    assert name in there.get(place, [read[0].get(place)])


def test_an_image_without_an_id_has_its_path_as_one_which_must_be_one():
    for image in ("=1+1.png", "@x.png", "-1.png"):
        with pytest.raises(ValueError, match=r"training\[0\]: the image, whose path is its id, '.*png' begins with"):
            validate_datalist({"training": [{"image": image}]})
        assert validate_datalist({"training": [{"image": image, "id": "a"}]})["training"][0]["image"] == image


@pytest.mark.parametrize("name", ["none", "NONE", "a;b", "?a"])
def test_findings_are_names_that_a_label_can_list(name):
    labels = {"0": "mass", "1": name}
    for items in ([{"image": "a", "label": 1}], [{"image": "a"}], []):
        validate_datalist({"labels": labels, "training": items})
    for items in (
        [{"image": "a", "label": [1, 0]}],
        [{"image": "a"}, {"image": "b", "label": [0, -1], "labeled": False}],
    ):
        with pytest.raises(ValueError, match=r"'labels': the finding .* as labels are written"):
            validate_datalist({"labels": labels, "training": [], "validation": items})


def test_names_and_ids_are_equal_in_every_form_of_unicode():
    items = [{"image": "e\u0301.png", "group": "Rene\u0301", "label": 0}]
    read = validate_datalist({"labels": ["e\u0301", "b"], "training": items})
    assert read["training"][0] == {"image": "e\u0301.png", "id": "é.png", "group": "René", "label": 0}
    assert read["labels"] == {"0": "é", "1": "b"}
    with pytest.raises(ValueError, match=r"the id 'é.png' occurs 2 times"):
        validate_datalist({"training": [*items, {"image": "x", "id": "é.png"}]})
    with pytest.raises(ValueError, match="is there as 'é' already"):
        validate_datalist({"labels": ["é", "E\u0301"], "training": []})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": {"0": "a", "2": "b"}}, "'labels' must name a class for every index from 0 on; '1' is missing"),
        ({"labels": {"1": "a", "2": "b"}}, "'0' is missing"),
        ({"labels": {"00": "a"}}, "'0' is missing"),
        ({"labels": {"a": "b"}}, "'0' is missing"),
        ({"labels": {"0": 5}}, "'labels': the class 5 is no text but int"),
        ({"labels": ["a", None]}, "'labels': the class None is no text but NoneType"),
        ({"labels": "ab"}, "'labels' must map every index to the name of a class, got 'ab'"),
        ({"labels": 3}, "'labels' must map every index"),
        ({"mask_classes": {"0": "a", "1": "A"}}, "'mask_classes': the class of masks 'A' is there as 'a' already"),
        ({"mask_classes": True}, "'mask_classes' must map every index"),
        ({"modality": {"0": ["CR"]}}, "'modality': the channel .* is no text but list"),
        ({"modality": "CR"}, "'modality' must map every index to the name of a channel"),
        ({"name": 7}, "the name 7 is no text but int"),
        ({"name": None}, "the name None is no text"),
        ({"synthetic": "false"}, "'synthetic' must be true or false, got 'false'"),
        ({"quarantine": {"id": "a"}}, "'quarantine' must be a list of items, got dict"),
        ({"quarantine": [{"id": "a"}]}, r"quarantine\[0\] must have 'id', 'image' and 'reason', each a text"),
        ({"training": None}, "'training' must be a list of items, got NoneType"),
        ({"training": "ab"}, "'training' must be a list of items, got str"),
        ({"training": [[]]}, r"training\[0\] must be an object"),
        ({"training": [None]}, r"training\[0\] must be an object"),
        ({"training": [{"image": ["a"]}]}, "key 'image' must be the path of a file"),
        ({"training": [{"image": " "}]}, "key 'image' must be the path of a file"),
        ({"training": [{"image": "a\0.png"}]}, "key 'image' must be the path of a file, and holds a sign"),
        ({"training": [{"image": "\ud800.png"}]}, "key 'image' must be the path of a file, and holds a sign"),
        ({"training": [{"image": "a", "label": "m\0"}]}, "key 'label' must be the path of a file, and holds a sign"),
        ({"training": [{"image": "a", "mask": "m\0"}]}, "key 'mask' must be the path of a file, and holds a sign"),
        ({"training": [{"image": "a", "slice": 2**40}]}, "key 'slice' must be an index"),
        ({"training": [{"image": "a", "slice": "1"}]}, "key 'slice' must be an index from 0, got '1'"),
        ({"training": [{"image": "a", "meta": []}]}, "key 'meta' must be an object"),
        ({"training": [{"image": "a", "source": None}]}, "key 'source' must be a non-empty text, got None"),
        ({"training": [{"image": "a", "label": 10**9}]}, r"key 'label' .* holds 1,000,000,001 classes"),
        ({"training": [{"image": "a", "label": {}}]}, "key 'label' must be a class index, a list of 1, 0 and -1"),
        ({"training": [{"image": "a", "label": []}]}, "key 'label' is .*, and must hold 1"),
        ({"training": [{"image": "a", "label": [[1]]}]}, "key 'label' is .*, and must hold 1"),
        ({"training": [{"image": "a", "label": [0] * 2000}]}, "holds 2,000 classes"),
        (
            {"training": [{"image": "a", "label": [1]}], "testing": [{"image": "b", "label": [1, 0]}]},
            r"testing\[0\]: key 'label' is \[1, 0\], with 2 entries for 1 findings",
        ),
    ],
)
def test_a_wrong_type_is_named_with_its_place(content, message):
    with pytest.raises(ValueError, match=message) as error:
        validate_datalist({"training": [], **content}, source="my.json")
    assert "my.json" in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        '{"training": [{"image": "a.png", "label": 0, "label": 1}]}',
        '{"training": [{"image": "a.png"}], "training": []}',
        '{"training": [{"image": "a.png", "meta": {"x": NaN}}]}',
        '{"training": [{"image": "a.png", "label": Infinity}]}',
        '{"training": [{"image": "a.png", "label": ' + "1" * 5000 + "}]}",
        '{"training": ' + "[" * 50_000,
        '{"training": ' + "[" * 900 + "]" * 900 + "}",
    ],
)
def test_json_that_is_not_plain_is_refused_by_file(tmp_path, text):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ValueError, match=r"d.json"):
        load_datalist(tmp_path / "d.json")


def test_rows_are_counted_over_all_sections(monkeypatch):
    content = {"training": [{"image": "a"}, {"image": "b"}], "testing": [{"image": "c"}]}
    monkeypatch.setenv("MEDSSL_MAX_ROWS", "2")
    with pytest.raises(ValueError, match=r"my.json holds 3 rows, and 2 are the most"):
        validate_datalist(content, source="my.json")
