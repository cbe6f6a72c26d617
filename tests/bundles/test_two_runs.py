"""Two runs in one folder: the second is refused before it reads or writes anything there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from support import ROOT, in_use, refused

from medssl_monai.bundle import DescribeBundle
from medssl_monai.bundle.loop import run_loop
from medssl_monai.locks import RUN_LOCK

SHORT = {"rounds": 1, "epochs_per_round": 1, "epoch_length": 1}


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["run", "run/models"])
def test_a_folder_in_use_is_refused_in_words(run_bundle, finished, tmp_path, place):
    """The state is in one, the weights in the other, which several runs of a bundle share by default."""
    finished(**SHORT)
    before = files_of(tmp_path / "run")
    with in_use(tmp_path / place):
        said = refused(run_bundle, **{**SHORT, "rounds": 2})
    assert f"{tmp_path / place} is in use by process {os.getpid()} on " in said
    assert files_of(tmp_path / "run") == before


@pytest.mark.parametrize(("overlay", "folder"), [("evaluate", "run"), ("query", "run"), ("probe", "run")])
def test_an_overlay_does_not_write_beside_a_run(run_bundle, finished, own_bundle, tmp_path, overlay, folder):
    finished(**SHORT)
    before = files_of(tmp_path / "run")
    with in_use(tmp_path / folder):
        said = refused(run_bundle, overlays=(f"{overlay}.yaml",), pretrained=None, **SHORT)
    assert "run is in use by process" in said
    assert files_of(tmp_path / "run") == before


def test_pre_training_does_not_write_beside_another(pretrain, tmp_path):
    with in_use(tmp_path / "pretrain"):
        assert "pretrain is in use" in refused(pretrain)
    assert not (tmp_path / "pretrain" / "state.pt").exists()


@pytest.mark.parametrize("place", ["loop", "loop/round_00"])
def test_a_loop_does_not_write_beside_another(own_bundle, tiny, tmp_path, place):
    values = {key: value for key, value in tiny(**SHORT).items() if key not in ("output_dir", "ckpt_dir", "rounds")}
    with in_use(tmp_path / place):
        said = refused(run_loop, own_bundle("boostmis"), tmp_path / "loop", rounds=1, overrides=values)
    assert f"{tmp_path / place} is in use" in said
    assert files_of(tmp_path / "loop") == {}
    assert run_loop(own_bundle("boostmis"), tmp_path / "loop", rounds=1, overrides=values)
    assert not list((tmp_path / "loop").rglob(f"{RUN_LOCK}*"))


def test_a_run_that_fails_leaves_its_folder_free(run_bundle, finished, tmp_path):
    finished(**SHORT)
    assert "seed 0, this one has 1" in refused(run_bundle, seed=1, **SHORT)
    assert not list((tmp_path / "run").rglob(f"{RUN_LOCK}*"))


def test_what_a_killed_run_left_half_written_is_removed(run_bundle, finished, tmp_path):
    finished(**SHORT)
    left = [tmp_path / "run" / f".state.pt.{8 * 'f0'}.tmp", tmp_path / "run" / "models" / f".model.pt.{8 * '0f'}.tmp"]
    for path in left:
        path.write_bytes(b"half")
    run_bundle(**SHORT)
    assert not any(path.exists() for path in left)


def test_two_runs_that_describe_one_bundle_are_told(own_bundle):
    class Engine:
        class logger:  # noqa: N801
            warning = staticmethod(lambda text: said.append(text))

    def describe(channels):
        facts = {"classes": ["a", "b"], "channels": channels, "image_size": [8, 8], "synthetic": True}
        return DescribeBundle(own_bundle("boostmis"), **facts)

    said: list[str] = []
    first, second = describe(1), describe(3)
    for handler in (first, first, second):
        handler(Engine)
    assert said == []
    first(Engine)
    assert len(said) == 1 and "a bundle of their own" in said[0]
    metadata = json.loads((own_bundle("boostmis") / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 1


@pytest.mark.slow
def test_a_stopped_process_has_its_folder_and_a_killed_one_does_not(own_bundle, tiny, tmp_path):
    bundle = own_bundle("boostmis")
    words = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    words += ["--config_file", str(bundle / "configs" / "train.yaml"), "--bundle_root", str(bundle)]
    for key, value in tiny(rounds=1, epochs_per_round=500).items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    state = tmp_path / "run" / "state.pt"
    with (tmp_path / "log").open("w") as log, subprocess.Popen(words, env=environment, stdout=log, stderr=log) as first:
        try:
            while not state.exists():
                assert first.poll() is None, (tmp_path / "log").read_text()[-2000:]
            first.send_signal(signal.SIGSTOP)
            before = state.read_bytes()
            second = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
            assert second.returncode != 0
            assert f"{tmp_path / 'run'} is in use by process {first.pid} on " in second.stderr
            assert state.read_bytes() == before
        finally:
            first.kill()
    words[words.index("--epochs_per_round") + 1] = "1"
    third = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert "was written by a run with epochs_per_round 500, this one has 1" in third.stderr  # it could read it
