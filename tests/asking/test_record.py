"""A query as a file."""

import csv
import json

import pytest
import torch

from medssl_monai.asking.record import asked_for, query_record, read_query, write_query
from medssl_monai.data import Datalist
from medssl_monai.pool import LabelPool, Labels
from medssl_monai.pool.annotate import annotate_from_table
from medssl_monai.query import PoolOutputs, Query

IDS = ["a/0.png", 'b,"1"', "Wirbelsäule 3"]


@pytest.fixture
def pool():
    items = [{"image": f"{i}.png", "id": name} for i, name in enumerate(IDS)]
    return LabelPool(Labels(Datalist(items, classes=["low", "high"], synthetic=True)))


def predicted(kept, labels, index=None, **others):
    """Outputs of unlabeled samples, of the kind that `labels` are."""
    index = torch.arange(len(kept)) if index is None else torch.tensor(index)
    nothing = torch.zeros(len(kept), dtype=torch.bool)
    return PoolOutputs(index, nothing, torch.tensor(kept), labels.kind, key=labels.key, **others)


@pytest.fixture
def record(pool):
    outputs = predicted([[0.9, 0.1], [0.25, 0.75], [0.5, 0.5]], pool.first, [2, 0, 1])
    query = Query(torch.tensor([1, 0]), ["both", "unstable"], {"entropy": torch.tensor([0.5, 0.25])}, limit=4)
    return query_record(query, outputs, pool, strategy="boostmis", budget=2)


def table_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_samples_are_named_by_id_and_looked_up_by_index(record, pool):
    first, second = record["items"]
    assert (first["id"], first["rank"], first["reason"], first["scores"]) == (IDS[1], 1, "both", {"entropy": 0.5})
    assert (first["predicted"], first["confidence"]) == ("low", 0.5)
    assert (second["id"], second["predicted"], second["confidence"]) == (IDS[0], "high", 0.75)


def test_it_says_what_it_was_made_of(record, pool):
    assert record["query_size"] == [2, 4]
    assert record["synthetic"] is True
    assert record["datalist_sha256"] == pool.datalist_sha256
    assert (record["strategy"], record["budget"]) == ("boostmis", 2)
    assert record["parts"] == {"label": {"kind": "classes", "names": ["low", "high"]}}


def test_it_says_from_which_confidence_on_the_learner_labels_by_itself(pool, tmp_path):
    outputs = predicted([[0.9, 0.1]] * 3, pool.first, threshold=pool.first.kind.threshold([0.75, 0.5]))
    record = query_record(Query(torch.tensor([1]), ["random"]), outputs, pool)
    assert record["parts"]["label"]["threshold"] == [0.75, 0.5]
    write_query(tmp_path / "q.json", record)
    assert read_query(tmp_path / "q.json") == record


def test_it_holds_no_label_and_no_path(record):
    assert not {"label", "image"} & set(record["items"][0])


def test_written_twice_as_json_and_as_a_table_to_fill_in(record, tmp_path):
    write_query(tmp_path / "round_00.json", record)
    assert read_query(tmp_path / "round_00.json") == record
    assert table_of(tmp_path / "round_00.csv") == [
        {"id": IDS[1], "rank": "1", "reason": "both", "data": "SYNTHETIC", "label": ""},
        {"id": IDS[0], "rank": "2", "reason": "unstable", "data": "SYNTHETIC", "label": ""},
    ]


def test_the_table_comes_back_as_annotations(record, pool, tmp_path):
    write_query(tmp_path / "q.json", record)
    path = tmp_path / "q.csv"
    path.write_text(
        path.read_text(encoding="utf-8").replace("both,SYNTHETIC,\n", "both,SYNTHETIC,high\n"), encoding="utf-8"
    )
    assert annotate_from_table(pool, path)["label"] == ([IDS[1]], [])
    assert [pool.first.label(i) for i in range(3)] == [None, 1, None]


def fill_in(path, order=1, encoding="utf-8", delimiter=","):
    rows = [{**row, "label": "low"} for row in table_of(path)][::order]
    with path.open("w", newline="", encoding=encoding) as file:
        table = csv.DictWriter(file, rows[0], delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    return path.read_bytes()


SAVED = [("utf-8", ","), ("utf-8-sig", ";"), ("cp1252", ";"), ("utf-16", "\t"), ("utf-16-le", ",")]


@pytest.mark.parametrize(("encoding", "delimiter"), SAVED)
def test_what_a_person_filled_in_is_not_overwritten(record, tmp_path, encoding, delimiter):
    write_query(tmp_path / "q.json", record)
    filled = fill_in(tmp_path / "q.csv", encoding=encoding, delimiter=delimiter)
    write_query(tmp_path / "q.json", record)
    assert (tmp_path / "q.csv").read_bytes() == filled


@pytest.mark.parametrize(("encoding", "delimiter"), SAVED)
def test_what_a_person_filled_in_for_another_query_is_moved_aside(record, tmp_path, encoding, delimiter):
    write_query(tmp_path / "q.json", record)
    filled = fill_in(tmp_path / "q.csv", encoding=encoding, delimiter=delimiter)
    write_query(tmp_path / "q.json", {**record, "items": record["items"][:1]})
    assert (tmp_path / "q.previous1.csv").read_bytes() == filled
    assert [row["label"] for row in table_of(tmp_path / "q.csv")] == [""]


UNREADABLE = [b"\0\1\2\xff", b"PK\3\4 a workbook", b"id,id,label\n", b'id,label\n"a,low\n', b"\n", b"anything\n"]


@pytest.mark.parametrize("content", UNREADABLE)
def test_a_table_that_cannot_be_read_is_moved_aside_and_never_overwritten(record, tmp_path, content):
    (tmp_path / "q.csv").write_bytes(content)
    write_query(tmp_path / "q.json", record)
    assert (tmp_path / "q.previous1.csv").read_bytes() == content
    assert len(table_of(tmp_path / "q.csv")) == 2


def test_a_filled_table_with_a_bad_row_is_still_that_of_its_query(record, tmp_path):
    write_query(tmp_path / "q.json", record)
    filled = fill_in(tmp_path / "q.csv").replace(b"unstable,", b"unstable,,")
    (tmp_path / "q.csv").write_bytes(filled)
    write_query(tmp_path / "q.json", record)
    assert (tmp_path / "q.csv").read_bytes() == filled


def test_no_cell_is_computed_by_a_spreadsheet(tmp_path):
    names = ["-1", "+", "-"]
    pool = LabelPool(Labels(Datalist([{"image": f"{i}", "id": name} for i, name in enumerate(names)], classes=names)))
    outputs = predicted([[0.2, 0.3, 0.5]] * 3, pool.first)
    record = query_record(Query(torch.arange(3), ["=1+1", "@x", "-5"]), outputs, pool)
    write_query(tmp_path / "q.json", record)
    cells = [cell for row in table_of(tmp_path / "q.csv") for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@")]
    path = tmp_path / "q.csv"
    path.write_text("".join(f"{line}\n" if "id" in line else f"{line}'-\n" for line in path.read_text().splitlines()))
    assert annotate_from_table(pool, path)["label"] == (names, [])
    assert [pool.first.label(i) for i in range(3)] == [2, 2, 2]
    filled = path.read_text()
    write_query(tmp_path / "q.json", record)
    assert path.read_text() == filled


def test_a_filled_table_that_was_sorted_in_a_spreadsheet_is_not_overwritten(record, tmp_path):
    write_query(tmp_path / "q.json", record)
    filled = fill_in(tmp_path / "q.csv", order=-1)
    write_query(tmp_path / "q.json", record)
    assert (tmp_path / "q.csv").read_bytes() == filled


def test_the_table_of_another_query_is_replaced(record, tmp_path):
    write_query(tmp_path / "q.json", record)
    other = {**record, "items": record["items"][:1]}
    write_query(tmp_path / "q.json", other)
    assert [row["id"] for row in table_of(tmp_path / "q.csv")] == [IDS[1]]


def test_a_filled_table_of_another_query_is_moved_aside(record, tmp_path):
    """A label that a person has given is never lost."""
    write_query(tmp_path / "q.json", record)
    filled = (tmp_path / "q.csv").read_text().splitlines()
    (tmp_path / "q.csv").write_text("\n".join([filled[0], filled[1] + "low", *filled[2:]]) + "\n")
    write_query(tmp_path / "q.json", {**record, "items": record["items"][:1]})
    assert [row["label"] for row in table_of(tmp_path / "q.csv")] == [""]
    assert "low" in [row["label"] for row in table_of(tmp_path / "q.previous1.csv")]


def test_an_empty_query(record, tmp_path):
    write_query(tmp_path / "q.json", {**record, "items": []})
    assert (tmp_path / "q.csv").read_text() == "id,rank,reason,data,label\n"
    assert json.loads((tmp_path / "q.json").read_text())["items"] == []


@pytest.fixture
def findings():
    items = [{"image": f"{i}.png", "id": f"s{i}"} for i in range(2)]
    pool = LabelPool(Labels(Datalist(items, classes=["effusion", "mass"]), kind="findings"))
    outputs = predicted([[[0.25, 0.75], [0.375, 0.625]], [[0.75, 0.25], [0.5, 0.5]]], pool.first)
    query = Query(torch.tensor([0, 1]), ["entropy"] * 2, {"entropy": torch.tensor([1.0, 0.5])})
    return pool, query_record(query, outputs, pool)


def test_a_query_of_findings_names_those_predicted_and_the_probability_of_each(findings):
    first, second = findings[1]["items"]
    assert (first["predicted"], first["confidence"]) == ("effusion; mass", 0.625)  # of the least certain one
    assert first["findings"] == {"effusion": 0.75, "mass": 0.625}
    assert (second["predicted"], second["confidence"]) == ("none", 0.5)
    assert findings[1]["parts"] == {"label": {"kind": "findings", "names": ["effusion", "mass"]}}


def test_the_table_of_findings_shows_what_to_write_and_is_read_back(findings, tmp_path):
    pool, record = findings
    write_query(tmp_path / "q.json", record)
    rows = table_of(tmp_path / "q.csv")
    assert list(rows[0]) == ["id", "rank", "reason", "choices", "label"]
    assert {row["choices"] for row in rows} == {"none; effusion; mass"}
    text = (tmp_path / "q.csv").read_text().replace("mass,\n", "mass,mass; ?effusion\n", 1)
    (tmp_path / "q.csv").write_text(text)
    assert annotate_from_table(pool, tmp_path / "q.csv")["label"] == (["s0"], [])
    assert pool.first.label(0) == [-1, 1]
    write_query(tmp_path / "q.json", record)
    assert (tmp_path / "q.csv").read_text() == text


def test_findings_without_names_are_numbers():
    pool = LabelPool(Labels([{"id": "x"}], kind="findings"))
    outputs = predicted([[[0.8, 0.2], [0.2, 0.8]]], pool.first)
    (item,) = query_record(Query(torch.tensor([0]), ["random"]), outputs, pool)["items"]
    assert (item["predicted"], list(item["findings"])) == ("0 1", ["0", "1"])  # as a table of them is filled in


def test_classes_without_names_are_numbers():
    pool = LabelPool(Labels([{"id": "x"}]))
    outputs = predicted([[0.2, 0.8]], pool.first)
    record = query_record(Query(torch.tensor([0]), ["random"]), outputs, pool)
    assert record["items"][0]["predicted"] == "1"
    assert record["query_size"] == [1, 1]


@pytest.mark.parametrize(
    ("classes", "shares"), [(["background", "cord", "disc"], "cord 12.5%, disc 0.5%"), ([], "1 12.5%, 2 0.5%")]
)
def test_a_query_for_masks_has_the_share_of_each_class_and_no_confidence(classes, shares, tmp_path):
    pool = LabelPool(Labels(Datalist([{"image": "0.png", "id": "s0"}], classes=classes), kind="masks"))
    outputs = predicted([[0.87, 0.125, 0.005]], pool.first, threshold=pool.first.kind.threshold(0.95))
    record = query_record(Query(torch.tensor([0]), ["random"]), outputs, pool)
    (item,) = record["items"]
    assert item["predicted"] == shares
    assert "confidence" not in item
    assert record["parts"]["label"]["kind"] == "masks"
    write_query(tmp_path / "q.json", record)
    assert read_query(tmp_path / "q.json") == record
    assert table_of(tmp_path / "q.csv") == [{"id": "s0", "rank": "1", "reason": "random", "label": ""}]


@pytest.fixture
def joint():
    """A query for the class of one image and for the mask of another."""
    items = [{"image": f"{i}.png", "id": f"s{i}"} for i in range(3)]
    data = Datalist(items, classes=["low", "high"], mask_classes=["background", "lung"])
    pool = LabelPool([Labels(data), Labels(data, key="mask")])
    masks = predicted([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]], pool["mask"], [2, 0, 1])
    kept = [[0.9, 0.1], [0.25, 0.75], [0.5, 0.5]]
    outputs = predicted(kept, pool.first, [2, 0, 1], others={"mask": masks})
    return pool, outputs, query_record(joint_query(["label", "mask"]), outputs, pool)


def joint_query(parts):
    return Query(torch.tensor([2, 0]), ["expected error", "expected Dice loss"], part=parts)


def test_a_query_says_of_each_item_whether_its_label_or_its_mask_is_asked_for(joint):
    pool, outputs, record = joint
    label, mask = record["items"]
    assert (label["id"], label["ask"], label["predicted"]) == ("s2", "label", "low")
    assert label["confidence"] == pytest.approx(0.9)
    assert (mask["id"], mask["ask"], mask["predicted"]) == ("s0", "mask", "lung 25.0%")
    assert "confidence" not in mask
    assert asked_for(record) == "1 labels and 1 masks"
    plain = query_record(Query(torch.tensor([2]), ["random"]), outputs, pool)
    assert "ask" not in plain["items"][0]
    assert asked_for(plain) == "1 labels"
    assert asked_for({**plain, "items": []}) == "0 labels"


def test_a_pool_of_masks_alone_asks_for_masks(joint, tmp_path):
    pool, outputs, _ = joint
    record = query_record(Query(torch.tensor([2]), ["random"]), outputs.others["mask"], pool.of(["mask"]))
    (item,) = record["items"]
    assert (item["ask"], item["predicted"]) == ("mask", "lung 50.0%")
    assert asked_for(record) == "1 masks"
    write_query(tmp_path / "q.json", record)
    assert list(table_of(tmp_path / "q.csv")[0]) == ["id", "rank", "reason", "ask", "mask"]


def test_labels_and_masks_are_filled_into_one_table(joint, tmp_path):
    pool, _, record = joint
    write_query(tmp_path / "q.json", record)
    rows = table_of(tmp_path / "q.csv")
    assert list(rows[0]) == ["id", "rank", "reason", "ask", "label", "mask"]
    assert [(row["id"], row["ask"]) for row in rows] == [("s2", "label"), ("s0", "mask")]
    path = tmp_path / "q.csv"
    path.write_text(path.read_text().replace(",label,,", ",label,high,").replace(",mask,,", ",mask,,m/0.png"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "0.png").write_bytes(b"")
    assert annotate_from_table(pool, path) == {"label": (["s2"], []), "mask": (["s0"], [])}
    assert (pool.first.label(2), pool["mask"].label(0)) == (1, str(tmp_path / "m/0.png"))
    filled = path.read_text()
    write_query(tmp_path / "q.json", record)
    assert path.read_text() == filled


def test_choices_are_those_of_the_part_that_is_asked_for(tmp_path):
    items = [{"image": f"{i}.png", "id": f"s{i}"} for i in range(2)]
    data = Datalist(items, classes=["effusion", "mass"], mask_classes=["background", "lung"])
    pool = LabelPool([Labels(data, kind="findings"), Labels(data, key="mask")])
    masks = predicted([[0.5, 0.5], [0.75, 0.25]], pool["mask"])
    outputs = predicted([[[0.25, 0.75], [0.375, 0.625]]] * 2, pool.first, others={"mask": masks})
    query = Query(torch.tensor([0, 1]), ["joint"] * 2, part=["mask", "label"])
    write_query(tmp_path / "q.json", query_record(query, outputs, pool))
    rows = table_of(tmp_path / "q.csv")
    assert list(rows[0]) == ["id", "rank", "reason", "choices", "ask", "label", "mask"]
    assert [row["choices"] for row in rows] == ["", "none; effusion; mass"]
    assert read_query(tmp_path / "q.json")["items"][1]["findings"] == {"effusion": 0.75, "mass": 0.625}


@pytest.mark.parametrize("answer", ["high,", ",m.png"])
def test_answers_to_another_query_of_the_same_images_are_moved_aside(joint, tmp_path, answer):
    pool, outputs, record = joint
    write_query(tmp_path / "q.json", record)
    path = tmp_path / "q.csv"
    path.write_text(path.read_text().replace(",label,,", f",label,{answer}"))
    write_query(tmp_path / "q.json", query_record(joint_query(["mask", "label"]), outputs, pool))
    assert [row["ask"] for row in table_of(path)] == ["mask", "label"]
    kept = table_of(tmp_path / "q.previous1.csv")[0]
    assert f"{kept['label']},{kept['mask']}" == answer


def test_an_empty_table_of_another_query_of_the_same_images_is_replaced(joint, tmp_path):
    pool, outputs, record = joint
    write_query(tmp_path / "q.json", record)
    write_query(tmp_path / "q.json", query_record(joint_query(None), outputs, pool))
    assert list(table_of(tmp_path / "q.csv")[0]) == ["id", "rank", "reason", "label"]
    assert not (tmp_path / "q.previous1.csv").exists()


# ---- files that others wrote or damaged -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"query_size": [1]},
        {"query_size": "12"},
        {"names": ["low", "low"]},
        {"names": ["$open('x')", "high"]},
        {"names": [["low"], "high"]},
        {"names": ["none", "high"]},
        {"names": "low"},
        {"kind": "queries"},
        {"kind": {}},
        {"parts": {}},
        {"parts": []},
        {"parts": {"label": None}},
        {"parts": {"labels": {"kind": "classes", "names": ["low", "high"]}}},
        {"synthetic": "no"},
        {"items": {}},
        {"items": [[]]},
        {"items": ["a"]},
        {"item": {"id": 3}},
        {"item": {"id": ""}},
        {"item": {"id": "$open('x')"}},
        {"item": {"rank": "1"}},
        {"item": {"rank": True}},
        {"item": {"reason": None}},
        {"item": {"scores": [1]}},
        {"item": {"scores": {"entropy": "high"}}},
        {"item": {"predicted": 1}},
        {"item": {"confidence": "high"}},
        {"item": {"ask": "labels"}},
        {"item": {"ask": "mask"}},
        {"item": {"ask": []}},
        {"item": {"findings": {"effusion": 0.5}}},
        {"item": {"findings": {"effusion": 0.5, "mass": None}}},
    ],
)
def test_a_damaged_query_is_refused_by_name(findings, tmp_path, changes):
    _, record = findings
    said = {key: changes.pop(key) for key in ("kind", "names") if key in changes}
    record = {**record, "parts": {"label": {**record["parts"]["label"], **said}}}
    items = [{**record["items"][0], **changes.pop("item", {})}, record["items"][1]]
    (tmp_path / "q.json").write_text(json.dumps({**record, "items": items, **changes}))
    with pytest.raises(ValueError, match=r"q\.json"):
        read_query(tmp_path / "q.json")


@pytest.mark.parametrize("text", ["", "[]", '{"items": [], "items": []}', "[" * 100_000])
def test_what_is_no_query_is_refused_by_name(tmp_path, text):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(ValueError, match=r"q\.json"):
        read_query(tmp_path / "q.json")
