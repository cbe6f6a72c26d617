#!/usr/bin/env bash
# Install with the test extras, then ruff, mypy and pytest in two processes.
#
#   ./scripts/test.sh                  every guard once: at most 12 minutes on two idle cores
#   ./scripts/test.sh -m "not slow"    without processes, whole runs and what takes more than five seconds: 3 minutes
#   ./scripts/test.sh --all            also the tests marked `every`, a guard on all else that it is for: up to an hour
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
