"""The command `medssl`."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support import ROOT

from medssl_monai.cli.command import main, parse_overrides
from medssl_monai.data import load_datalist
from medssl_monai.locks import changing, holding
from medssl_monai.pool import LabelPool


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from medssl_monai.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    for command in ("prepare", "audit", "features", "loop", "label-app", "annotate", "correct", "bundle", "phantom"):
        assert command in done.stdout
    assert "not a medical device" in " ".join(done.stdout.split())
    assert done.stdout.strip().endswith("False")


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    assert "usage: medssl" in capsys.readouterr().out


def test_bundle_is_copied_out_once(tmp_path, capsys):
    assert main(["bundle", "boostmis", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "configs" / "train.yaml").exists()
    assert not (tmp_path / "mine" / "models").exists()
    assert main(["bundle", "boostmis", str(tmp_path / "mine")]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert main(["bundle", "boostmiss", str(tmp_path / "other")]) == 1
    assert "there is no bundle 'boostmiss'" in capsys.readouterr().err


@pytest.fixture
def pool_file(toy_datalist, tmp_path):
    LabelPool(load_datalist(toy_datalist), labels=4).save(tmp_path / "labels.json")
    return tmp_path / "labels.json"


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
    assert "the label of 'training_39.png' must be a class index from 0 to 1" in output.err
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


def test_overrides_are_read_as_yaml():
    values = parse_overrides(["--labels", "20", "--image_size=[28, 28]", "--datalist", "a.json"])
    assert values == {"labels": 20, "image_size": [28, 28], "datalist": "a.json"}
    with pytest.raises(ValueError, match="must be a flag with a value"):
        parse_overrides(["--labels"])


@pytest.mark.parametrize("text", ["{a: b", "!!python/name:os.system", "- a: b: c", "[" * 5000])
def test_a_value_that_is_no_yaml_is_named(text):
    with pytest.raises(ValueError, match=r"the value of --labels, .* is no YAML"):
        parse_overrides(["--labels", text])


def test_a_misspelt_override_of_the_loop_is_named(own_bundle, tmp_path, capsys):
    assert main(["loop", str(own_bundle("boostmis")), str(tmp_path / "out"), "--datalsit", "x.json"]) == 1
    assert "did you mean `--datalist`?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["@methods::x", "%configs/other.yaml::x", "$@seed + 1", "$[1, 2]"])
def test_references_macros_and_expressions_stay_texts(text):
    assert parse_overrides(["--value", text]) == parse_overrides([f"--value={text}"]) == {"value": text}


def test_label_app(own_bundle, tmp_path, capsys):
    app = tmp_path / "app"
    bundle = str(own_bundle("boostmis"))
    assert main(["label-app", "--output", str(app)]) == 0
    assert f"serves nothing yet: copy bundles to {app / 'model'}" in capsys.readouterr().out
    command = ["label-app", bundle, "--output", str(app), "--method_def", "@methods::fixmatch", "--image_size=[32, 32]"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{app}\nserves boostmis\nmonailabel start_server --app {app} --studies")
    settings = json.loads((app / "model" / "boostmis" / "configs" / "label.json").read_text())
    assert settings == {"overlays": [], "overrides": {"method_def": "@methods::fixmatch", "image_size": [32, 32]}}
    assert main(command) == 1
    assert "has a bundle 'boostmis' already" in capsys.readouterr().err
    assert main(["label-app", str(own_bundle("ssal")), "--overlay", "train_3d.yaml", "--output", str(app)]) == 0
    assert "serves boostmis, ssal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["boostmis", "--method_def", "@methods::x"], "`--method_def @methods::x`: the override"),
        (["boostmis", "--datalsit", "x.json"], "did you mean `--datalist`?"),
        (["boostmis", "--overlay", "train_4d.yaml"], "train_4d.yaml"),
        (["boostmis", "--rounds", "3"], "`--rounds` is for the app or the viewer to say"),
        (["boostmis/docs"], "is no bundle of this package: there is no"),
        (["nothing"], "is no bundle of this package: there is no"),
    ],
)
def test_label_app_says_what_is_wrong_and_writes_nothing(own_bundle, tmp_path, capsys, arguments, reason):
    folder = own_bundle("boostmis").parent
    assert main(["label-app", str(folder / arguments[0]), *arguments[1:], "--output", str(tmp_path / "app")]) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "app").exists()


def test_a_flag_without_a_value_is_named(own_bundle, tmp_path, capsys):
    assert main(["loop", str(own_bundle("boostmis")), str(tmp_path / "out"), "--labels"]) == 1
    assert "'--labels' must be a flag with a value" in capsys.readouterr().err


def test_an_unknown_argument_of_another_command_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["phantom", "chest", "folder", "--sead", "1"])
    assert "unknown argument '--sead'" in capsys.readouterr().err


def test_labels_are_never_written_into_a_table(pool_file, toy_datalist, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("id,label\ntraining_0.png,0\n")
    assert main(["annotate", str(table), "--datalist", str(toy_datalist), "--labels", str(table)]) == 1
    assert "must end in .json" in capsys.readouterr().err
    assert table.read_text() == "id,label\ntraining_0.png,0\n"


def test_the_size_of_the_query_is_fed_back(pool_file, toy_datalist, tmp_path):
    query = {"synthetic": True, "task": "multiclass", "classes": [], "query_size": [5, 6], "items": []}
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
    pool = LabelPool(data, labels=0)
    pool.annotate(range(20), [0] * 20)
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


@pytest.fixture
def leaky(tmp_path):
    """Eight images of four patients with a split that tears one of them apart, and one file that is no image."""
    (tmp_path / "in").mkdir()
    rows = ["image,label,patient,split"]
    for k in range(8):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{k}.png")
        rows.append(f"{k}.png,{'ab'[k % 2]},p{k // 2},{'train' if k < 5 else 'val'}")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    (tmp_path / "in" / "t.csv").write_text("\n".join(rows))
    return tmp_path / "in"


def test_prepare_says_what_it_found_and_where_the_bad_file_is(leaky, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["prepare", str(leaky), out, "--split", "0.5", "0.5", "0"]) == 0
    printed = capsys.readouterr()
    assert "training: 4 images, 2 groups, 4 labeled (2 a, 2 b in all)" in printed.out
    assert "bad.png: cannot be read as PNG" in printed.err
    assert main(["prepare", str(leaky), out, "--split_column", "split"]) == 1
    assert "puts 1 groups into several sections" in capsys.readouterr().err
    assert main(["prepare", str(leaky), out, "--label_column", "", "--split", "1", "0", "0"]) == 0
    assert "no label: name a table" in capsys.readouterr().out
    assert main(["prepare", str(leaky), out, "--positive", "b", "--labels", "2", "--split", "1", "0", "0"]) == 0
    assert "2 labeled (4 other, 4 b in all)" in capsys.readouterr().out
    assert main(["prepare", str(leaky), out, "--positive", "c"]) == 1
    assert "`positive` 'c' is none of the classes" in capsys.readouterr().err


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
    pool = LabelPool(load_datalist(out / "datalist.json"), key="mask", labels=0)
    pool.save(tmp_path / "masks.json")
    (leaky / "mine.png").write_bytes((leaky / "3_lungs.png").read_bytes())
    (leaky / "mine.csv").write_text("id,mask\n7.png,mine.png\n6.png,3_lungs.png\n")
    arguments = ["--datalist", str(out / "datalist.json"), "--labels", str(tmp_path / "masks.json")]
    assert main(["annotate", str(leaky / "mine.csv"), *arguments]) == 1
    printed = capsys.readouterr()
    assert "1 masks taken, 1 refused" in printed.out
    assert "the mask of '6.png' is that of '3.png' as well, and one mask file serves one image" in printed.err
    again = LabelPool(load_datalist(out / "datalist.json"), labels=tmp_path / "masks.json", key="mask")
    assert again.label(again.position["7.png"]) == str(leaky / "mine.png")


def test_annotate_labels_and_masks_of_one_file(leaky, tmp_path, capsys):
    add_lungs(leaky)
    out = tmp_path / "out"
    options = [*LUNGS, "--labels", "3", "--mask_labels", "1", "--split", "1", "0", "0", "--clear_names"]
    assert main(["prepare", str(leaky), str(out), *options]) == 0
    data = load_datalist(out / "datalist.json")
    before = LabelPool(data, labels=0, beside=LabelPool(data, labels=0, key="mask"))
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
    pool = LabelPool(data, labels=tmp_path / "pool.json", beside=LabelPool(data, labels=0, key="mask"))
    assert pool.label(pool.position["6.png"]) == 0
    assert pool.beside.label(pool.position["7.png"]) == str(leaky / "mine.png")
    assert [int(own.mask.sum()) for own in (pool, pool.beside)] == [1, 1]


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
    pool = LabelPool(data, labels=tmp_path / "o.json", beside=LabelPool(data, labels=0, key="mask"))
    assert [int(own.mask.sum()) for own in (pool, pool.beside)] == [2, 2]


def test_audit_fails_on_leaks_unless_they_are_allowed(leaky, tmp_path, capsys):
    folder = tmp_path / "out"
    main(["prepare", str(leaky), str(folder), "--split_column", "split", "--allow_leaks"])
    capsys.readouterr()
    assert main(["audit", str(folder / "datalist.json")]) == 1
    assert "leak: groups (patients, lesions) in both training and validation: 1" in capsys.readouterr().out
    assert main(["audit", str(folder / "datalist.json"), str(tmp_path / "page"), "--allow_leaks"]) == 0
    assert {path.name for path in (tmp_path / "page").iterdir()} == {"audit.json", "audit.html"}
    assert main(["audit", str(leaky), str(tmp_path / "source")]) == 1  # as its publisher split it
    assert "leak: groups (patients, lesions) in both training and validation: 1" in capsys.readouterr().out


def test_the_terminal_says_which_file_a_person_is_asked_about(own_bundle, tiny, tmp_path, capsys):
    settings = tiny("loop", labels=6)
    flags = [part for key, value in settings.items() if key not in ("output_dir", "ckpt_dir", "rounds")
             for part in (f"--{key}", str(value))]  # fmt: skip
    command = ["loop", str(own_bundle("boostmis")), str(tmp_path / "loop"), "--annotator", "person", *flags]
    assert main(command) == 0
    printed = capsys.readouterr().out
    asked = json.loads((tmp_path / "loop" / "round_00" / "queries" / "round_00.json").read_text())["items"]
    assert f"labels in {tmp_path / 'loop' / 'round_00' / 'queries' / 'round_00.csv'}" in printed
    for item in asked:
        assert f"{item['id']} is " in printed
