#!/usr/bin/env bash
# Build MONAI Label's environment, and drive its real server over synthetic studies, on loopback, with our app and the
# stock one: one line per step. Needs no CI; takes some minutes. Leaves what it made in a folder if a step fails.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
make_label_environment
PATH="$(cd "$VENV/bin" && pwd):$PATH"
export PATH GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-20000}"
exec python -W ignore scripts/drive_monailabel.py "$@"
