"""What the findings of an audit mean, in words: leaks, errors and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl_monai.audit.copies import copies_text
from medssl_monai.audit.items import Sections
from medssl_monai.audit.owners import owner_leaks


def judge(result: Mapping[str, Any], sections: Sections) -> dict[str, list[str]]:
    """Return ``leaks``, ``errors`` and ``warnings``, in words."""
    leaks = list(owner_leaks(result, sections))
    errors: list[str] = []
    warnings: list[str] = []
    for pair in result["recurring"]:
        for kind, texts in (("exact", leaks), ("near", warnings)):
            images, copies = pair[kind]["images"], pair[kind]["copies"]
            if images:
                texts.append(copies_text(kind, pair["from"], pair["in"], images, len(sections[pair["in"]]), copies))
    exact, near = result["exact_copies"], result["near_copies"]
    if exact["conflict"]:
        errors.append(f"sets of exact copies with labels that contradict each other: {exact['conflict']}.")
    within = [pair for pair in near["list"] if not pair["crossing"]]
    of_one = sum(pair["same_group"] for pair in within)
    counts = {
        "pairs of near copies with labels that contradict each other": near["conflict"],
        **{f"{section} images that repeat another one exactly": count for section, count in exact["repeats"].items()},
        f"pairs of near copies within a section ({of_one} of one group)": len(within),
        "groups that are spelled in several ways, and count as one": len(result["merged_groups"]),
        "images that cannot be read": len(result["unreadable"]),
        "images of a single grey value": len(result["blank"]),
    }
    warnings += [f"{what}: {count}." for what, count in counts.items() if count]
    shifts = [*result["label_shift"], *result["intensity_shift"]["comparisons"]]
    warnings += [shift["statement"] for shift in shifts if shift["shifted"]]
    return {"leaks": leaks, "errors": errors, "warnings": warnings}
