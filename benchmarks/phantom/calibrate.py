"""Supervised runs that fix the parameters of the embedded data: few labels against all of them.

    OMP_NUM_THREADS=1 python benchmarks/phantom/calibrate.py

Class-balanced draws of few labels (24 of two classes, 70 of seven, 140 of 14 findings) must reach a mean AUROC between
0.65 and that of all labels less 0.10, and all labels at least 0.90: then labels matter, and there is room for a method
to show its worth. Of findings all labels must reach 0.85, and few of them clearly less.
Nothing but supervised training happens here. Writes ``results.json`` beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.networks.nets import ResNet
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai import phantoms as phantom
from medssl_monai.data.datalist import Datalist, load_datalist
from medssl_monai.files import write_json
from medssl_monai.pool.pool import balanced_draw

FEW = {"spine2": 24, "chest": 24, "lesion7": 70, "chest14": 140}
SIZE = 64
STEPS = {2: 400, 6: 1200, 7: 400, 14: 1200}  # by number of classes; the same for few and for all labels
BATCH = 24
LEARNING_RATE = 1e-3


def read_images(data: Datalist) -> Tensor:
    """All images as ``(N, C, 64, 64)`` in [0, 1], dense or bright tissue bright, scaled by their own percentiles."""
    import nibabel
    import pydicom
    from PIL import Image

    images = []
    for item in data:
        path = Path(item["image"])
        if path.suffix == ".dcm":
            dataset = pydicom.dcmread(path)
            pixels = dataset.pixel_array.astype(np.float32)
            pixels = -pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels
        elif path.suffix in (".png", ".jpg"):
            pixels = np.asarray(Image.open(path), dtype=np.float32)
        else:
            pixels = np.asarray(nibabel.load(path).dataobj[:, :, item["slice"]], dtype=np.float32).T
        low, high = np.percentile(pixels, [1, 99])
        image = torch.from_numpy(((pixels - low) / (high - low)).clip(0, 1)).float()
        image = image.permute(2, 0, 1)[None] if image.ndim == 3 else image[None, None]
        images.append(F.interpolate(image, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)[0])
    return torch.stack(images)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every image left to right by chance and shift it by up to four pixels."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    shift = torch.randint(-4, 5, (len(images), 2), generator=generator).tolist()
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
    views = [image[:, 4 + r : 4 + r + SIZE, 4 + c : 4 + c + SIZE] for image, (r, c) in zip(padded, shift, strict=True)]
    return torch.stack(views)


def train(images: Tensor, labels: Tensor, num_classes: int, seed: int) -> nn.Module:
    """Return a small ResNet after `STEPS[num_classes]` batches, each class as likely (findings: each image)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[16, 32, 64, 128],
        spatial_dims=2,
        n_input_channels=images.shape[1],
        conv1_t_size=3,
        conv1_t_stride=2,
        no_max_pool=True,
        num_classes=num_classes,
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS[num_classes])
    findings = labels.ndim > 1
    chance = torch.ones(len(labels)) if findings else 1.0 / labels.bincount(minlength=num_classes)[labels]
    for _ in range(STEPS[num_classes]):
        index = torch.multinomial(chance, BATCH, replacement=True, generator=generator)
        logits = network(augment(images[index], generator))
        if findings:
            loss = F.binary_cross_entropy_with_logits(logits, labels[index].float())
        else:
            loss = F.cross_entropy(logits, labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def auroc(network: nn.Module, images: Tensor, labels: Tensor, num_classes: int) -> dict[str, Any]:
    """Area under the ROC curve: one value for two classes, mean and one per class against the rest, or finding."""
    with torch.no_grad():
        logits = torch.cat([network(batch) for batch in images.split(256)])
    findings = labels.ndim > 1
    scores = (logits if findings else logits.softmax(dim=1)).numpy()
    truth = labels == 1 if findings else labels[:, None] == torch.arange(num_classes)
    each = [float(roc_auc_score(truth[:, k], scores[:, k])) for k in range(num_classes)]
    return {"auroc": each[1]} if num_classes == 2 else {"auroc": float(np.mean(each)), "each": each}


def calibrate(kind: str, folder: Path, draws: int, seed: int) -> dict[str, Any]:
    """Generate a kind and measure both arms."""
    start = time.perf_counter()
    path = phantom.make_phantom(folder, kind, seed=seed)
    seconds = time.perf_counter() - start
    training, testing = load_datalist(path, "training"), load_datalist(path, "testing")
    num_classes = len(training.classes)
    images, unseen = read_images(training), read_images(testing)
    labels, truth = (torch.tensor([item["label"] for item in data]) for data in (training, testing))

    few, size = [], FEW.get(kind, 24)
    for draw in range(draws if kind in FEW else 0):
        if labels.ndim > 1:
            chosen = torch.tensor(balanced_draw(labels.tolist(), size, draw))
        else:
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))
            chosen = torch.cat([order[labels[order] == k][: size // num_classes] for k in range(num_classes)])
        few.append(auroc(train(images[chosen], labels[chosen], num_classes, draw), unseen, truth, num_classes))
        print(kind, f"{size} labels", draw, few[-1], flush=True)
    every = auroc(train(images, labels, num_classes, 0), unseen, truth, num_classes)
    shares = truth.float().mean(dim=0) if truth.ndim > 1 else truth.bincount(minlength=num_classes) / len(truth)
    print(kind, "all labels", every, f"generated in {seconds:.1f} s", flush=True)
    return {
        "kind": kind,
        "phantom_seed": seed,
        "datalist_sha256": {"training": training.sha256, "testing": testing.sha256},
        "seconds_to_generate": round(seconds, 1),
        "test_patients": len({item["group"] for item in testing}),
        "images": {"training": len(training), "testing": len(testing)},
        "test_shares": [round(share, 4) for share in shares.tolist()],
        f"labels_{size}": few,
        f"labels_{size}_mean": float(np.mean([run["auroc"] for run in few])) if few else None,
        "labels_all": {"labels": len(labels), **every},
    }


def main() -> None:
    """Measure every kind, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["spine2", "chest", "spine6", "lesion7", "chest14"])
    parser.add_argument("--draws", type=int, default=5, help="of few labels")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            results.append(calibrate(kind, Path(folder), arguments.draws, arguments.seed))
    sources = sorted(Path(phantom.__file__).parent.glob("*.py"))
    content = {
        "command": " ".join(["OMP_NUM_THREADS=1 python benchmarks/phantom/calibrate.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "numpy": np.__version__,
            "machine": f"{platform.machine()}, one CPU thread",
        },
        "phantom": {
            "version": phantom.VERSION,
            "sha256": hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest(),
        },
        "training": {
            "steps": {str(classes): steps for classes, steps in STEPS.items()},
            "batch": BATCH,
            "learning_rate": LEARNING_RATE,
            "size": SIZE,
        },
        "results": results,
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
