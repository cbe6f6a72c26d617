"""How the grey values of the two NIH files differ, and what is left of it after each way to scale an image by itself.

    OMP_NUM_THREADS=1 python benchmarks/s2mts2/shift.py [--data ../shared/data]

Forty radiographs are in both files. That makes three questions: do brightness and contrast differ between the files
(`medssl_monai.audit.shift`); how much do the two copies of one radiograph differ; and can a classifier tell from the
histogram, or from a thumbnail, which file an image is from. Writes ``shift.json`` beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import HistogramNormalized, ScaleIntensityRanged, ScaleIntensityRangePercentilesd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from torch import Tensor
from torch.nn import functional as F

from medssl_monai.audit.shift import intensity_shift
from medssl_monai.data.copies import near_copies, picture
from medssl_monai.files import write_json
from medssl_monai.transforms import RobustIntensityd

Array = NDArray[Any]
LABELED, UNLABELED = "nih_cxr14_64_trainval.npz", "nih_cxr_64_unlabelled.npz"
SAMPLE = 819  # of the second file: as many as the first has


def scalings() -> dict[str, Callable[[dict[str, Tensor]], Any]]:
    """Return transforms of an ``image`` ``(1, x, y)``, to [0, 1]."""
    percentiles = ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True)
    equalized = HistogramNormalized("image", num_bins=256, min=0, max=1)
    return {
        "as stored": ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
        "percentiles 0.5 and 99.5": percentiles,
        "RobustIntensityd": RobustIntensityd("image"),
        "HistogramNormalized": equalized,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared/data")
    folder = parser.parse_args().data
    with np.load(folder / LABELED) as file:
        first, patients = file["images"], file["patients"]
    with np.load(folder / UNLABELED) as file:
        second, flagged = file["images"], file["matches_labelled_train"]
    thumbnails = [picture(image[None]).thumbnail for image in (*first, *second)]
    pairs = [(i, j - len(first)) for i, j, _ in near_copies(thumbnails, range(len(thumbnails))) if i < len(first) <= j]
    again = sum(bool(flagged[j]) for _, j in pairs)
    print(f"{len(pairs)} radiographs in both files, {again} of the {flagged.sum()} that the packager found")
    rng = np.random.default_rng(0)
    some = rng.choice(np.flatnonzero(~flagged), SAMPLE, replace=False)
    results = []
    for name, scale in scalings().items():
        a, b = _scaled(first, scale), _scaled(second[some], scale)
        moved = intensity_shift({"labeled": _rows(a, patients), "unlabeled": _rows(b, some)})
        one, other = a[[i for i, _ in pairs]], _scaled(second[[j for _, j in pairs]], scale)
        results.append(
            {
                "scaling": name,
                "averages": moved["sections"],
                **{f"shift_of_{c['of']}": c["standardised_difference"] for c in moved["comparisons"]},
                "difference_within_pairs": round(float(np.abs(one - other).mean()), 4),
                "difference_between_images": round(float(np.abs(one - np.roll(other, 1, axis=0)).mean()), 4),
                "auroc_of_the_file_from_the_histogram": _domain(_histograms(a), _histograms(b), patients),
                "auroc_of_the_file_from_a_thumbnail": _domain(_small(a), _small(b), patients),
            }
        )
        print(results[-1], flush=True)
    content = {"pairs": len(pairs), "flagged_again": again, "results": results}
    write_json(Path(__file__).with_name("shift.json"), content)


def _scaled(images: Array, scale: Callable[[dict[str, Tensor]], Any]) -> Array:
    values = [scale({"image": torch.from_numpy(image[None].astype(np.float32))})["image"] for image in images]
    return np.concatenate([np.asarray(value, dtype=np.float32) for value in values])


def _rows(images: Array, groups: Any) -> dict[str, list[tuple[float, ...]]]:
    rows: dict[str, list[tuple[float, ...]]] = {}
    for image, group in zip(images, groups, strict=True):
        values = (float(image.mean()), float(image.std()), *np.percentile(image, [1, 99]).tolist())
        rows.setdefault(str(group), []).append(values)
    return rows


def _histograms(images: Array) -> Array:
    return np.stack([np.histogram(image, 32, (0, 1))[0] for image in images])


def _small(images: Array) -> Array:
    return F.adaptive_avg_pool2d(torch.from_numpy(images)[:, None], 12).flatten(1).numpy()


def _domain(a: Array, b: Array, patients: Array) -> float:
    """AUROC of a forest that is to tell the files apart, by five-fold cross-validation over patients."""
    forest = RandomForestClassifier(50, random_state=0)
    target = np.repeat([0, 1], [len(a), len(b)])
    groups = np.concatenate([patients, [f"unlabeled {position}" for position in range(len(b))]])
    rows, folds = np.concatenate([a, b]), GroupKFold(5)
    scores = cross_val_predict(forest, rows, target, groups=groups, cv=folds, method="predict_proba")[:, 1]
    return round(float(roc_auc_score(target, scores)), 4)


if __name__ == "__main__":
    main()
