"""MultiMix: four streams, one network; the published baselines by their weights alone."""

import pytest
import torch
from support import in_two_processes

from medssl_monai.data import ImageDataset
from medssl_monai.data.mask_store import Masks as MaskFiles
from medssl_monai.engines import SSLTrainer
from medssl_monai.handlers import EpochSeed
from medssl_monai.kinds import Classes, Masks
from medssl_monai.losses import MaskConsistency, MaskLoss
from medssl_monai.methods import MultiMix
from medssl_monai.networks import MultiMixNetwork
from medssl_monai.pool import LabelPool, Labels, MultiStreamLoader, pool_loader
from medssl_monai.transforms import Affine, GaussianNoise, JointViews, MaskViews, Views

CONFIGURATIONS = {
    # class_weight, weight, mask_weight, consistency_weight; bridge; streams
    "Enc": ((1.0, 0.0, 0.0, 0.0), "none", ("labeled",)),
    "EncSSL": ((1.0, 0.25, 0.0, 0.0), "none", ("labeled", "unlabeled")),
    "U-Net": ((0.0, 0.0, 5.0, 0.0), "none", ("segmented",)),
    "UMTL": ((1.0, 0.0, 5.0, 0.0), "none", ("labeled", "segmented")),
    "UMTLS": ((1.0, 0.0, 5.0, 0.0), "concat", ("labeled", "segmented")),
    "UMTL-SSL": ((1.0, 0.25, 5.0, 0.0), "none", ("labeled", "unlabeled", "segmented")),
    "UMTL-SSL-S": ((1.0, 0.25, 5.0, 0.0), "concat", ("labeled", "unlabeled", "segmented")),
    "MultiMix": ((1.0, 0.25, 5.0, 0.01), "concat", ("labeled", "unlabeled", "segmented", "unsegmented")),
}
SIZES = {2: (16, 16), 3: (8, 8, 8)}


def weights_of(name):
    """As arguments of `MultiMix`."""
    names = "class_weight", "weight", "mask_weight", "consistency_weight"
    return dict(zip(names, CONFIGURATIONS[name][0], strict=True))


def network(bridge="concat", dims=2, **kwargs):
    torch.manual_seed(0)
    return MultiMixNetwork(2, 2, 1, spatial_dims=dims, channels=(2, 4, 8), bridge=bridge, **kwargs)


def method_of(name, dims=2, **kwargs):
    given = {**weights_of(name), "threshold": 0.5, "kind": Classes.of_size(2), "mask_kind": Masks.of_size(2), **kwargs}
    return MultiMix(network(CONFIGURATIONS[name][1], dims, dropout=0.0), **given)


def batch_of(method, dims=2, seed=0):
    """Streams of different sizes; those that the method does not read would be an error to read."""
    g = torch.Generator().manual_seed(seed)
    size = SIZES[dims]

    def images(count):
        return torch.rand(count, 1, *size, generator=g)

    streams = {
        "labeled": {"image": images(4), "label": torch.tensor([0, 1, 0, 1])},
        "unlabeled": {"weak": images(5), "strong": images(5)},
        "segmented": {"image": images(3), "label": (images(3)[:, 0] > 0.5).long()},
        "unsegmented": {"weak": images(2)},
    }
    return {name: stream for name, stream in streams.items() if name in method.streams}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_baseline_is_a_choice_of_weights(name, dims):
    method = method_of(name, dims)
    assert tuple(method.streams) == CONFIGURATIONS[name][2]
    output = method(batch_of(method, dims))
    output["loss"].backward()
    learns = {part: any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
              for part, module in (("head", method.network.classifier.head), ("decoder", method.network.decoder),
                                   ("encoder", method.network.classifier.backbone))}  # fmt: skip
    assert learns == {"head": "labeled" in method.streams, "decoder": "segmented" in method.streams, "encoder": True}


def test_the_loss_is_the_weighted_sum_of_its_parts():
    method = method_of("MultiMix", mask_weight=3.0, class_weight=0.5, weight=0.25, consistency_weight=0.125)
    output = method(batch_of(method))
    parts = 0.5 * output["supervised"] + 0.25 * output["unsupervised"] + 3 * output["masks"]
    torch.testing.assert_close(output["loss"], parts + 0.125 * output["consistency"])


def test_defaults_are_the_published_values():
    method = MultiMix(network())
    assert method.thresholds()["label"].plain() == pytest.approx(0.7)
    assert method.weights == {"supervised": 1.0, "unsupervised": 0.25, "masks": 5.0, "consistency": 0.01}
    assert method.teacher is None


def test_streams_do_not_meet():
    """What one stream holds changes no other stream's loss, so that sources may differ as they like."""
    method = method_of("MultiMix")
    batch, other = batch_of(method), batch_of(method, seed=1)
    output = method(batch)
    changed = method({**batch, "labeled": other["labeled"], "unlabeled": other["unlabeled"]})
    for name in ("masks", "consistency"):
        torch.testing.assert_close(changed[name], output[name], rtol=1e-5, atol=1e-6)
    changed = method({**batch, "segmented": other["segmented"], "unsegmented": other["unsegmented"]})
    for name in ("supervised", "unsupervised"):
        torch.testing.assert_close(changed[name], output[name], rtol=1e-5, atol=1e-6)


def test_the_consistency_is_of_unlabeled_predictions_from_labeled_ones():
    """The divergence is not symmetric: the other way round it has another value, and `detach` stops the wrong half."""
    loss = MaskConsistency(detach=True)
    method = method_of("MultiMix", consistency=loss)
    with torch.no_grad():
        method.network.output.conv.weight *= 30  # so that the predictions differ by more than rounding
    batch = batch_of(method)
    with_mask, without = method.network(batch["segmented"]["image"]), method.network(batch["unsegmented"]["weak"])
    expected, swapped = loss(with_mask, without), loss(without, with_mask)
    assert not torch.isclose(expected, swapped, rtol=0.02)
    torch.testing.assert_close(method(batch)["consistency"], expected, rtol=1e-4, atol=1e-7)


def test_trap_12_the_threshold_counts_itself_and_the_denominator_is_the_whole_batch():
    method = method_of("MultiMix")
    batch = batch_of(method)
    probs = method.network.classifier(batch["unlabeled"]["weak"]).softmax(dim=1).amax(dim=1).detach()
    method.threshold.fill_(float(probs.median()))
    output = method(batch)
    assert output["mask_rate"].item() == pytest.approx(3 / 5)
    method.threshold.fill_(1.0)
    assert method(batch)["unsupervised"].item() == 0.0


def test_weak_views_get_no_gradient():
    method = method_of("MultiMix")
    batch = batch_of(method)
    weak = batch["unlabeled"]["weak"].requires_grad_()
    method(batch)["loss"].backward()
    assert weak.grad is None


def test_another_loss_of_masks_and_an_averaged_network():
    method = method_of("MultiMix", mask_criterion=MaskLoss(), decay=0.5)
    method.on_start()
    assert method.inference_network is method.teacher.network
    batch = batch_of(method)
    assert bool(torch.isfinite(method(batch)["loss"]))


def test_a_few_steps_learn():
    method = method_of("MultiMix")
    batch, losses = batch_of(method), []
    optimizer = torch.optim.Adam(method.trainable_parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        output = method(batch)
        output["loss"].backward()
        optimizer.step()
        losses.append((output["supervised"] + output["masks"]).item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"mask_weight": -1.0}, "at least 0"),
        ({"class_weight": 0.0, "weight": 0.0, "mask_weight": 0.0, "consistency_weight": 0.0}, "one of them more"),
        ({"class_weight": 0.0}, "`supervised` there is nothing for `unsupervised`"),
        ({"mask_weight": 0.0}, "`masks` there is nothing for `consistency`"),
    ],
    ids=str,
)
def test_weights_that_make_no_sense(weights, said):
    with pytest.raises(ValueError, match=said):
        MultiMix(network(), **weights)


def test_images_of_which_no_voxel_is_known_teach_nothing():
    method = method_of("UMTLS", class_weight=0.0)
    batch = batch_of(method)
    batch["segmented"]["label"].fill_(-1)
    output = method(batch)
    output["loss"].backward()
    assert output["masks"] == 0 and output["loss"] == 0
    assert all(not p.grad.any() for p in method.trainable_parameters())  # and not NaN


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_no_loss_reaches_is_frozen(name):
    """`Enc` and `EncSSL` have no masks to learn a decoder from, `U-Net` has no classes."""
    method = method_of(name)
    frozen = {weight.split(".")[0] for weight, p in method.network.named_parameters() if not p.requires_grad}
    assert frozen == {"Enc": {"decoder", "output"}, "EncSSL": {"decoder", "output"}, "U-Net": {"classifier"}}.get(
        name, set()
    )
    classifier = method.network.classifier
    assert all(p.requires_grad for p in classifier.backbone.parameters())
    assert all(p.requires_grad == (name != "U-Net") for p in classifier.head.parameters())


# ---- what reaches the network in a run -------------------------------------------------------------------------------

COUNT, LEVEL = 8, 0.1
"""Images of a run, and how much brighter each is than the one before it."""

SAME = Affine(), GaussianNoise(0.0)
"""Views that change nothing."""


def batches_of_run(labeled=4, masked=4, weak=SAME[0], strong=SAME[1], **options):
    """A run of two epochs of three steps on images that all have a class and a mask, of which some are hidden.

    Returns:
        The batches as the method sees them, the images ``(N, 1, 16, 16)``, what the trainer warned of, and the trainer.
    """
    hidden = [{"labeled": i < labeled, "masked": i >= COUNT - masked} for i in range(COUNT)]
    items = [{"image": f"{i}.png", "id": str(i), "label": i % 2, "mask": f"{i}m.png", **flags}
             for i, flags in enumerate(hidden)]  # fmt: skip
    texture = 0.04 * torch.rand(COUNT, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    images = texture + LEVEL * (1 + torch.arange(COUNT)).view(-1, 1, 1, 1)
    dataset = ImageDataset(items, lambda item: {"image": images[int(item["id"])]})
    masks = MaskFiles(items, lambda item: {**item, "label": (images[int(item["id"])] > 0.5).float()})
    pool = LabelPool([Labels(items, key="label"), Labels(items, key="mask", kind=Masks.of_size(2), read=masks)])
    method = method_of("MultiMix")
    streams = {
        name: pool_loader(dataset, pool[key], subset, batch_size=size, epoch_length=3)
        for name, key, subset, size in (
            ("labeled", "label", "labeled", 4),
            ("unlabeled", "label", "unlabeled", 4),
            ("segmented", "mask", "labeled", 2),
            ("unsegmented", "mask", "unlabeled", 3),
        )
    }
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.01)
    views = JointViews(Views(weak, strong), MaskViews(weak, strong))
    loader = MultiStreamLoader(streams)
    trainer = SSLTrainer("cpu", 2, loader, method, optimizer, pool, views, [EpochSeed(0)], **options)
    batches, said = [], []
    method.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0]))
    with pytest.MonkeyPatch.context() as patch:  # the logger is that of all trainers
        patch.setattr(trainer.logger, "warning", said.append)
        trainer.run()
    return batches, dataset.images.float() / 255, said, trainer


VIEWS = {"weak": Affine(rotate=10, shift=0.05, flip=[1]), "strong": GaussianNoise(0.02)}


def views_of(batches):
    """Name of stream and view, index and image of everything that a method got to see."""
    for batch in batches:
        for name, stream in batch.items():
            for view in {"image", "weak", "strong"} & set(stream):
                for index, image in zip(stream["index"].tolist(), stream[view], strict=True):
                    yield (name, view), index, image


def test_trap_6_no_view_comes_back():
    """Four labeled images go into every batch of both epochs, and look different in each."""
    batches, *_ = batches_of_run(**VIEWS)
    seen = {}
    for name, index, image in views_of(batches):
        seen.setdefault((name, index), []).append(image.numpy().tobytes())
    assert len(seen[("labeled", "image"), 0]) == 6
    assert {name for name, _ in seen} == {
        ("labeled", "image"), ("unlabeled", "weak"), ("unlabeled", "strong"), ("segmented", "image"),
        ("unsegmented", "weak"), ("unsegmented", "strong"),
    }  # fmt: skip
    assert all(len(set(views)) == len(views) for views in seen.values())


@pytest.mark.parametrize(("labeled", "masked"), [(COUNT, 4), (4, COUNT), (COUNT, COUNT)])
def test_trap_7_where_every_image_has_its_label_these_stand_in_without_it(labeled, masked):
    """The released loop has no batch then."""
    batches, _, said, trainer = batches_of_run(labeled, masked, **VIEWS)
    assert len(batches) == 6
    drawn = {name: {index for batch in batches for index in batch[name]["index"].tolist()} for name in batches[0]}
    everything = set(range(COUNT))
    assert drawn["unlabeled"] == (everything if labeled == COUNT else everything - set(range(4)))
    assert drawn["unsegmented"] == (everything if masked == COUNT else set(range(4)))
    assert not any("label" in batch[name] for batch in batches for name in ("unlabeled", "unsegmented"))
    assert [what for what in ("labels", "masks") if any(f"without {what}" in text for text in said)] == (
        ["labels"] * (labeled == COUNT) + ["masks"] * (masked == COUNT)
    )
    assert all(bool(torch.isfinite(p).all()) for p in trainer.core.parameters())


def test_trap_8_every_view_of_an_index_is_of_its_image():
    """Also after shuffling; otherwise pseudo-labels would go to other images."""
    batches, images, *_ = batches_of_run(**VIEWS)
    orders = {tuple(batch["unlabeled"]["index"].tolist()) for batch in batches}
    assert len(orders) > 1
    for name, index, image in views_of(batches):
        nearest = (images.flatten(1).mean(dim=1) - image.mean()).abs().argmin()
        assert nearest == index, name
    for batch in batches:
        assert torch.equal(batch["labeled"]["label"], batch["labeled"]["index"] % 2)
        masked = batch["segmented"]
        brightness = masked["image"].flatten(1).mean(dim=1)
        for mask, bright in zip(masked["label"], brightness > 0.5, strict=True):
            assert set(mask[mask >= 0].tolist()) == {int(bright)}


def test_trap_9_all_streams_are_scaled_alike():
    """Views that change nothing leave each stream the very values of the images, between 0 and 1."""
    batches, images, *_ = batches_of_run()
    names = set()
    for name, index, image in views_of(batches):
        names.add(name[0])
        torch.testing.assert_close(image, images[index], rtol=0, atol=1e-5)
    assert names == {"labeled", "unlabeled", "segmented", "unsegmented"}


def test_a_run_in_half_precision(monkeypatch):
    """Its saliency is the one of full precision, and predictions under autocast come out the same twice."""
    joint, found = MultiMixNetwork.joint, []

    def seen(network, images):
        with torch.autocast("cpu", enabled=False):
            expected = joint(network, images).saliency
        found.append((joint(network, images), expected))
        return found[-1][0]

    monkeypatch.setattr(MultiMixNetwork, "joint", seen)
    _, images, _, trainer = batches_of_run(**VIEWS, amp=True, amp_dtype="bfloat16")
    assert trainer.state.output[0]["loss"].isfinite() and trainer.state.output[0]["loss"].dtype == torch.float32
    assert len(found) == 6
    for said, expected in found:
        assert (said.mask_logits.dtype, said.saliency.dtype) == (torch.bfloat16, torch.float32)
        assert said.saliency.any() and torch.equal(said.saliency, expected)
    network = trainer.core.inference_network.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        first, second = joint(network, images), joint(network, images)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


# ---- several processes -----------------------------------------------------------------------------------------------

TWO_PROCESSES = """
import torch
from torch.nn.parallel import DistributedDataParallel
from methods.test_multimix import CONFIGURATIONS, even_batch, learned_of, method_of

result = {}
for name in CONFIGURATIONS:
    method = method_of(name, decay=0.9)
    batch = even_batch(method, slice(2 * rank, 2 * rank + 2))
    parallel = DistributedDataParallel(method)
    for _ in range(3):  # a weight without gradient is an error at the second step
        method.zero_grad()
        parallel(batch)["loss"].backward()
    result[name] = learned_of(method, batch)
"""


def even_batch(method, part=slice(None)):
    """Four images in each stream, or a part of them, so that the mean over processes is that over images."""
    g = torch.Generator().manual_seed(0)
    images, strong, masks = (torch.rand(16, 1, 16, 16, generator=g).split(4) for _ in range(3))
    streams = {
        "labeled": {"image": images[0], "label": torch.tensor([0, 1, 1, 0])},
        "unlabeled": {"weak": images[1], "strong": strong[1]},
        "segmented": {"image": images[2], "label": (masks[2][:, 0] > 0.5).long()},
        "unsegmented": {"weak": images[3]},
    }
    return {name: {key: value[part] for key, value in streams[name].items()} for name in method.streams}


def learned_of(method, batch):
    """What the last backward left, by name, and the saliency of the images with masks; as lists."""
    gradients = {name: p.grad.flatten().tolist() for name, p in method.network.named_parameters() if p.requires_grad}
    saliency = method.network.joint(batch["segmented"]["image"]).saliency if "segmented" in batch else None
    return {"gradients": gradients, "saliency": None if saliency is None else saliency.tolist()}


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    """In every configuration; a copy that all of the batch goes through knows what each half should."""
    ranks = in_two_processes(TWO_PROCESSES, tmp_path)
    for name in CONFIGURATIONS:
        method = method_of(name, decay=0.9)
        batch = even_batch(method)
        method(batch)["loss"].backward()
        expected = learned_of(method, batch)
        first, second = (rank[name] for rank in ranks)
        assert first["gradients"] == second["gradients"]
        assert first["gradients"].keys() == expected["gradients"].keys()
        for weight, gradient in expected["gradients"].items():
            found = torch.tensor(first["gradients"][weight])
            torch.testing.assert_close(found, torch.tensor(gradient), rtol=1e-3, atol=1e-5, msg=f"{name}: {weight}")
        if method.network.bridge == "concat":
            found = torch.tensor(first["saliency"] + second["saliency"])
            torch.testing.assert_close(found, torch.tensor(expected["saliency"]), rtol=1e-4, atol=1e-7)
