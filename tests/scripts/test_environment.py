"""The two environments: what is installed from where and in which order, and the shim for torchvision."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support import ROOT

PYTHON = r"""#!/usr/bin/env bash
# Stands for python3 and for the environment's own: notes what it is asked for instead of doing it.
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; exit; fi
case "$*" in
  *sysconfig*) echo "$SITE"; exit ;;
  "-m pip "*)
    asked="$*"
    if [[ "$asked" = *" --requirement "* ]]; then
      asked="${asked% --requirement *}: $(grep -o '^[a-z0-9-]*==[^ ]*' "${@: -1}" | tr '\n' ' ')"
    fi
    echo "cuda=${SAM2_BUILD_CUDA-} $asked" >>"$LOG"
    [[ -z "${BROKEN-}" || "$asked" != *"$BROKEN"* ]]
    exit
    ;;
  *"import torchvision"*) [ -n "${WHOLE-}" ] || [ -f "$SITE/torchvision_shim.pth" ]; exit ;;
  *urllib*) [ -n "${REACHABLE-}" ]; exit ;;
  *importlib.metadata*) [ -n "${CUDA-}" ]; exit ;;
esac
"""
INDEX = "--index-url https://download.pytorch.org/whl/cpu"


@pytest.fixture
def build(tmp_path):
    """Builds an environment with stand-ins for Python and pip; its status, and what pip was asked for this time."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "bin" / "python3").write_text(PYTHON)
    (tmp_path / "bin" / "nvidia-smi").write_text('#!/bin/sh\n[ -n "$NVIDIA" ]\n')
    for program in (tmp_path / "bin").iterdir():
        program.chmod(0o755)
    log = tmp_path / "log"
    places = {"VENV": str(tmp_path / "venv"), "SITE": str(tmp_path / "site"), "LOG": str(log)}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def _build(function="make_label_environment", **variables):
        log.write_text("")
        done = subprocess.run(
            ["bash", "-c", f"source scripts/environment.sh; {function}"],
            cwd=ROOT,
            env={"PATH": path, **places, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        shim = sorted(path.name for path in (tmp_path / "site").iterdir())
        asked = [line.strip() for line in log.read_text().splitlines()]
        return SimpleNamespace(status=done.returncode, said=done.stdout, asked=asked, shim=shim)

    return _build


def test_torch_comes_first_and_the_project_last(build):
    cpu, torch, rest, project = build("make_environment").asked
    assert cpu.endswith(": torch==2.13.0+cpu") and torch.endswith(": torch==2.13.0")
    assert " setuptools==" in rest and " monai==" in rest
    assert project.endswith("--no-deps --no-build-isolation --editable .")


@pytest.mark.parametrize("function", ["make_environment", "make_label_environment"])
@pytest.mark.parametrize("machine", [{}, {"REACHABLE": "yes"}, {"NVIDIA": "yes", "CUDA": "yes"}])
def test_every_file_is_checked_and_has_one_index(build, function, machine):
    done = build(function, **machine)
    assert done.status == 0
    *pinned, project = done.asked
    assert all("--require-hashes" in line for line in pinned)
    assert all("--no-deps" in line for line in done.asked)
    assert not any("extra" in line for line in done.asked)
    assert [line for line in done.asked if "index" in line] == [
        line for line in pinned if "+cpu" in line and "REACHABLE" in machine and INDEX in line
    ]
    assert project.endswith("--editable .")


def test_packages_without_a_wheel_are_built_beside_the_rest_and_nothing_else_is(build):
    *wheels, sources, _project = build().asked
    assert all("--only-binary :all:" in line for line in wheels)
    assert sources.startswith("cuda=0") and "--no-build-isolation" in sources
    names = {name.split("==")[0] for name in sources.split(": ")[1].split()}
    assert names == {"antlr4-python3-runtime", "iopath", "numpymaxflow", "sam2", "timeloop"}
    assert " torchvision==" in wheels[-1] and not any(f" {name}==" in wheels[-1] for name in names)


def test_a_gpu_gets_torch_of_pypi_and_what_cuda_needs(build):
    asked = build("make_environment", NVIDIA="yes", CUDA="yes").asked
    assert not any("+cpu" in line for line in asked)
    assert asked[0].endswith(": torch==2.13.0") and " nvidia-cublas==" in asked[1] and "torch" not in asked[1]


def test_no_cpu_build_of_a_known_hash_means_pypi_and_is_said(build):
    done = build("make_environment", REACHABLE="yes", BROKEN="+cpu")
    assert done.status == 0 and "torch: PyPI's build, as no CPU build of a known hash is within reach" in done.said
    assert INDEX in done.asked[0] and done.asked[1].endswith(": torch==2.13.0") and "index" not in done.asked[1]


def test_a_second_call_installs_nothing(build):
    build()
    again = build()
    assert again.status == 0 and not again.asked


def test_what_failed_is_tried_again(build):
    failed = build(BROKEN="sam2")
    assert failed.status and "sam2" in failed.asked[-1]
    assert build().status == 0


def test_the_shim_is_there_only_while_torchvision_does_not_import_without_it(build, tmp_path):
    assert build(WHOLE="yes").shim == []
    (tmp_path / "venv" / "installed").unlink()
    assert build().shim == ["torchvision_shim.pth", "torchvision_shim.py"]
    (tmp_path / "venv" / "installed").unlink()
    assert build(WHOLE="yes").shim == []


@pytest.mark.slow
def test_operators_are_declared_when_torchvision_is_imported_and_not_before(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "from torch.library import register_fake\n"
        "for name in ('nms', 'qnms'): register_fake(f'torchvision::{name}', lambda *tensors: tensors[0])\n"
    )
    shutil.copy(ROOT / "scripts" / "torchvision_shim.py", tmp_path)
    (tmp_path / "torchvision_shim.pth").write_text("import torchvision_shim\n")
    code = f"""
import site, sys
site.addsitedir({str(tmp_path)!r})
assert "torchvision_shim" in sys.modules and "torch" not in sys.modules
import torch
assert not torch._C._dispatch_has_kernel("torchvision::nms")
assert not torch._C._get_operation_overload("torchvision::nms", "")
import torchvision, gc
gc.collect()
print(torch.ops.torchvision.nms.default._schema, torch.ops.torchvision.qnms.default._schema, sep="\\n")
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}  # before a torchvision that may be installed
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert done.stdout.splitlines() == [f"torchvision::{name}{arguments}" for name in ("nms", "qnms")]
