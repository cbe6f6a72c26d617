#!/usr/bin/env bash
# Run tests against other versions than those of constraints.txt, in an environment of their own.
#   ./scripts/test_versions.sh oldest    the lower bounds of pyproject.toml, with tests that are not slow
#   ./scripts/test_versions.sh newest    the newest releases, with tests that are not slow
#   ./scripts/test_versions.sh monai     the newest releases and MONAI's main branch, with the facts that we rest on
# More arguments go to pytest. Needs PyPI; PyTorch's CPU builds, unless UV_TORCH_BACKEND says otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted="${1-}"
resolution=highest
packages=(--editable '.[test]')
tests=(-m "not slow")
case "$wanted" in
  oldest)
    resolution=lowest-direct
    packages+=('setuptools<81') # has pkg_resources, which the samples of pydicom 2.4 need
    tests+=(-W default)         # what old versions say of each other
    ;;
  newest) ;;
  monai)
    packages+=('monai @ git+https://github.com/Project-MONAI/MONAI')
    tests=(tests/test_monai_facts.py)
    ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

VENV="${VENV:-.venv-$wanted}"
export UV_TORCH_BACKEND="${UV_TORCH_BACKEND:-cpu}" OMP_NUM_THREADS=1
python3 -m venv "$VENV"
"$VENV/bin/python" -m pip --disable-pip-version-check --quiet install uv
"$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --resolution "$resolution" "${packages[@]}"
exec "$VENV/bin/python" -m pytest "${tests[@]}" "${@:2}"
