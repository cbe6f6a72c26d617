# shellcheck shell=bash
# Sourced by scripts that need a virtual environment; each function builds or reuses the one in $VENV:
#   make_environment         this package and what its tests need, in .venv unless VENV says otherwise
#   make_label_environment   MONAI Label and this package, in .venv-label unless VENV says otherwise
# They install the versions of a list, each file checked against its hashes, and nothing if that has not changed. Taken
# on trust: Python, and the pip that comes with it.

make_environment() {
  VENV="${VENV:-.venv}"
  build_environment constraints.txt 14 install_package
}

make_label_environment() { # a folder of its own, as MONAI Label needs numpy<2, which has no wheels for Python 3.13
  VENV="${VENV:-.venv-label}"
  build_environment constraints-label.txt 12 install_label
}

build_environment() { # LIST NEWEST INSTALL, with Python 3.11 to 3.NEWEST
  local list="$1" newest="$2" wanted python
  wanted="$(cat "$list" constraints-c*.txt pyproject.toml scripts/torchvision_shim.py | cksum) $3 $PWD"
  if [ -f "$VENV/installed" ] && [ "$(cat "$VENV/installed")" = "$wanted" ]; then
    return
  fi
  if [ ! -x "$VENV/bin/python" ]; then
    python="$(find_python "$newest")" || return
    "$python" -m venv "$VENV" || return
  fi
  echo "Installing into $VENV ..."
  "$3" && echo "$wanted" >"$VENV/installed"
}

install_package() {
  install_torch torch && install_wheels --requirement "$list" && install_project
}

install_label() {
  local sources='antlr4-python3-runtime|iopath|numpymaxflow|sam2|timeloop' # no wheel, or not for every machine
  install_torch torch torchvision && install_wheels --requirement <(entries "$list" "$sources" !) &&
    SAM2_BUILD_CUDA=0 install_pinned --no-build-isolation --requirement <(entries "$list" "$sources") &&
    install_project && mend_torchvision
}

install_torch() { # NAMES: before the rest, each from one index: its CPU build without an NVIDIA GPU, else PyPI's build
  local name index
  index="$(torch_index)"
  for name in "$@"; do
    # shellcheck disable=SC2086  # the flag and its value are two words
    nvidia || install_wheels $index --requirement <(entries constraints-cpu.txt "$name") 2>/dev/null ||
      echo "$name: PyPI's build, as no CPU build of a known hash is within reach"
    install_wheels --requirement <(entries "$list" "$name") || return
  done
  if "$VENV/bin/python" -c 'import importlib.metadata as m, sys; sys.exit("+cpu" in m.version("torch"))'; then
    install_wheels --requirement constraints-cuda.txt
  fi
}

install_project() { # with the setuptools of the list
  pip_install --no-build-isolation --editable .
}

install_wheels() { # so that nothing of a package runs while it is installed
  install_pinned --only-binary :all: "$@"
}

install_pinned() {
  pip_install --require-hashes "$@"
}

pip_install() {
  "$VENV/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps "$@"
}

entries() { # LIST NAMES, separated by |: its lines for those, with their hashes, or with ! for all others
  sed -En "/^($2)==/,/[^\\\\]\$/${3-}p" "$1"
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

nvidia() {
  command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1
}

torch_index() { # PyTorch's own index of CPU builds, in place of PyPI, if it answers
  local url=https://download.pytorch.org/whl/cpu
  if "$VENV/bin/python" -c "import urllib.request; urllib.request.urlopen('$url/torch/', timeout=5)" 2>/dev/null; then
    echo "--index-url $url"
  fi
}
