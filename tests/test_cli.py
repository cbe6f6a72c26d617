"""The command `medssl`."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support import ROOT

from medssl_monai.cli import main, parse_overrides
from medssl_monai.data import LabelPool, load_datalist


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
    assert "'nobody' is not in the datalist" in output.err
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
    (tmp_path / "query.json").write_text('{"query_size": [5, 6]}')
    (tmp_path / "table.csv").write_text("id,label\n")
    arguments = ["--datalist", str(toy_datalist), "--labels", str(pool_file), "--query", str(tmp_path / "query.json")]
    assert main(["annotate", str(tmp_path / "table.csv"), *arguments]) == 0
    assert json.loads(pool_file.read_text())["query_size"] == [5, 6]


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
    (leaky / "mine.csv").write_text("id,mask\n7.png,3_lungs.png\n")
    arguments = ["--datalist", str(out / "datalist.json"), "--labels", str(tmp_path / "masks.json")]
    assert main(["annotate", str(leaky / "mine.csv"), *arguments]) == 0
    assert "1 masks taken, 0 refused" in capsys.readouterr().out
    again = LabelPool(load_datalist(out / "datalist.json"), labels=tmp_path / "masks.json", key="mask")
    assert again.label(again.position["7.png"]) == str(leaky / "3_lungs.png")


def test_annotate_labels_and_masks_of_one_file(leaky, tmp_path, capsys):
    add_lungs(leaky)
    out = tmp_path / "out"
    options = [*LUNGS, "--labels", "3", "--mask_labels", "1", "--split", "1", "0", "0", "--clear_names"]
    assert main(["prepare", str(leaky), str(out), *options]) == 0
    data = load_datalist(out / "datalist.json")
    before = LabelPool(data, labels=0, beside=LabelPool(data, labels=0, key="mask"))
    before.save(tmp_path / "pool.json")
    (leaky / "mine.csv").write_text("id,ask,label,mask\n7.png,mask,,3_lungs.png\n6.png,label,a,\n5.png,mask,,no.png\n")
    arguments = ["--datalist", str(out / "datalist.json"), "--labels", str(tmp_path / "pool.json")]
    capsys.readouterr()
    assert main(["annotate", str(leaky / "mine.csv"), *arguments]) == 1
    printed = capsys.readouterr()
    assert "1 labels taken, 0 refused" in printed.out
    assert "1 masks taken, 1 refused" in printed.out
    assert "5.png" in printed.err
    pool = LabelPool(data, labels=tmp_path / "pool.json", beside=LabelPool(data, labels=0, key="mask"))
    assert pool.label(pool.position["6.png"]) == 0
    assert pool.beside.label(pool.position["7.png"]) == str(leaky / "3_lungs.png")
    assert [int(own.mask.sum()) for own in (pool, pool.beside)] == [1, 1]


def test_a_table_of_labels_and_masks_keeps_both(leaky, tmp_path):
    add_lungs(leaky)
    out = tmp_path / "out"
    assert main(["prepare", str(leaky), str(out), *LUNGS, "--split", "1", "0", "0", "--clear_names"]) == 0
    (leaky / "known.csv").write_text("id,label,mask\n4.png,a,1_lungs.png\n5.png,b,\n")
    (leaky / "new.csv").write_text("id,mask\n5.png,2_lungs.png\n")
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
