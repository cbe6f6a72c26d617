import zipfile
from collections import Counter

import pytest

from medssl_monai.prepare.layouts import lists
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.tables import Table

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def lesions(count=6, **more):
    """Images ``ISIC_0`` and so on, two of each lesion, all melanoma."""
    items = [
        {"image": f"../in/images/ISIC_{k}.jpg", "id": f"ISIC_{k}", "group": f"lesion {k // 2}", "label": 4, **more}
        for k in range(count)
    ]
    return Dataset(items=items, classes=CLASSES, sections={item["id"]: "training" for item in items})


@pytest.fixture
def columns():
    """What the packaged HAM10000's manifest says of TEAR's lists."""
    found = lesions()
    for item, split, budgets in zip(
        found.items,
        ["train", "train", "val", "test", "train", ""],
        ["350;800", "", "", "", "800", "1200"],
        strict=True,
    ):
        item["meta"] = {key: text for key, text in (("tear_split", split), ("tear_labelled", budgets)) if text}
    return found


# named lists


def test_named_list_is_read_from_its_columns(columns):
    chosen = lists.read("tear350", columns)
    assert chosen.ids == {"ISIC_0"}
    assert (chosen.here, chosen.size) == (1, 349)
    assert chosen.sections == {
        **dict.fromkeys(["ISIC_0", "ISIC_1", "ISIC_4"], "training"),
        **{"ISIC_2": "validation", "ISIC_3": "testing"},
    }
    assert lists.read("tear800", columns).ids == {"ISIC_0", "ISIC_4"}


def test_own_split_takes_the_place_of_the_source_s(columns):
    chosen = lists.read("tear350", columns)
    chosen.apply_split(columns)
    assert columns.sections == chosen.sections
    assert [item["id"] for item in columns.items] == ["ISIC_0", "ISIC_1", "ISIC_2", "ISIC_3", "ISIC_4"]
    assert columns.dropped == {"image in no section of tear350": ["ISIC_5"]}


def test_others_are_hidden_and_counted(columns):
    items = columns.items[:5]
    del items[1]["label"]
    line = lists.read("tear800", columns).hide_others(items)
    assert [item.get("labeled") for item in items] == [None, None, False, False, None]
    assert line == "tear800: 2 of the 799 images on the list are here, 2 of them labeled in the training section"
    line = lists.read("tear800", columns).hide_others(items[1:])
    assert line == "tear800: 2 of the 799 images on the list are here, 1 of them labeled in the training section"


@pytest.mark.parametrize("name", ["tear7", "other350", "tear", "nothing.txt", "350", "tear350;800"])
def test_unknown_list_is_named_with_those_that_are_known(columns, name):
    with pytest.raises(ValueError, match=r"neither a file nor a list.*\['tear350', 'tear800', 'tear1200'\]"):
        lists.read(name, columns)


def test_source_without_lists_says_so():
    with pytest.raises(ValueError, match="'tear350' is neither a file nor a list that the table knows; it knows none"):
        lists.read("tear350", lesions())


def test_tears_lists_on_the_packaged_images(real_data):
    """Counted are rows whose ``tear_labelled``, cut at semicolons, has the budget; the others are held out."""
    path = real_data / "ham10000_200x150_trainval.zip"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {real_data}")
    with zipfile.ZipFile(path) as file:
        table = Table.parse(file.read("manifest.csv"), "manifest.csv")
        assert {row["image"] for _, row in table.rows} <= set(file.namelist())
    columns = ("tear_split", "tear_labelled")
    found = Dataset(
        [
            {"image": row["image"], "id": row["id"], "group": row["lesion_id"], "label": int(row["label"])}
            | {"meta": {name: row[name] for name in columns if row[name]}}
            for _, row in table.rows
        ],
        CLASSES,
    )
    counts = {name: (one.here, one.size) for name in lists.PUBLISHED for one in [lists.read(name, found)]}
    assert counts == {
        "tear350": (272, 349),
        "tear600": (491, 599),
        "tear800": (640, 799),
        "tear1200": (982, 1199),
        "tear2000": (1621, 2000),
    }
    chosen = lists.read("tear350", found)
    chosen.apply_split(found)
    assert Counter(found.sections.values()) == {"training": 7673, "validation": 59, "testing": 270}
    line = chosen.hide_others(item for item in found.items if found.sections[item["id"]] == "training")
    assert line.startswith("tear350: 272 of the 349 images on the list are here, 272 of them labeled")
    places = {(item["group"], found.sections[item["id"]]) for item in found.items}
    assert sum(count > 1 for count in Counter(group for group, _ in places).values()) == 158  # lesions torn apart


# list files


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_names_one_a_line_with_or_without_suffix(tmp_path):
    found = lesions()
    chosen = lists.read(write(tmp_path / "few.txt", "ISIC_0", "images/ISIC_3.jpg", "", "ISIC_99.jpg"), found)
    assert chosen.ids == {"ISIC_0", "ISIC_3"}
    assert (chosen.name, chosen.here, chosen.size, chosen.sections) == ("few.txt", 2, 3, {})
    assert found.noted == {"image of few.txt that is not here, or whose name is not unique": ["line 4"]}


def test_lines_as_tear_writes_them(tmp_path):
    found = lesions()
    found.items[1]["label"] = 5
    del found.items[2]["label"]
    path = write(
        tmp_path / "Train350.txt",
        "ISIC_0.jpg  1 0 0 0 0 0 0 ",
        "ISIC_1.jpg  1 0 0 0 0 0 0 ",
        "ISIC_2.jpg  0 0 0 1 0 0 0 ",
    )
    chosen = lists.read(path, found)
    assert chosen.ids == {"ISIC_0", "ISIC_1", "ISIC_2"}
    assert [item["label"] for item in found.items[:3]] == [4, 5, 0]  # the source's, and akiec from the list
    assert found.noted == {"label that differs from Train350.txt, and was kept": ["ISIC_1"]}


def test_one_hot_labels_of_other_classes_are_not_guessed(tmp_path):
    found = lesions()
    found.classes = ("benign", "malignant")
    lists.read(write(tmp_path / "list.txt", "ISIC_0 0 0 0 0 0 0 1"), found)
    assert found.items[0]["label"] == 4
    assert found.noted == {"label of list.txt that is none of the source's classes": ["line 1"]}


def test_csv_file_with_classes_by_name_or_index(tmp_path):
    found = lesions()
    for item in found.items:
        del item["label"]
    path = write(
        tmp_path / "list.csv", "image,label", "ISIC_0.jpg,nv", "ISIC_1.jpg,2", "ISIC_2.jpg,", "ISIC_3.jpg,mole"
    )
    chosen = lists.read(path, found)
    assert len(chosen.ids) == 4
    assert [item.get("label") for item in found.items[:4]] == [5, 2, None, None]
    assert found.noted == {"label of list.csv that is none of the source's classes": ["line 5"]}


def test_csv_file_needs_a_column_of_images(tmp_path):
    with pytest.raises(ValueError, match=r"list\.csv has no column 'image', only \['scan', 'label'\]"):
        lists.read(write(tmp_path / "list.csv", "scan,label", "ISIC_0,nv"), lesions())


def test_name_that_fits_two_images_fits_none(tmp_path):
    found = lesions(4)
    found.items[1]["image"] = "../in/other/ISIC_0.jpg"
    chosen = lists.read(write(tmp_path / "list.txt", "ISIC_0.jpg", "ISIC_2.jpg"), found)
    assert chosen.ids == {"ISIC_2"}
    assert found.noted == {"image of list.txt that is not here, or whose name is not unique": ["line 1"]}


def test_pseudonyms_do_not_hide_the_file_from_its_list(tmp_path):
    found = lesions()
    for k, item in enumerate(found.items):
        item["id"] = f"f{k:07d}"
    chosen = lists.read(write(tmp_path / "list.txt", "ISIC_1.jpg", "gone.jpg"), found)
    assert chosen.ids == {"f0000001"}
    assert "ISIC" not in str(found.noted)


def test_slices_of_a_listed_volume_are_all_listed(tmp_path):
    found = lesions(1)
    found.items = [{**found.items[0], "image": "../in/vol.nii.gz", "id": f"v#{k}", "slice": k} for k in range(3)]
    chosen = lists.read(write(tmp_path / "list.txt", "vol.nii.gz"), found)
    assert chosen.ids == {"v#0", "v#1", "v#2"}
    assert (chosen.here, chosen.size) == (1, 1)


def test_split_beside_the_list_is_its_own(tmp_path):
    found = lesions()
    path = write(tmp_path / "Train350.txt", "ISIC_0.jpg  1 0 0 0 0 0 0 ")
    write(tmp_path / "Train_unl350.txt", "ISIC_1.jpg  1 0 0 0 0 0 0 ", "ISIC_4.jpg  1 0 0 0 0 0 0 ")
    write(tmp_path / "Val.txt", "ISIC_2.jpg  1 0 0 0 0 0 0 ")
    assert lists.read(path, found).sections == {}  # half a split is none
    write(tmp_path / "Test.txt", "ISIC_3.jpg  1 0 0 0 0 0 0 ")
    chosen = lists.read(path, found)
    assert chosen.sections == {
        **dict.fromkeys(["ISIC_0", "ISIC_1", "ISIC_4"], "training"),
        **{"ISIC_2": "validation", "ISIC_3": "testing"},
    }


def test_an_image_in_two_sections_of_a_list_is_refused(tmp_path):
    path = write(tmp_path / "Train350.txt", "ISIC_0.jpg", "ISIC_2.jpg")
    write(tmp_path / "Val.txt", "ISIC_1.jpg", "ISIC_2.jpg")
    write(tmp_path / "Test.txt", "ISIC_3.jpg")
    with pytest.raises(ValueError, match=r"Train350\.txt, line 2: .*'ISIC_2\.jpg' .* validation section as well"):
        lists.read(path, lesions())


def test_list_in_utf16_and_one_that_is_no_text(tmp_path):
    (tmp_path / "few.txt").write_text("ISIC_0\r\nISIC_3\r\n", encoding="utf-16")
    assert lists.read(str(tmp_path / "few.txt"), lesions()).ids == {"ISIC_0", "ISIC_3"}
    (tmp_path / "few.txt").write_bytes(b"\x89PNG" + bytes(range(256)) * 4)
    with pytest.raises(ValueError, match=r"few\.txt is no text"):
        lists.read(str(tmp_path / "few.txt"), lesions())


def test_list_of_another_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none of the images on list\.txt is here"):
        lists.read(write(tmp_path / "list.txt", "person1_virus_6.jpeg"), lesions())
