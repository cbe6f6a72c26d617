# Sourced by quickstart.sh and test.sh: make_environment EXTRAS builds or reuses the virtual environment $VENV.
# It installs the versions in constraints.txt, torch first, and installs nothing if they have not changed.

VENV="${VENV:-.venv}"

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11 python3.14; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "no Python 3.11 or newer with venv was found; install one (on Debian: python3 and python3-venv)." >&2
  return 1
}

torch_index() { # PyTorch's own index of CPU builds, if it answers and there is no NVIDIA GPU
  command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1 && return
  local url=https://download.pytorch.org/whl/cpu
  if "$VENV/bin/python" -c "import urllib.request; urllib.request.urlopen('$url/torch/', timeout=5)" 2>/dev/null; then
    echo "--extra-index-url $url"
  fi
}

make_environment() {
  local extras="$1" wanted python
  wanted="$(cat constraints.txt pyproject.toml | cksum) $extras $PWD"
  if [ -f "$VENV/installed" ] && [ "$(cat "$VENV/installed")" = "$wanted" ]; then
    return
  fi
  if [ ! -x "$VENV/bin/python" ]; then
    python="$(find_python)"
    "$python" -m venv "$VENV"
  fi
  echo "Installing into $VENV ..."
  local pip=("$VENV/bin/python" -m pip --disable-pip-version-check --quiet)
  # shellcheck disable=SC2046  # the flag and its value are two words
  "${pip[@]}" install --constraint constraints.txt $(torch_index) torch==2.13.0
  "${pip[@]}" install --constraint constraints.txt --editable ".[$extras]"
  echo "$wanted" >"$VENV/installed"
}
