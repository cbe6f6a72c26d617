"""What the clusters of stage 1 know of a lesion, and what of the photograph: why they choose no better than chance.

    OMP_NUM_THREADS=1 python benchmarks/ssal/clusters.py OUT      # the folder of a finished grid.yaml

For the encoder of each pre-training, and for the same network untrained: the share of the variance between training
images of the lesion's size (from the masks, which no query reads), of the mean grey value and of the contrast that is
between the ten clusters (eta squared; the clusters of a random draw have 9 / 1999, 0.005), and the adjusted mutual
information of cluster and diagnosis (0: none). Writes ``clusters.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_mutual_info_score

from medssl_monai.bundle.run import workflow
from medssl_monai.bundle.shipped import copy_bundle
from medssl_monai.clustering import nearest_center
from medssl_monai.files import write_json
from medssl_monai.query import PoolOutputs
from medssl_monai.query.clusters import fit_centers
from medssl_monai.transforms.augment import to_unit

CLUSTERS = 10


def share_between(values: np.ndarray[Any, Any], cluster: np.ndarray[Any, Any]) -> float:
    """Eta squared: variance of the means of the clusters, over all variance."""
    means = np.array([values[cluster == k].mean() for k in cluster])
    return float(means.var() / values.var())


def measure(datalist: Path, pretrained: Path | None, seed: int) -> dict[str, float]:
    """Of one encoder."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = copy_bundle("ssal", Path(folder) / "bundle")
        given = {"datalist": str(datalist), "pretrained": pretrained and str(pretrained), "seed": seed, "device": "cpu"}
        run = workflow([bundle / "configs" / "train.yaml"], logging_file=False, bundle_root=str(bundle), **given)
        run.initialize()
        dataset, encoder = (run.parser.get_parsed_content(name) for name in ("train::dataset", "encoder"))
        rows = torch.arange(len(dataset))
        images = to_unit(dataset.images[rows])
        outputs = PoolOutputs(rows, torch.zeros(len(rows), dtype=torch.bool), torch.zeros(len(rows), 2),
                              images=lambda index: images[index])  # fmt: skip
        features = outputs.features(encoder)
    centers, _ = fit_centers(features, CLUSTERS, seed)
    cluster = nearest_center(features, centers)[1].numpy()
    known = [item["meta"] for item in dataset.data]
    grey = images.flatten(1)
    return {
        "lesion size": share_between(np.array([float(meta["mask_fraction"]) for meta in known]), cluster),
        "mean grey value": share_between(grey.mean(dim=1).numpy(), cluster),
        "contrast": share_between(grey.std(dim=1).numpy(), cluster),
        "diagnosis": float(adjusted_mutual_info_score([meta["label_name"] for meta in known], cluster)),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (datalist,) = folder.glob("data/*/datalist.json")
    found: dict[str, list[dict[str, float]]] = {"pre-trained": [], "untrained": []}
    for cell in sorted(folder.glob("pretrained/*/cell.json")):
        seed = int(json.loads(cell.read_text(encoding="utf-8"))["name"].rpartition(" ")[2])
        weights = cell.parent / "bundle" / "models" / "pretrained.pt"
        found["pre-trained"].append({"seed": seed, **measure(datalist, weights, seed)})
        found["untrained"].append({"seed": seed, **measure(datalist, None, seed)})
    for name, rows in found.items():
        means = {key: statistics.fmean(row[key] for row in rows) for key in rows[0] if key != "seed"}
        print(name, {key: round(value, 3) for key, value in means.items()})
    write_json(Path(__file__).parent / "clusters.json", found)


if __name__ == "__main__":
    main()
