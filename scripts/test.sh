#!/usr/bin/env bash
# Install with the test extras, then ruff, mypy and pytest in two processes.
#
#   ./scripts/test.sh                  every guard once: at most 12 minutes on two idle cores
#   ./scripts/test.sh -m "not slow"    without tests that start processes or take more than five seconds: 3 minutes
#   ./scripts/test.sh --all            also the tests marked `every`, the same guards on all else they hold for: an hour
#
# Arguments go to pytest, and the last of two wins: `-n 8` for more processes, `-n 0` for a debugger.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
make_environment
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
export OMP_NUM_THREADS=1
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
