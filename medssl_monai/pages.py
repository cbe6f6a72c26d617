"""Parts of HTML pages that need no other file, no script and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from medssl_monai.png import save_png

SYNTHETIC = "SYNTHETIC DATA: these images are phantoms; the numbers say nothing about patients."
THUMBNAIL = 160
"""Longest side, in pixels."""
STYLE = """
:root { color-scheme: light dark; --text: #1b2026; --soft: #55606b; --page: #f5f6f8; --card: #fff; --line: #d5dae0;
  --accent: #0b6e99; --alert: #8a2b06; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8ebee; --soft: #a9b4bf; --page: #14181c; --card: #1e242a; --line: #3a434c; --accent: #6cc4e8;
    --alert: #ffb38f; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .8rem 0 .2rem; }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
p { margin: .3rem 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; margin: 1rem 0; }
.facts, .scores, caption { color: var(--soft); font-size: .9rem; }
.warning { color: var(--alert); font-weight: 600; }
.banner { background: #ffd34d; color: #1b1500; font-weight: 700; padding: .6rem 1rem; border-radius: .5rem; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; overflow-wrap: normal; }
caption { text-align: left; padding-bottom: .2rem; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 600; }
.figure { display: block; width: 100%; min-width: 34rem; height: auto;
  background: #fff; border-radius: .4rem; padding: .4rem; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
.gallery { list-style: none; margin: .5rem 0 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.gallery li { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem; font-size: .85rem;
  line-height: 1.35; }
.gallery img, .empty { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #000;
  border-radius: .25rem; }
.empty { display: grid; place-items: center; color: #d0d0d0; }
.id { font-weight: 600; }
.tag { color: var(--alert); }
pre { white-space: pre-wrap; margin: 0; font-size: .9rem; }
"""


def frame(title: str, facts: str, sections: Sequence[str], synthetic: bool, style: str = "") -> str:
    """Return a whole page; `title`, `facts` and `sections` are escaped already."""
    banner = f'<p class="banner" role="note">{escape(SYNTHETIC)}</p>' if synthetic else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{"SYNTHETIC DATA: " if synthetic else ""}{title}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<header>
{banner}
<h1>{title}</h1>
<p class="facts">{facts}</p>
<p class="warning">For research, not a medical device.</p>
</header>
<main>
{"".join(sections)}</main>
</body>
</html>
"""


def section(heading: str, body: str) -> str:
    """Return a section under a heading."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>\n"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column names the rows."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return scrollable(
        caption,
        f"<table><caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table>",
    )


def bullets(texts: Iterable[str]) -> str:
    """Return a list of texts; empty if there are none."""
    entries = "".join(f"<li>{escape(text)}</li>\n" for text in texts)
    return f"<ul>\n{entries}</ul>" if entries else ""


def scrollable(label: str, body: str) -> str:
    """Return a region that scrolls by itself where it is wider than a phone, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{body}</div>'


def thumbnail(image: np.ndarray) -> str:
    """Return a small copy of an image, uint8 ``(H, W)`` or ``(H, W, 3)``, as the address of a picture."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    save_png(buffer, np.asarray(picture), optimize=True)
    return data_uri("image/png", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Return the address that holds the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
