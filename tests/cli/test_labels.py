"""The commands `medssl annotate` and `medssl correct`."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os

import numpy as np
import pytest
from PIL import Image

from medssl_monai.cli import main
from medssl_monai.data import load_datalist
from medssl_monai.locks import changing, holding
from medssl_monai.pool import LabelPool, Labels


def test_annotate_keeps_good_rows_and_names_bad_ones(pool_file, toy_datalist, tmp_path, capsys):
    known = json.loads(pool_file.read_text())["labels"]
    new = next(f"training_{n}.png" for n in range(40) if f"training_{n}.png" not in known)
    table = tmp_path / "table.csv"
    table.write_text(f"id,label\n{new},right\nnobody,1\n{next(iter(known))},0\ntraining_39.png,5\n")
    status = main(["annotate", str(table), "--datalist", str(toy_datalist), "--labels", str(pool_file)])
    assert status == 1
    output = capsys.readouterr()
    assert "1 labels taken, 3 refused" in output.out
    assert "refused: table.csv, line 3: 'nobody' is not in the datalist" in output.err
    assert "is labeled already" in output.err
    assert "the label of 'training_39.png' is 5, and must be a class index from 0 to 1" in output.err
    assert json.loads(pool_file.read_text())["labels"] == {**known, new: 1}


def test_a_correction_is_a_command_of_its_own(pool_file, toy_datalist, tmp_path):
    known = json.loads(pool_file.read_text())["labels"]
    name = next(iter(known))
    table = tmp_path / "table.csv"
    table.write_text(f"id,label\n{name},{1 - known[name]}\n")
    arguments = [str(table), "--datalist", str(toy_datalist), "--labels", str(pool_file)]
    assert main(["annotate", *arguments]) == 1
    assert json.loads(pool_file.read_text())["labels"] == known
    assert main(["correct", *arguments]) == 0
    assert json.loads(pool_file.read_text())["labels"] == {**known, name: 1 - known[name]}


def test_labels_are_never_written_into_a_table(pool_file, toy_datalist, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("id,label\ntraining_0.png,0\n")
    assert main(["annotate", str(table), "--datalist", str(toy_datalist), "--labels", str(table)]) == 1
    assert "must end in .json" in capsys.readouterr().err
    assert table.read_text() == "id,label\ntraining_0.png,0\n"


def test_the_size_of_the_query_is_fed_back(pool_file, toy_datalist, tmp_path):
    query = {"synthetic": True, "parts": {"label": {"kind": "classes", "names": []}}, "query_size": [5, 6], "items": []}
    (tmp_path / "query.json").write_text(json.dumps(query))
    (tmp_path / "table.csv").write_text("id,label\n")
    arguments = ["--datalist", str(toy_datalist), "--labels", str(pool_file), "--query", str(tmp_path / "query.json")]
    assert main(["annotate", str(tmp_path / "table.csv"), *arguments]) == 0
    assert json.loads(pool_file.read_text())["query_size"] == [5, 6]


# ---- several at once ------------------------------------------------------------------------------------------------


def answers(folder, number, names, label):
    table = folder / f"table{number}.csv"
    table.write_text("id,label\n" + "".join(f"{name},{label}\n" for name in names))
    return str(table)


def at_once(calls):
    """Exit statuses of `main` for each list of arguments, each in a process of its own, all begun together."""
    fork = multiprocessing.get_context("fork")
    begin = fork.Barrier(len(calls))

    def call(arguments):
        begin.wait()
        os._exit(main(arguments))

    processes = [fork.Process(target=call, args=(arguments,)) for arguments in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_ten_persons_who_annotate_and_correct_at_once_lose_no_label(toy_datalist, tmp_path):
    data = load_datalist(toy_datalist)
    names, path = [item["id"] for item in data], tmp_path / "pool.json"
    pool = LabelPool(Labels(data, 0))
    pool.first.annotate(range(20), [0] * 20)
    pool.save(path)
    end = ["--datalist", str(toy_datalist), "--labels", str(path)]
    calls = [["correct", answers(tmp_path, n, names[4 * n : 4 * n + 4], 1), *end] for n in range(5)]
    calls += [["annotate", answers(tmp_path, n, names[4 * n : 4 * n + 4], n % 2), *end] for n in range(5, 10)]
    assert at_once(calls) == [0] * 10
    expected = dict.fromkeys(names[:20], 1) | {name: place // 4 % 2 for place, name in enumerate(names) if place >= 20}
    assert json.loads(path.read_text())["labels"] == expected


def test_labels_are_not_changed_while_somebody_else_changes_them(
    pool_file, toy_datalist, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("medssl_monai.locks.changing", functools.partial(changing, seconds=0.1))
    before = pool_file.read_bytes()
    command = [answers(tmp_path, 0, ["training_39.png"], 1), "--datalist", str(toy_datalist), "--labels"]
    with changing(pool_file):
        assert main(["annotate", *command, str(pool_file)]) == 1
    assert "is being changed by another process" in capsys.readouterr().err
    assert pool_file.read_bytes() == before


def test_labels_of_a_run_are_not_changed_while_it_runs(pool_file, toy_datalist, tmp_path, capsys):
    """It would write over them at the end of its round."""
    run = tmp_path / "run"
    run.mkdir()
    pool_file.rename(run / "pool.json")
    name = next(i for i in (f"training_{n}.png" for n in range(40)) if i not in (run / "pool.json").read_text())
    command = ["annotate", answers(tmp_path, 0, [name], 1), "--datalist", str(toy_datalist)]
    with holding(run):
        assert main([*command, "--labels", str(run / "pool.json")]) == 1
        printed = capsys.readouterr().err
        assert f"{run} is in use by process" in printed and "name another file with --output" in printed
        assert main([*command, "--labels", str(run / "pool.json"), "--output", str(tmp_path / "mine.json")]) == 0
    assert name not in (run / "pool.json").read_text()
    assert main([*command, "--labels", str(run / "pool.json")]) == 0
    assert (run / "pool.json").read_text() == (tmp_path / "mine.json").read_text()
    assert sorted(path.name for path in run.iterdir()) == [".pool.json.lock", "pool.json"]


def test_labels_of_a_loop_are_not_changed_while_it_runs(pool_file, toy_datalist, tmp_path, capsys):
    """Between two rounds it has read them, and not yet written those of the next."""
    run = tmp_path / "loop" / "round_00"
    run.mkdir(parents=True)
    pool_file.rename(run / "pool.json")
    command = ["correct", answers(tmp_path, 0, [], 1), "--datalist", str(toy_datalist), "--labels"]
    with holding(tmp_path / "loop"):
        assert main([*command, str(run / "pool.json")]) == 1
    assert f"{tmp_path / 'loop'} is in use by process" in capsys.readouterr().err
    assert main([*command, str(run / "pool.json")]) == 0


def test_the_labels_of_another_file_are_not_overwritten(pool_file, toy_datalist, tmp_path, capsys):
    other, before = tmp_path / "other.json", pool_file.read_bytes()
    command = ["--datalist", str(toy_datalist), "--labels", str(pool_file), "--output"]
    missing = [f"training_{n}.png" for n in range(40) if f'"training_{n}.png"' not in pool_file.read_text()]
    assert main(["annotate", answers(tmp_path, 0, missing[:1], 1), *command, str(other)]) == 0
    given = other.read_bytes()
    assert main(["annotate", answers(tmp_path, 1, missing[1:2], 1), *command, str(other)]) == 1
    assert "other.json is there already, and its labels would be lost; name another" in capsys.readouterr().err
    assert (other.read_bytes(), pool_file.read_bytes()) == (given, before)
    (tmp_path / "link.json").symlink_to(pool_file)
    link = ["--datalist", str(toy_datalist), "--labels", str(tmp_path / "link.json")]
    assert main(["annotate", answers(tmp_path, 1, missing[1:2], 1), *link]) == 0
    assert (tmp_path / "link.json").is_symlink() and missing[1] in pool_file.read_text()


@pytest.mark.parametrize(
    "content", ['{"key": ["label"]}', '{"key": 1}', "{}", "[]", "", '{"key": "label", "key": "mask"}']
)
def test_a_damaged_file_of_labels_is_named(toy_datalist, tmp_path, capsys, content):
    (tmp_path / "pool.json").write_text(content)
    table = answers(tmp_path, 0, ["training_0.png"], 1)
    assert main(["annotate", table, "--datalist", str(toy_datalist), "--labels", str(tmp_path / "pool.json")]) == 1
    assert "pool.json" in capsys.readouterr().err
    assert (tmp_path / "pool.json").read_text() == content


LUNGS = ["--masks", "_lungs", "--mask_classes", "background", "lung"]


def add_lungs(folder):
    """Masks beside the first four images."""
    for k in range(4):
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(folder / f"{k}_lungs.png")


def test_prepare_and_annotate_masks_beside_classes(leaky, tmp_path, capsys):
    add_lungs(leaky)
    out = tmp_path / "out"
    options = [*LUNGS, "--labels", "3", "--mask_labels", "1", "--split", "1", "0", "0", "--clear_names"]
    assert main(["prepare", str(leaky), str(out), *options]) == 0
    assert "training: 8 images, 4 groups, 3 labeled (4 a, 4 b in all), 1 masked" in capsys.readouterr().out
    pool = LabelPool(Labels(load_datalist(out / "datalist.json"), 0, "mask"))
    pool.save(tmp_path / "masks.json")
    (leaky / "mine.png").write_bytes((leaky / "3_lungs.png").read_bytes())
    (leaky / "mine.csv").write_text("id,mask\n7.png,mine.png\n6.png,3_lungs.png\n")
    arguments = ["--datalist", str(out / "datalist.json"), "--labels", str(tmp_path / "masks.json")]
    assert main(["annotate", str(leaky / "mine.csv"), *arguments]) == 1
    printed = capsys.readouterr()
    assert "1 masks taken, 1 refused" in printed.out
    assert "the mask of '6.png' is that of '3.png' as well, and one mask file serves one image" in printed.err
    again = Labels(load_datalist(out / "datalist.json"), tmp_path / "masks.json", "mask")
    assert again.label(again.position["7.png"]) == str(leaky / "mine.png")


def test_annotate_labels_and_masks_of_one_file(leaky, tmp_path, capsys):
    add_lungs(leaky)
    out = tmp_path / "out"
    options = [*LUNGS, "--labels", "3", "--mask_labels", "1", "--split", "1", "0", "0", "--clear_names"]
    assert main(["prepare", str(leaky), str(out), *options]) == 0
    data = load_datalist(out / "datalist.json")
    before = LabelPool([Labels(data, 0), Labels(data, 0, "mask")])
    before.save(tmp_path / "pool.json")
    (leaky / "mine.png").write_bytes((leaky / "3_lungs.png").read_bytes())
    (leaky / "mine.csv").write_text("id,ask,label,mask\n7.png,mask,,mine.png\n6.png,label,a,\n5.png,mask,,no.png\n")
    arguments = ["--datalist", str(out / "datalist.json"), "--labels", str(tmp_path / "pool.json")]
    capsys.readouterr()
    assert main(["annotate", str(leaky / "mine.csv"), *arguments]) == 1
    printed = capsys.readouterr()
    assert "1 labels taken, 0 refused" in printed.out
    assert "1 masks taken, 1 refused" in printed.out
    assert "5.png" in printed.err
    pool = LabelPool([Labels(data, tmp_path / "pool.json", key) for key in ("label", "mask")])
    assert pool.first.label(pool.first.position["6.png"]) == 0
    assert pool["mask"].label(pool.first.position["7.png"]) == str(leaky / "mine.png")
    assert [int(labels.mask.sum()) for labels in pool.parts.values()] == [1, 1]


def test_a_table_of_labels_and_masks_keeps_both(leaky, tmp_path):
    add_lungs(leaky)
    out = tmp_path / "out"
    assert main(["prepare", str(leaky), str(out), *LUNGS, "--split", "1", "0", "0", "--clear_names"]) == 0
    for name in ("one.png", "two.png"):
        (leaky / name).write_bytes((leaky / "2_lungs.png").read_bytes())
    (leaky / "known.csv").write_text("id,label,mask\n4.png,a,one.png\n5.png,b,\n")
    (leaky / "new.csv").write_text("id,mask\n5.png,two.png\n")
    arguments = ["--datalist", str(out / "datalist.json"), "--labels", str(leaky / "known.csv")]
    assert main(["annotate", str(leaky / "new.csv"), *arguments, "--output", str(tmp_path / "o.json")]) == 0
    data = load_datalist(out / "datalist.json")
    pool = LabelPool([Labels(data, tmp_path / "o.json", key) for key in ("label", "mask")])
    assert [int(labels.mask.sum()) for labels in pool.parts.values()] == [2, 2]
