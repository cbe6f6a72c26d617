#!/usr/bin/env bash
# Install, then let BoostMIS learn from 24 labels, ask for more, get them and learn on, over some rounds.
#   ./scripts/quickstart.sh [--data DIR] [--rounds N] [--device cuda] [--resume]
# For research, not a medical device.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

usage() {
  sed -n '2,4s/^# \{0,1\}//p' scripts/quickstart.sh
  echo "  --data DIR    folder with datalist.json (medssl prepare makes one); default: synthetic spine images"
  echo "  --rounds N    train, ask, annotate: how often (default 4, at least 3 shows a curve)"
  echo "  --device D    cpu, cuda, cuda:1; default: cuda if there is one"
  echo "  --resume      continue a run that was broken off, instead of training anew"
}

overrides=()
resume=false
while [ $# -gt 0 ]; do
  case "$1" in
    --data | --rounds | --device)
      if [ $# -lt 2 ]; then echo "$1 needs a value" >&2; exit 2; fi
      ;;&
    --data)
      data="$(cd "$2" 2>/dev/null && pwd)" || { echo "there is no folder $2" >&2; exit 2; }
      if [ ! -f "$data/datalist.json" ]; then
        echo "$2 has no datalist.json; make one with: medssl prepare $2 $2 --table labels.csv" >&2
        exit 2
      fi
      overrides+=(--datalist "$data/datalist.json")
      shift 2
      ;;
    --rounds) overrides+=(--rounds "$2"); shift 2 ;;
    --device) overrides+=(--device "$2"); shift 2 ;;
    --resume) resume=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown argument $1" >&2; usage >&2; exit 2 ;;
  esac
done

make_environment
# Two threads that wait for each other in a spin slow a busy machine down tenfold; let them sleep soon instead.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-20000}"

SECONDS=0
run="$PWD/runs/quickstart"
if ! $resume; then rm -rf "$run"; fi
if [ ! -d "$run/boostmis" ]; then "$VENV/bin/medssl" bundle boostmis "$run/boostmis" >/dev/null; fi
case " ${overrides[*]-} " in
  *" --datalist "*) ;;
  *) overrides+=(--dataset_dir "$PWD/runs/phantoms") ;;
esac
"$VENV/bin/python" -W ignore::UserWarning:monai -m monai.bundle run \
  --config_file "$run/boostmis/configs/train.yaml" --bundle_root "$run/boostmis" --output_dir "$run/results" \
  "${overrides[@]}"
echo
echo "After installing, this took $SECONDS seconds."
echo "Learning curve and queried images: $run/results/report.html"
echo "Trained bundle:                    $run/boostmis"
echo "For research, not a medical device."
