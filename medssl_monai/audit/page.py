"""The page of an audit: what was found, and the copies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai import pages
from medssl_monai.files import write_text

SHOWN = 40
"""Sets of copies, and pairs of near copies, that the page shows."""
SHOWN_OF_SET = 6
LISTED = 50  # rows of a table

Result = Mapping[str, Any]


def write_audit_page(path: str | Path, result: Result, images: Mapping[str, np.ndarray]) -> Path:
    """Write an audit as one HTML file: no script, no network, all images inside.

    The page names ids and groups and shows images: it is as confidential as they are.

    Args:
        path: file to write.
        result: what `medssl_monai.audit.audit.audit` returns.
        images: by id, uint8 ``(H, W)`` or ``(H, W, 3)``; others are shown without a picture.

    Returns:
        The path.
    """
    path = Path(path)
    data = result["datalist"]
    title = escape(f"Audit of {data['name']}")
    facts = escape(f"created {result['created']} · took {result['seconds']:.0f} s · {result['package']}")
    sections = [
        pages.section("Verdict", _verdicts(result)),
        pages.section("Sections", _sections(result)),
        pages.section("Groups in several sections", _owners(result)),
        pages.section("Images that recur in another section", _recurring(result)),
        pages.section("Exact copies", _exact(result["exact_copies"], images)),
        pages.section("Near copies", _near(result["near_copies"], images)),
        pages.section("Labels by section", _labels(result["label_shift"])),
        pages.section("Grey values by section", _intensities(result["intensity_shift"])),
        pages.section("Files that cannot be read", _unreadable(result["unreadable"])) if result["unreadable"] else "",
        pages.section("Images of a single grey value", _ids(result["blank"])) if result["blank"] else "",
    ]
    write_text(path, pages.frame(title, facts, sections, data["synthetic"], PAIRS))
    return path


def _verdict(result: Result) -> str:
    if result["leaks"]:
        return "Figures from this split are too good: a training stops unless leaks are allowed."
    if result["errors"]:
        return "The sections share nothing, but labels contradict each other."
    return "The sections share no group and no exact copy." + (" See the warnings." if result["warnings"] else "")


def _verdicts(result: Result) -> str:
    parts = [f"<p><strong>{escape(_verdict(result))}</strong></p>"]
    for kind, heading in (("leaks", "Leaks"), ("errors", "Errors"), ("warnings", "Warnings")):
        if result[kind]:
            mark = "" if kind == "warnings" else ' class="tag"'
            parts.append(f"<h3{mark}>{heading}</h3>\n{pages.bullets(result[kind])}")
    return "\n".join(parts)


def _sections(result: Result) -> str:
    names = list(dict.fromkeys(name for section in result["sections"].values() for name in section["labels"]))
    counts = ["items", "groups", "labeled"]
    counts += ["masked"] * any("masked" in section for section in result["sections"].values())
    head = ["section", "images", *counts[1:], *names[:LISTED]]
    rows = [
        [
            section,
            *(str(content[key]) for key in counts),
            *(str(content["labels"].get(name, 0)) for name in names[:LISTED]),
        ]
        for section, content in result["sections"].items()
    ]
    return pages.table("Images by section and label", head, rows)


def _owners(result: Result) -> str:
    groups, volumes = result["shared_groups"], result["shared_volumes"]
    if not groups["count"] and not volumes["count"]:
        return "<p>None.</p>"
    pairs = [
        [" and ".join(pair["sections"]), what, str(pair["count"]), *(str(n) for n in pair["items"].values())]
        for what, shared in (("groups", groups), ("volumes", volumes))
        for pair in shared["pairs"]
    ]
    parts = [
        pages.table(
            "Shared by two sections", ["sections", "what", "shared", "images in the first", "in the second"], pairs
        )
    ]
    sections = list(result["sections"])
    rows = [
        [entry["name"], *(str(entry["items"].get(section, 0)) for section in sections)]
        for entry in groups["list"][:LISTED]
    ]
    if rows:
        table = pages.table("Images of each shared group", ["group", *sections], rows)
        parts.append(f"<details><summary>The groups</summary>\n{table}{_more(groups['list'], LISTED)}</details>")
    return "\n".join(parts)


def _recurring(result: Result) -> str:
    rows = [
        [pair["in"], pair["from"], *(str(pair[kind][of]) for kind in ("exact", "near") for of in ("images", "copies"))]
        for pair in result["recurring"]
    ]
    if not rows:
        return "<p>There is one section only.</p>"
    head = ["images of", "recur in", "exactly", "copies there", "nearly", "near copies there"]
    return pages.table("Distinct images with copies in another section, and how many copies those are", head, rows)


def _exact(copies: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> str:
    if not copies["count"]:
        return "<p>None.</p>"
    text = (
        f"{copies['count']} sets of equal decoded pixels with {copies['images']} images; {copies['crossing']} sets "
        f"cross sections, and {copies['conflict']} have labels that contradict each other."
    )
    return f"<p>{text}</p>\n{_gallery(copies['list'], images)}"


def _near(copies: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> str:
    if not copies["count"]:
        return "<p>None.</p>"
    text = (
        f"{copies['count']} pairs that look like one picture resized, encoded anew or changed in brightness; "
        f"{copies['crossing']} cross sections, and {copies['conflict']} have labels that contradict each other. Look "
        "before you act: two very similar pictures of one patient may be among them. The similarity is the correlation "
        "of the details."
    )
    return f"<p>{text}</p>\n{_gallery(copies['list'], images)}"


def _gallery(entries: Sequence[Mapping[str, Any]], images: Mapping[str, np.ndarray]) -> str:
    cards = "\n".join(_card(entry, images) for entry in entries[:SHOWN])
    return f'<ul class="pairs">\n{cards}\n</ul>\n{_more(entries, SHOWN)}'


def _card(entry: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> str:
    marks = [text for key, text in (("crossing", "across sections"), ("conflict", "labels contradict")) if entry[key]]
    notes = [f"similarity {entry['score']:.3f}"] if "score" in entry else []
    notes += ["of one group"] if entry.get("same_group") else []
    figures = "".join(_figure(item, images.get(item["id"])) for item in entry["items"][:SHOWN_OF_SET])
    left = len(entry["items"]) - SHOWN_OF_SET
    notes += [f"and {left} more"] if left > 0 else []
    texts = [*(f'<strong class="tag">{mark}</strong>' for mark in marks), *notes]
    return f'<li><div class="side">{figures}</div><p>{" · ".join(texts)}</p></li>'


def _figure(item: Mapping[str, Any], image: np.ndarray | None) -> str:
    name = escape(str(item["id"]))
    picture = '<span class="empty">no preview</span>'
    if image is not None:
        picture = f'<img src="{pages.thumbnail(image)}" alt="Image {name}">'
    label = "no label" if item["label"] is None else str(item["label"])
    return (
        f'<figure>{picture}<figcaption><span class="id">{name}</span><br>{escape(item["section"])}<br>'
        f"group {escape(str(item['group']))}<br>{escape(label)}</figcaption></figure>"
    )


def _more(entries: Sequence[Any], shown: int) -> str:
    left = len(entries) - shown
    return f"<p>{left} more are listed in audit.json.</p>" if left > 0 else ""


def _labels(shifts: Sequence[Mapping[str, Any]]) -> str:
    if not shifts:
        return "<p>Not compared: fewer than two sections have labels of two kinds, or labels are masks.</p>"
    rows = [
        [shift["question"], "yes" if shift["shifted"] else "no", f"{shift['p']:.3f}", f"{shift['cramers_v']:.2f}"]
        for shift in shifts
    ]
    table = pages.table("Shares of labels", ["label", "shift", "p", "Cramer's V"], rows)
    return table + pages.bullets(shift["statement"] for shift in shifts)


def _intensities(shift: Mapping[str, Any]) -> str:
    rows = [[section, *(f"{value:g}" for value in values.values())] for section, values in shift["sections"].items()]
    head = ["section", "mean", "standard deviation", "1st percentile", "99th percentile"]
    return pages.table("Averages over groups of the pixel values as stored", head, rows) + pages.bullets(
        comparison["statement"] for comparison in shift["comparisons"]
    )


def _unreadable(bad: Sequence[Mapping[str, Any]]) -> str:
    lines = (f"{file['id']} ({file['section']}) {file['reason']}" for file in bad[:LISTED])
    return f"<p>They are left out of all comparisons.</p>\n{pages.bullets(lines)}{_more(bad, LISTED)}"


def _ids(names: Sequence[str]) -> str:
    return f"<p>{escape(', '.join(names[:LISTED]))}</p>{_more(names, LISTED)}"


PAIRS = """
h3 { font-size: 1rem; margin: .8rem 0 .2rem; }
.pairs { list-style: none; margin: .5rem 0 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); }
.pairs li { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem; font-size: .85rem; line-height: 1.35; }
.side { display: flex; flex-wrap: wrap; gap: .5rem; }
figure { margin: 0; flex: 1 1 7.5rem; max-width: 11rem; }
.pairs img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #000; border-radius: .25rem;
  image-rendering: pixelated; }
"""
