"""What came of it: a table by kind and fault, and the faults by where they come from."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

FAULTS = ["traceback", "no file name", "hang", "crash", "executed", "written outside", "memory", "differs", "harness"]


def write(out: Path) -> int:
    """Sum up ``blocks.jsonl`` in ``results.json`` and ``results.md``; returns the number of inputs with a fault."""
    lines = [json.loads(line) for line in (out / "blocks.jsonl").read_text(encoding="utf-8").splitlines()]
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    roots: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        own = kinds[line["kind"]]
        own.update({"inputs": line["inputs"], **{f"doors {name}": count for name, count in line["answers"].items()}})
        own["seconds"] += line["seconds"]
        own["with a fault"] += len({fault["number"] for fault in line["faults"]})
        own.update(fault["fault"] for fault in line["faults"])
        for fault in line["faults"]:
            roots[fault["fault"], fault["root"]].append({"kind": line["kind"], **fault})
    total = sum(kinds.values(), Counter())
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    content = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "git_commit": git.stdout.strip(),
        "environment": {"python": platform.python_version(), "machine": platform.machine()},
        "seeds": sorted({line["seed"] for line in lines}),
        "total": _plain(total),
        "kinds": {name: _plain(counts) for name, counts in kinds.items()},
        "roots": [
            {
                "fault": fault,
                "root": root,
                "kinds": Counter(f["kind"] for f in found),
                "examples": _two_of_each_kind(found),
            }
            for (fault, root), found in sorted(roots.items(), key=lambda pair: -len(pair[1]))
        ],
    }
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(_table(kinds, total), encoding="utf-8")
    return total["with a fault"]


def _two_of_each_kind(faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    of_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for fault in faults:
        of_kind[fault["kind"]].append({**fault, "text": fault["text"][:400]})
    return [fault for own in of_kind.values() for fault in own[:2]]


def _plain(counts: Counter[str]) -> dict[str, Any]:
    return {name: round(count, 1) for name, count in sorted(counts.items())}


def _table(kinds: dict[str, Counter[str]], total: Counter[str]) -> str:
    faults = [fault for fault in FAULTS if fault != "harness" or total[fault]]
    rows = [["kind", "inputs", "accepted", "refused", *faults], ["---", *["---:"] * (3 + len(faults))]]
    for name, counts in [*kinds.items(), ("**all**", total)]:
        numbers = [counts["inputs"], counts["doors accepted"], counts["doors refused"], *(counts[f] for f in faults)]
        rows.append([name, *(f"{number:,}" for number in numbers)])
    note = "\n*Accepted* and *refused* count answers, of which an input has one at every door that it is tried at.\n"
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n" + note
