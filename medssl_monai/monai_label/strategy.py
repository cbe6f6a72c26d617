"""The next image to label, by the scores that are kept."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.monai_label.studies import KEY
from medssl_monai.monai_label.waiting import RESET, given_out, unanswered, without_label

VALIDATION = "validation: drawn at random, so that figures do not depend on what the strategy likes"


class NextImage(Strategy):  # type: ignore[misc]  # MONAI Label is untyped
    """The next image to label by the kept scores of one strategy: the best that was not given out yet.

    Of the images that are given out, the share `share` is drawn at random among those that are held out for validation.
    Without a score (nothing was trained or scored yet, or the batch is used up) an image is drawn at random; the
    answer's ``reason`` says so.

    Args:
        served: bundles whose labels count; the strategy is of the first.
        name: of the strategy in the bundle; ``random``: none.
        share: see `read_studies`.
    """

    def __init__(self, served: Sequence[ServedBundle], name: str, share: float) -> None:
        of = "" if name == "random" else f" by {served[0].name}"
        super().__init__(f"{name}{of}; each answer has a reason")
        self.served, self.name, self.share = served, name, share
        self.choices: list[str] = []

    def info(self) -> dict[str, Any]:
        return {**super().info(), **({"config": {"strategy": self.choices}} if self.choices else {})}

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
        """Return the ``id`` of an image, with ``reason``, ``rank`` and what else is kept; None if all are labeled."""
        infos = {name: datastore.get_image_info(name) for name in datastore.list_images()}
        since = {name: time.time() - given_out(datastore, name, info) for name, info in infos.items()}
        waiting = without_label(datastore, self.served)
        fresh = [name for name in waiting if since[name] > RESET]
        if waiting and not fresh:  # all were given out today, perhaps to someone who left
            name = max(waiting, key=lambda name: since[name])
            return {"id": name, "reason": "given out before, and not labeled since"}
        known = {name: info.get(KEY, {}) for name, info in infos.items()}
        held_out = {name for name, info in known.items() if info.get("validation")}
        done = infos.keys() - set(fresh)
        due = math.floor(self.share * (len(done) + 1)) > len(done & held_out)
        to_learn, to_measure = ([name for name in fresh if (name in held_out) == side] for side in (False, True))
        if to_measure and (due or not to_learn):
            return {"id": min(to_measure, key=_chance), "reason": VALIDATION}
        queries = unanswered(datastore, {name: known[name] for name in waiting}, self.served[0])
        asked = {name: asked_of[self.name] for name, asked_of in queries.items() if self.name in asked_of}
        if ranked := asked.keys() & set(to_learn):
            best = min(ranked, key=lambda name: int(asked[name]["rank"]))
            return {"id": best, **asked[best]}
        return {"id": min(to_learn, key=_chance), "reason": self._why_random(bool(asked))} if to_learn else None

    def _why_random(self, asked: bool) -> str:
        if self.name == "random":
            return "random"
        untrained = not self.served[0].weights.exists()
        scoring = "it is not trained yet" if untrained else "scoring has not ended, or failed"
        why = "its choice is given out" if asked else scoring
        return f"random: {self.name} of {self.served[0].name} has no score for what is left ({why})"


def _chance(name: str) -> str:
    """Return a fixed random order of names."""
    return hashlib.sha256(f"order {name}".encode()).hexdigest()
