"""A datalist with known faults."""

import pytest
from PIL import Image
from support_audit import pixels

from medssl_monai.data import write_datalist


@pytest.fixture
def folder(tmp_path):
    """Writes a datalist of PNG files: per section, a list of items with ``seed`` in place of ``image``."""

    def _write(allow_leaks=True, classes=("benign", "malignant"), mask_classes=(), **sections):
        written = {}
        for section, items in sections.items():
            written[section] = []
            for position, item in enumerate(items):
                item = {"id": f"{section}-{position}", "label": 0, **item}
                if "seed" in item:
                    item["image"] = f"{item['id']}.png"
                    Image.fromarray(pixels(item.pop("seed"))).save(tmp_path / item["image"])
                written[section].append({"group": item["id"], **item})
        path = tmp_path / "datalist.json"
        write_datalist(path, written, classes=classes, name="made", allow_leaks=allow_leaks, mask_classes=mask_classes)
        return path

    return _write
