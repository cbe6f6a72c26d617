"""The environment of MONAI Label: what is installed in which order, and the shim for torchvision."""

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
  "-m pip "*) echo "cuda=${SAM2_BUILD_CUDA-} $*" >>"$LOG"; [[ -z "${BROKEN-}" || "$*" != *"$BROKEN"* ]]; exit ;;
  *"import torchvision"*) [ -n "${WHOLE-}" ] || [ -f "$SITE/torchvision_shim.pth" ]; exit ;;
  *urllib*) exit 1 ;;
esac
"""


@pytest.fixture
def build(tmp_path):
    """Builds the environment with stand-ins for Python and pip; its status, and what pip was asked for this time."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "bin" / "python3").write_text(PYTHON)
    (tmp_path / "bin" / "python3").chmod(0o755)
    log = tmp_path / "log"
    places = {"VENV": str(tmp_path / "venv"), "SITE": str(tmp_path / "site"), "LOG": str(log)}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def _build(**variables):
        log.write_text("")
        done = subprocess.run(
            ["bash", "-c", "source scripts/environment.sh; make_label_environment"],
            cwd=ROOT,
            env={"PATH": path, **places, **variables},
            check=False,
        )
        shim = sorted(path.name for path in (tmp_path / "site").iterdir())
        return SimpleNamespace(status=done.returncode, asked=log.read_text().splitlines(), shim=shim)

    return _build


def test_torch_comes_first_and_sam2_is_built_with_it(build):
    first, second, third = build().asked
    assert all("--constraint constraints-label.txt" in line for line in (first, second, third))
    assert first.endswith("torch torchvision setuptools")
    assert second.startswith("cuda=0") and second.endswith("--no-build-isolation sam2")
    assert third.endswith("monailabel --editable .")


def test_a_second_call_installs_nothing(build):
    build()
    again = build()
    assert again.status == 0 and not again.asked


def test_what_failed_is_tried_again(build):
    failed = build(BROKEN="sam2")
    assert failed.status and len(failed.asked) == 2
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
