"""The labels of a training section that count as known."""

from __future__ import annotations

from medssl_monai.data.datalist import FLAGS, Item, Key
from medssl_monai.options import LabelsBy
from medssl_monai.pool.draws import balanced_draw
from medssl_monai.prepare.labels import strata
from medssl_monai.prepare.stratify import spread
from medssl_monai.seeds import seed_of_part


def hide_labels(items: list[Item], labels: int | float, by: LabelsBy, seed: int, key: Key = "label") -> None:
    """Let as many `labels` count as known, in place; the other items get ``"labeled": false``.

    Args:
        items: of the training section.
        labels: how many images or groups, or which fraction of them.
        by: what is counted and drawn.
        seed: decides the draw.
        key: ``mask``: of the masks beside labels; the others get ``"masked": false``.

    Raises:
        ValueError: if there are fewer, or a fraction is not in (0, 1].
    """
    name = "labels" if key == "label" else "mask_labels"
    known = [item for item in items if item.get(key) is not None]
    units = list(dict.fromkeys(item["group"] if by == "group" else item["id"] for item in known))
    if isinstance(labels, float) and not (0 < labels <= 1):
        raise ValueError(f"`{name}` must be a whole number of items or a fraction up to 1.0, got {labels}.")
    count = round(labels * len(units)) if isinstance(labels, float) else labels
    if not 0 <= count <= len(units):
        what = "groups" if by == "group" else "items"
        raise ValueError(f"`{name}` asks for {count} {what}; the training section has {len(units)} with a {key}.")
    seed = seed_of_part(seed, list(FLAGS).index(key))
    if by == "group":
        chosen = set(spread(known, seed)[:count])
    else:
        drawn_by = [tuple(k for k in strata(item) if k != -2) if key == "label" else (0,) for item in known]
        chosen = {units[position] for position in balanced_draw(drawn_by, count, seed)}
    for item in known:
        if item["group" if by == "group" else "id"] not in chosen:
            item[FLAGS[key]] = False
