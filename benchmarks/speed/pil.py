"""The reference step against a pipeline in the peers' way, on the same device.

    python benchmarks/speed/pil.py [--workers N] [--device cuda] [--steps 50] [--results results_pil.json]

The peers' way, as in the public implementations of FixMatch: images in memory; worker processes make every view by
itself, with PIL (a mirrored and shifted weak view; three operations of RandAugment and a grey box for the strong one);
one pass with gradient of all views in one batch. Ours is
`medssl_monai.benchmark.speed.REFERENCE`: the same network and batch.
Both in float32 and with float16 autocast. Without CUDA it says so and ends, unless a device is named.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler

from medssl_monai.benchmark.run import environment
from medssl_monai.benchmark.speed import REFERENCE, step_of_bundle
from medssl_monai.files import write_json
from medssl_monai.networks import EMATeacher, resnet18

SIZE, LABELED, UNLABELED = 64, 16, 7 * 16
Picture = Image.Image


def _affine(image: Picture, *matrix: float) -> Picture:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _factor() -> float:
    return random.uniform(0.5, 1.5)


RAND_AUGMENT: list[Callable[[Picture], Picture]] = [
    lambda image: image.rotate(random.uniform(-20, 20), Image.Resampling.BILINEAR),
    lambda image: _affine(image, 1, random.uniform(-0.15, 0.15), 0, 0, 1, 0),
    lambda image: _affine(image, 1, 0, 0, random.uniform(-0.15, 0.15), 1, 0),
    lambda image: _affine(image, 1, 0, random.uniform(-6, 6), 0, 1, random.uniform(-6, 6)),
    lambda image: ImageEnhance.Brightness(image).enhance(_factor()),
    lambda image: ImageEnhance.Contrast(image).enhance(_factor()),
    lambda image: ImageEnhance.Sharpness(image).enhance(_factor()),
    lambda image: image.filter(ImageFilter.GaussianBlur(random.uniform(0, 1))),
    lambda image: ImageOps.posterize(image, random.randint(4, 8)),
    lambda image: ImageOps.solarize(image, random.randint(128, 255)),
    ImageOps.autocontrast,
    ImageOps.equalize,
]


def weak(image: Picture) -> Picture:
    """Mirrored or not, shifted by up to four pixels."""
    image = ImageOps.mirror(image) if random.random() < 0.5 else image
    left, top = random.randint(0, 8), random.randint(0, 8)
    return ImageOps.expand(image, 4).crop((left, top, left + SIZE, top + SIZE))


def strong(image: Picture) -> Picture:
    """Return a weak view, three operations of RandAugment, a grey box."""
    image = weak(image)
    for operation in random.sample(RAND_AUGMENT, 3):
        image = operation(image)
    side, x, y = random.randint(0, SIZE // 2), random.randrange(SIZE), random.randrange(SIZE)
    image.paste(127, (x - side // 2, y - side // 2, x + side // 2, y + side // 2))
    return image


def as_tensor(image: Picture) -> Tensor:
    """``(1, H, W)`` in [0, 1]."""
    return torch.from_numpy(np.array(image, np.float32)[None] / 255)


class Views(Dataset[tuple[Tensor, ...]]):
    """Views of one image at a time."""

    def __init__(self, images: np.ndarray[Any, Any], views: list[Callable[[Picture], Picture]]) -> None:
        self.images, self.views = images, views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        image = Image.fromarray(self.images[index])
        return (*(as_tensor(view(image)) for view in self.views), torch.tensor(index % 2))


def batches(images: np.ndarray[Any, Any], steps: int, workers: int, device: torch.device) -> Iterator[Any]:
    """Labeled and unlabeled batches, side by side."""
    loaders = []
    for size, views in ((LABELED, [weak]), (UNLABELED, [weak, strong])):
        dataset = Views(images, views)
        sampler = RandomSampler(dataset, replacement=True, num_samples=size * steps)
        pinned = device.type == "cuda"
        loaders.append(DataLoader(dataset, size, sampler=sampler, num_workers=workers, pin_memory=pinned))
    yield from zip(*loaders, strict=True)


def seconds_of_pil(device: torch.device, amp: bool, steps: int, workers: int, warm_up: int = 5) -> float:
    """Seconds per step of the peers' way, the workers running already."""
    images = np.random.default_rng(0).integers(0, 256, (1446, SIZE, SIZE), dtype=np.uint8)
    network: nn.Module = resnet18(2).to(device)
    teacher = EMATeacher(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=amp and device.type == "cuda")
    start = 0.0
    for step, ((labeled, label, *_), (view, stronger, _)) in enumerate(
        batches(images, steps + warm_up, workers, device)
    ):
        if step == warm_up:
            _synchronize(device)
            start = time.perf_counter()
        inputs = torch.cat([labeled, view, stronger]).to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.float16 if device.type == "cuda" else torch.bfloat16, enabled=amp):
            logits, logits_weak, logits_strong = network(inputs).split([LABELED, UNLABELED, UNLABELED])
            confidence, target = logits_weak.detach().softmax(dim=1).max(dim=1)
            unsupervised = F.cross_entropy(logits_strong, target, reduction="none") * (confidence >= 0.95)
            loss = F.cross_entropy(logits, label.to(device)) + unsupervised.mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        teacher.update(network, step)
    _synchronize(device)
    return (time.perf_counter() - start) / steps


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure both in turns, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="for each of two loaders")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="file to write")
    arguments = parser.parse_args()
    if not (arguments.device or torch.cuda.is_available()):
        print("skipped: there is no CUDA device")
        return
    device = torch.device(arguments.device or "cuda")
    table = []
    for amp in (False, True):
        theirs, ours = [], []
        for _ in range(arguments.rounds):
            theirs.append(seconds_of_pil(device, amp, arguments.steps, arguments.workers))
            overrides = {**REFERENCE, "device": str(device), "amp": amp}
            ours.append(step_of_bundle(None, overrides, 1, arguments.steps)["seconds_per_step"])
        row = {"amp": amp, "pil_seconds": statistics.median(theirs), "our_seconds": statistics.median(ours)}
        table.append({**row, "times_faster": statistics.median(a / b for a, b in zip(theirs, ours, strict=True))})
        print(table[-1])
    if arguments.results:
        where = {"workers": 2 * arguments.workers, "steps": arguments.steps, "rounds": arguments.rounds}
        content = {"command": shlex.join(["python", *sys.argv]), **where, "cases": table}
        write_json(arguments.results, {**content, "environment": environment(torch.get_num_threads())})


if __name__ == "__main__":
    main()
