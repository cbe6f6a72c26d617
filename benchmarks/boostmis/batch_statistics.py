"""Which BatchNorm statistics belong to averaged weights: one run, measured four ways after every second epoch.

    python benchmarks/boostmis/batch_statistics.py DATALIST [--method supervised] [--seed 0]

``copied``: averaged weights with the student's running statistics (released code of FixMatch and BoostMIS);
``averaged``: statistics averaged like the weights (`medssl_monai.networks.EMATeacher`'s default); ``recomputed``: over
1,024 images of the pool with the averaged weights; ``student``: no averaging at all. DATALIST is the one that the grid
prepared, ``OUT/data/pneumonia-*/datalist.json``. Settings are those of ``grid.yaml``, 20 to 60 labels, random queries.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from medssl_monai.benchmark.run import environment
from medssl_monai.bundle.run import workflow
from medssl_monai.bundle.shipped import copy_bundle
from medssl_monai.engines.evaluate import evaluate
from medssl_monai.files import write_json

METRICS = ("accuracy", "balanced_accuracy", "auroc", "ece")


def with_statistics_of(network: nn.Module, student: nn.Module) -> nn.Module:
    """Return a copy of `network` with the running statistics of `student`."""
    network = copy.deepcopy(network)
    for mine, other in zip(network.buffers(), student.buffers(), strict=True):
        mine.copy_(other)
    return network


@torch.no_grad()
def with_statistics_over(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Return a copy of `network` with statistics over uint8 images, all batches alike."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # cumulative
            module.train()
    for batch in images.split(128):
        network(batch.float() / 255.0)
    return network.eval()


def main() -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datalist", type=Path)
    parser.add_argument("--method", default="supervised")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    overrides: dict[str, Any] = {
        "datalist": str(arguments.datalist.resolve()),
        "method_def": f"@methods::{arguments.method}",
        "query::strategy": "@strategies::random",
        "query::budget": 10,
        "seed": arguments.seed,
        "device": "cpu",
        "image_size": [28, 28],
        "labels": 20,
        "rounds": 5,
        "epochs_per_round": 4,
        "epoch_length": 50,
        "val_interval": 4,
    }
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "bundle"
        copy_bundle("boostmis", root)
        own = {"bundle_root": str(root), "output_dir": f"{folder}/run", "ckpt_dir": f"{folder}/models"}
        run = workflow([root / "configs" / "train.yaml"], **overrides, **own)
        run.initialize()
        content = run.parser.get_parsed_content
        trainer, validation, pool = content("train::trainer"), content("validate::dataset"), content("validate::pool")
        images = content("train::dataset").images
        some = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:1024]]

        def measure(engine: Any) -> None:
            student, averaged = trainer.core.network, trainer.core.inference_network
            networks = {
                "copied": with_statistics_of(averaged, student),
                "averaged": averaged,
                "recomputed": with_statistics_over(averaged, some),
                "student": copy.deepcopy(student).eval(),
            }
            for name, network in networks.items():
                figures = evaluate(network, validation, pool, "cpu")["metrics"]
                row = {metric: round(figures[metric]["value"], 4) for metric in METRICS}
                table.append({"epoch": engine.state.epoch, "statistics": name, **row})
                print(table[-1], flush=True)

        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), measure)
        run.run()
        run.finalize()
    name = f"batch_statistics_{arguments.method}_{arguments.seed}.json"
    command = shlex.join(["python", *sys.argv[:1], "DATALIST", *sys.argv[2:]])
    place = environment(torch.get_num_threads())
    write_json(Path(__file__).with_name(name), {"command": command, "environment": place, "epochs": table})


if __name__ == "__main__":
    main()
