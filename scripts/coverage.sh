#!/usr/bin/env bash
# Say which lines of the package no test runs, and fail below the floor of pyproject.toml. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
make_environment
export OMP_NUM_THREADS=1
coverage="$VENV/bin/coverage"
"$coverage" erase
"$coverage" run -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
"$coverage" combine --quiet
"$coverage" report --skip-covered --show-missing
