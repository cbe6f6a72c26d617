"""The one trainer."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from torch import nn

from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.engines import SSLTrainer
from medssl_monai.handlers import EpochSeed
from medssl_monai.kinds import KINDS
from medssl_monai.methods import FixMatch, MultiMix
from medssl_monai.methods.base import UNLABELED
from medssl_monai.networks import MultiMixNetwork
from medssl_monai.pool import LabelPool, Labels, MultiStreamLoader, pool_loader
from medssl_monai.transforms import GaussianNoise, Views

ITEMS = Datalist([{"image": str(i), "id": str(i), "label": i % 2, "labeled": i < 4} for i in range(12)], classes="ab")


def images_of(item):
    generator = torch.Generator().manual_seed(int(item["id"]))
    return {"image": torch.rand(1, 4, 4, generator=generator)}


@pytest.fixture
def make():
    """A trainer of two epochs of two steps, on images of 4 x 4."""

    def _make(labels=None, data=ITEMS, kind="classes", **arguments):
        torch.manual_seed(0)
        pool, dataset = LabelPool(Labels(data, known=labels)), ImageDataset(data, images_of)
        method = FixMatch(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), threshold=0.0, kind=KINDS[kind](("a", "b")))
        streams = {name: pool_loader(dataset, pool.first, name, 3, epoch_length=2) for name in ("labeled", "unlabeled")}
        optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.1)
        return SSLTrainer(
            "cpu",
            2,
            MultiStreamLoader(streams),
            method,
            optimizer,
            pool,
            views=Views(GaussianNoise(0.1), GaussianNoise(0.3)),
            **{"train_handlers": [EpochSeed(0)], **arguments},
        )

    return _make


def test_labels_join_by_index_and_only_the_labeled_stream(make):
    trainer = make()
    batch = trainer.prepare(next(iter(trainer.data_loader)))
    assert torch.equal(batch["labeled"]["label"], batch["labeled"]["index"] % 2)
    assert set(batch["unlabeled"]) == {"weak", "strong", "index"}
    assert bool((batch["unlabeled"]["index"] >= 4).all())


FINDINGS = Datalist([{**item, "label": [item["label"], -1]} for item in ITEMS], classes="ab")


def test_findings_join_by_index_and_train(make):
    trainer = make(data=FINDINGS, kind="findings")
    label = trainer.prepare(next(iter(trainer.data_loader)))["labeled"]["label"]
    assert label.shape == (3, 2)
    assert bool((label[:, 1] == -1).all())
    trainer.run()
    assert bool(torch.isfinite(trainer.state.output[0]["loss"]))


@pytest.mark.parametrize(
    ("data", "kind", "match"),
    [
        (
            FINDINGS,
            "classes",
            "the labels are findings, and FixMatch learns classes; give it the `kind` of the labels",
        ),
        (
            ITEMS,
            "findings",
            "the labels are classes, and FixMatch learns findings; give it the `kind` of the labels",
        ),
    ],
)
def test_a_method_for_other_labels_than_the_pool_has_is_refused_before_the_first_step(make, data, kind, match):
    trainer = make(data=data, kind=kind)
    with pytest.raises(ValueError, match=match):
        trainer.run()
    assert trainer.core.steps_done == 0


def test_a_method_that_reads_no_label_may_learn_from_any_pool(make):
    """Such as a pre-training on images alone, whatever the labels will be."""
    trainer = make(data=FINDINGS, kind="classes")
    trainer.core.streams = {"unlabeled": UNLABELED}
    trainer._check_kinds()


def test_a_corrected_label_is_in_the_next_batch(make):
    trainer = make()
    trainer.pool.first.correct(range(4), [1, 1, 1, 1])
    assert bool((trainer.prepare(next(iter(trainer.data_loader)))["labeled"]["label"] == 1).all())


def test_a_step_trains_although_a_validation_left_the_network_in_evaluation_mode():
    """MultiMix has no teacher: what is validated is the student, and BatchNorm and dropout would stay switched off."""
    items = [{"image": str(i), "id": str(i), "label": i % 2} for i in range(6)]
    pool, dataset = (
        LabelPool(Labels(items)),
        ImageDataset(items, lambda item: {"image": torch.rand(1, 8, 8)}, dtype="float32"),
    )
    network = MultiMixNetwork(2, 2, 1, channels=(2, 4), bridge="none", dropout=0.5)
    method = MultiMix(network, weight=0.0, mask_weight=0.0, consistency_weight=0.0)
    loader = MultiStreamLoader({"labeled": pool_loader(dataset, pool.first, "labeled", 2, epoch_length=2)})
    modes = []

    class Validation:
        def attach(self, engine):
            engine.add_event_handler(Events.STARTED, self)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

        def __call__(self, engine):
            engine.core.inference_network.eval()

    def note(module, inputs):
        modes.append({part.training for part in module.modules()})

    method.register_forward_pre_hook(note)
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.1)
    SSLTrainer("cpu", 2, loader, method, optimizer, pool, train_handlers=[EpochSeed(0), Validation()]).run()
    assert modes == [{True}] * 4


def test_output_holds_scalars_as_monai_handlers_expect_them(make):
    trainer = make()
    trainer.run()
    (output,) = trainer.state.output
    assert {"loss", "supervised", "unsupervised", "mask_rate"} == set(output)
    assert not output["loss"].requires_grad


def test_equal_seeds_give_equal_weights_and_others_do_not(make):
    weights = []
    for seed in (0, 0, 1):
        trainer = make(train_handlers=[EpochSeed(seed)])
        trainer.run()
        weights.append(trainer.core.network[1].weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_bfloat16_on_the_cpu_trains(make):
    trainer = make(amp=True)
    trainer.run()
    assert trainer.amp_dtype == torch.bfloat16
    assert all(torch.isfinite(p).all() for p in trainer.core.parameters())


def test_float16_without_cuda_is_refused(make):
    with pytest.raises(ValueError, match="float16 needs CUDA, and the device is cpu"):
        make(amp=True, amp_dtype="float16")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("amp_dtype", ["float16", "bfloat16"])
def test_amp_on_cuda(amp_dtype):
    pool, dataset = LabelPool(Labels(ITEMS)), ImageDataset(ITEMS, images_of)
    method = FixMatch(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), threshold=0.0).cuda()
    streams = {name: pool_loader(dataset, pool.first, name, 3, epoch_length=2) for name in ("labeled", "unlabeled")}
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.1)
    views = Views(GaussianNoise(0.1), GaussianNoise(0.3))
    trainer = SSLTrainer(
        "cuda", 2, MultiStreamLoader(streams), method, optimizer, pool, views, [EpochSeed(0)], True, amp_dtype
    )
    trainer.run()
    assert trainer.grad_scaler.is_enabled() == (amp_dtype == "float16")
    assert all(torch.isfinite(p).all() for p in method.parameters())


@pytest.mark.parametrize("labels", [4, 12])
def test_a_pool_without_unlabeled_images_is_said_to_be_one(make, caplog, labels):
    """It is no error: the last round of a loop may have nothing left to label."""
    make(labels=labels).run()
    assert ("FixMatch learns from such: labeled images stand in" in caplog.text) == (labels == 12)
