"""Overrides that name something, and those that are misspelt."""

import copy
import json

import pytest

from medssl_monai.bundle.overrides import check_command_line, check_overrides, nested
from medssl_monai.bundle.run import workflow

CONFIG = {
    "labels": 24,
    "max_epochs": "$@rounds * 5",
    "rounds": 4,
    "batch_size": {"labeled": 16, "unlabeled": 32},
    "pool": {"_target_": "medssl_monai.pool.LabelPool", "labels": "@labels"},
    "train": {
        "trainer": {"_target_": "SSLTrainer", "max_epochs": 3},
        "handlers": [{"_target_": "EpochSeed", "seed": 0}],
    },
}


@pytest.mark.parametrize(
    "name",
    [
        "labels",
        "batch_size::labeled",
        "batch_size#labeled",
        "train::trainer::max_epochs",
        "train::handlers::0::seed",
        "train::handlers#0#seed",
        "pool::seed",  # one more argument of a component
        "train",
    ],
)
def test_overrides_that_name_something_pass(name):
    check_overrides([name], CONFIG)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lables", "labels"),
        ("max_epoch", "max_epochs"),
        ("batch_size::labelled", "batch_size::labeled"),
        ("train::trainr::max_epochs", "train::trainer"),  # the part that is misspelt is the one that is mended
    ],
)
def test_overrides_that_name_nothing_are_refused_with_the_nearest_name(name, meant):
    match = f"the override `--{name}` names nothing in the configuration; did you mean `--{meant}"
    with pytest.raises(ValueError, match=match):
        check_overrides(["rounds", name], CONFIG)


@pytest.mark.parametrize("name", ["train::handlers::1::seed", "labels::count", "pool::seeds::more", "zzzzzz"])
def test_overrides_that_resemble_nothing_are_refused_without_a_guess(name):
    with pytest.raises(ValueError, match=f"the override `--{name}` names nothing in the configuration$"):
        check_overrides([name], CONFIG)


def test_keys_with_colons_are_put_into_their_places():
    flat = {
        "train": {"dataset": {"data": 1}},
        "train::handlers": [1, 2],
        "train::trainer::max_epochs": 3,
        "validate::evaluator": {"_target_": "x"},
        "train::dataset::transform": 4,
        "seed": 0,
    }
    before = copy.deepcopy(flat)
    assert nested(flat) == {
        "train": {"dataset": {"data": 1, "transform": 4}, "handlers": [1, 2], "trainer": {"max_epochs": 3}},
        "validate": {"evaluator": {"_target_": "x"}},
        "seed": 0,
    }
    assert flat == before


def test_a_key_with_colons_before_the_one_that_it_belongs_to():
    assert nested({"a::b": 1, "a": {"c": 2}}) == {"a": {"c": 2, "b": 1}}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.yaml"
    trainer = "{_target_: T, max_epochs: 2}"
    path.write_text(f"bundle_root: .\nrounds: 4\nlearning_rate: 0.1\ntrain: {{data: x}}\ntrain::trainer: {trainer}\n")
    return str(path)


def run(*arguments, program="/site-packages/monai/bundle/__main__.py"):
    check_command_line([program, *arguments])


def test_flags_of_a_run_that_name_something_pass(config):
    run("run", "--config_file", config, "--rounds", "2", "--train::trainer::max_epochs", "1", "--bundle_root", ".")
    run("run", "train", "--config_file=" + config, "--learning_rate=-1", "--rounds", "-1")


def test_flags_of_monai_itself_pass(config):
    run("run", "--config_file", config, "--meta_file", "m.json", "--logging_file", "l.conf", "--run_id", "run")
    run("run", "--config_file", config, "--workflow_type", "train", "--tracking", "mlflow", "--final_id", "finalize")


@pytest.mark.parametrize("flag", ["--round", "--round=3", "-round", "--learning-rates", "--train::trainer::epochs::x"])
def test_a_misspelt_flag_is_refused(config, flag):
    with pytest.raises(ValueError, match="names nothing in the configuration"):
        run("run", "--config_file", config, flag, "3")


def test_a_flag_with_hyphens_is_the_one_with_underscores(config):
    """Fire, which reads MONAI's command line, takes both."""
    run("run", "--config-file", config, "--learning-rate", "0.2")


@pytest.mark.parametrize("files", ["['{0}','{1}']", "[{0},{1}]", "{0},{1}"])
def test_several_config_files_count_together(config, tmp_path, files):
    overlay = tmp_path / "multi_gpu_train.yaml"
    overlay.write_text("sync_batch_norm: true\n")
    run("run", "--config_file", files.format(config, overlay), "--rounds", "1", "--sync_batch_norm", "false")
    with pytest.raises(ValueError, match="sync_batch"):
        run("run", "--config_file", files.format(config, overlay), "--sync_batch", "false")


def test_arguments_from_a_file_count_too(config, tmp_path):
    (tmp_path / "args.json").write_text(json.dumps({"config_file": config, "roundz": 3}))
    with pytest.raises(ValueError, match="roundz"):
        run("run", "--args_file", str(tmp_path / "args.json"))


@pytest.mark.parametrize(
    "argv",
    [
        ["/usr/bin/pytest", "run", "--nonsense", "1"],
        ["/site-packages/monai/bundle/__main__.py", "verify_metadata", "--nonsense", "1"],
        ["/site-packages/monai/bundle/__main__.py", "run", "--nonsense", "1"],  # without a config file
        [],
    ],
)
def test_another_program_is_left_alone(argv):
    check_command_line(argv)


def test_a_workflow_checks_its_overrides_before_it_builds_anything(config):
    with pytest.raises(ValueError, match=r"`--round` names nothing in the configuration; did you mean `--rounds`\?"):
        workflow([config], round=3)
