# Sourced by scripts that need a virtual environment; each function builds or reuses the one in $VENV:
#   make_environment EXTRAS   this package with its EXTRAS, in .venv unless VENV says otherwise
#   make_label_environment    MONAI Label and this package, in .venv-label unless VENV says otherwise
# They install the versions of their constraints, torch first, and nothing if those have not changed.

make_environment() {
  VENV="${VENV:-.venv}"
  build_environment constraints.txt 14 install_package "$1"
}

make_label_environment() { # a folder of its own, as MONAI Label needs numpy<2, which has no wheels for Python 3.13
  VENV="${VENV:-.venv-label}"
  build_environment constraints-label.txt 12 install_label
}

build_environment() { # CONSTRAINTS NEWEST INSTALL [ARGUMENT], with Python 3.11 to 3.NEWEST
  local constraints="$1" newest="$2" wanted python
  wanted="$(cat "$constraints" pyproject.toml scripts/torchvision_shim.py | cksum) ${*:3} $PWD"
  if [ -f "$VENV/installed" ] && [ "$(cat "$VENV/installed")" = "$wanted" ]; then
    return
  fi
  if [ ! -x "$VENV/bin/python" ]; then
    python="$(find_python "$newest")" || return
    "$python" -m venv "$VENV" || return
  fi
  echo "Installing into $VENV ..."
  "${@:3}" && echo "$wanted" >"$VENV/installed"
}

install_package() { # EXTRAS
  # shellcheck disable=SC2046  # the flag and its value are two words
  pip_install $(torch_index) torch && pip_install --editable ".[$1]"
}

install_label() { # sam2 has no wheel: built in isolation it would fetch a torch for CUDA, gigabytes, for one build
  # shellcheck disable=SC2046  # the flag and its value are two words
  pip_install $(torch_index) torch torchvision setuptools &&
    SAM2_BUILD_CUDA=0 pip_install --no-build-isolation sam2 &&
    pip_install monailabel --editable . &&
    mend_torchvision
}

pip_install() { # what build_environment asks for, and so from its constraints
  "$VENV/bin/python" -m pip --disable-pip-version-check --quiet install --constraint "$constraints" "$@"
}

mend_torchvision() { # its build for CUDA, the only one on PyPI, does not import beside a torch for CPUs
  local site
  site="$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || return
  rm -f "$site"/torchvision_shim.{py,pth}
  "$VENV/bin/python" -c 'import torchvision' 2>/dev/null && return
  cp scripts/torchvision_shim.py "$site" && echo 'import torchvision_shim' >"$site/torchvision_shim.pth" &&
    "$VENV/bin/python" -c 'import torchvision'
}

find_python() { # NEWEST
  local newest="$1" name
  for name in python3 python3.13 python3.12 python3.11 python3.14; do
    if command -v "$name" >/dev/null &&
      "$name" -c "import sys, venv, ensurepip; sys.exit(not 11 <= sys.version_info.minor <= $newest)" 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "no Python 3.11 to 3.$newest with venv was found; install one (on Debian: python3 and python3-venv)." >&2
  return 1
}

torch_index() { # PyTorch's own index of CPU builds, if it answers and there is no NVIDIA GPU
  command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1 && return
  local url=https://download.pytorch.org/whl/cpu
  if "$VENV/bin/python" -c "import urllib.request; urllib.request.urlopen('$url/torch/', timeout=5)" 2>/dev/null; then
    echo "--extra-index-url $url"
  fi
}
