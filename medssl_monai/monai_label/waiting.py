"""Images of a datastore that wait for a label: what is kept of them, and who has them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from medssl_monai.monai_label.files import Form
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.monai_label.studies import KEY, TAGS, label_files

FORM_OF: dict[str | None, Form] = {"label": "class", "mask": "mask"}
"""The file that answers what a query asks for; one that does not say asks for classes, if there are any."""
RESET = 24 * 60 * 60
"""Seconds after which an image that was given out and not labeled is given out again like any other."""


def kept(store: Any, image_id: str) -> dict[str, Any]:
    """Return what this package keeps of an image."""
    return dict(store.get_image_info(image_id).get(KEY, {}))


def without_label(store: Any, served: Sequence[ServedBundle]) -> list[str]:
    """Return images that lack a label that one of the bundles learns, sorted."""
    wanted = {form for bundle in served for form in bundle.forms}
    return sorted(name for name in store.list_images() if not wanted <= label_files(store, name).keys())


def unanswered(store: Any, infos: Mapping[str, Mapping[str, Any]], served: ServedBundle) -> dict[str, dict[str, Any]]:
    """Return the queries of a bundle that no label answers, by image and strategy.

    Args:
        store: MONAI Label's datastore.
        infos: what is `kept` of images.
        served: the bundle.
    """
    usual: Form = "class" if served.classes else "mask"
    found = {}
    for name, info in infos.items():
        asked, there = info.get("queries", {}).get(served.name, {}), label_files(store, name)
        found[name] = {key: query for key, query in asked.items() if FORM_OF.get(query.get("ask"), usual) not in there}
    return found


def with_a_reader(store: Any, name: str) -> bool:
    """Say whether an image was given out lately and is not labeled since."""
    return time.time() - given_out(store, name, store.get_image_info(name)) <= RESET


def given_out(store: Any, name: str, info: Mapping[str, Any]) -> float:
    """Return when an image was last given out, by any strategy, and not labeled since; 0: never."""
    given = max((float(one["ts"]) for one in info.get("strategy", {}).values()), default=0.0)
    answered = max(float(store.get_label_info(name, tag).get("ts", 0)) for tag in TAGS)
    return given if given > answered else 0.0
