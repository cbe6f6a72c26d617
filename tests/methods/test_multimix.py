"""MultiMix: four streams, one network; the published baselines by their weights alone."""

import pytest
import torch

from medssl_monai.losses import MaskLoss
from medssl_monai.methods import MultiMix
from medssl_monai.networks import MultiMixNetwork

CONFIGURATIONS = {
    # class_weight, weight, mask_weight, consistency_weight; bridge; streams
    "Enc": ((1.0, 0.0, 0.0, 0.0), "none", ("labeled",)),
    "EncSSL": ((1.0, 0.25, 0.0, 0.0), "none", ("labeled", "unlabeled")),
    "U-Net": ((0.0, 0.0, 5.0, 0.0), "none", ("masked",)),
    "UMTL": ((1.0, 0.0, 5.0, 0.0), "none", ("labeled", "masked")),
    "UMTLS": ((1.0, 0.0, 5.0, 0.0), "concat", ("labeled", "masked")),
    "UMTL-SSL": ((1.0, 0.25, 5.0, 0.0), "none", ("labeled", "unlabeled", "masked")),
    "UMTL-SSL-S": ((1.0, 0.25, 5.0, 0.0), "concat", ("labeled", "unlabeled", "masked")),
    "MultiMix": ((1.0, 0.25, 5.0, 0.01), "concat", ("labeled", "unlabeled", "masked", "unmasked")),
}
SIZES = {2: (16, 16), 3: (8, 8, 8)}


def network(bridge="concat", dims=2, **kwargs):
    torch.manual_seed(0)
    return MultiMixNetwork(2, 2, 1, spatial_dims=dims, channels=(2, 4, 8), bridge=bridge, **kwargs)


def method_of(name, dims=2, **kwargs):
    (class_weight, weight, mask_weight, consistency_weight), bridge, _ = CONFIGURATIONS[name]
    given = {"class_weight": class_weight, "weight": weight, "mask_weight": mask_weight}
    given |= {"consistency_weight": consistency_weight, "threshold": 0.5}
    return MultiMix(network(bridge, dims, dropout=0.0), **{**given, **kwargs})


def batch_of(method, dims=2, seed=0):
    """Streams of different sizes; those that the method does not read would be an error to read."""
    g = torch.Generator().manual_seed(seed)
    size = SIZES[dims]

    def images(count):
        return torch.rand(count, 1, *size, generator=g)

    streams = {
        "labeled": {"image": images(4), "label": torch.tensor([0, 1, 0, 1])},
        "unlabeled": {"weak": images(5), "strong": images(5)},
        "masked": {"image": images(3), "label": (images(3)[:, 0] > 0.5).long()},
        "unmasked": {"weak": images(2)},
    }
    return {name: stream for name, stream in streams.items() if name in method.streams}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_baseline_is_a_choice_of_weights(name, dims):
    method = method_of(name, dims)
    assert method.streams == CONFIGURATIONS[name][2]
    output = method(batch_of(method, dims))
    output["loss"].backward()
    learns = {part: any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
              for part, module in (("head", method.network.classifier.head), ("decoder", method.network.decoder),
                                   ("encoder", method.network.classifier.backbone))}  # fmt: skip
    assert learns == {"head": "labeled" in method.streams, "decoder": "masked" in method.streams, "encoder": True}


def test_the_loss_is_the_weighted_sum_of_its_parts():
    method = method_of("MultiMix", mask_weight=3.0, class_weight=0.5, weight=0.25, consistency_weight=0.125)
    output = method(batch_of(method))
    parts = 0.5 * output["supervised"] + 0.25 * output["unsupervised"] + 3 * output["masks"]
    torch.testing.assert_close(output["loss"], parts + 0.125 * output["consistency"])


def test_streams_do_not_meet():
    """What one stream holds changes no other stream's loss, so that sources may differ as they like."""
    method = method_of("MultiMix")
    batch, other = batch_of(method), batch_of(method, seed=1)
    output = method(batch)
    changed = method({**batch, "labeled": other["labeled"], "unlabeled": other["unlabeled"]})
    for name in ("masks", "consistency"):
        torch.testing.assert_close(changed[name], output[name], rtol=1e-5, atol=1e-6)
    changed = method({**batch, "masked": other["masked"], "unmasked": other["unmasked"]})
    for name in ("supervised", "unsupervised"):
        torch.testing.assert_close(changed[name], output[name], rtol=1e-5, atol=1e-6)


def test_trap_12_the_threshold_counts_itself_and_the_denominator_is_the_whole_batch():
    method = method_of("MultiMix")
    batch = batch_of(method)
    probs = method.network.classifier(batch["unlabeled"]["weak"]).softmax(dim=1).amax(dim=1).detach()
    method.threshold = float(probs.median())
    output = method(batch)
    assert output["mask_rate"].item() == pytest.approx(3 / 5)
    method.threshold = 1.0
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
    assert method.joint_network is method.teacher.network
    assert method.inference_network is method.teacher.network.classifier
    batch = batch_of(method)
    assert bool(torch.isfinite(method(batch)["loss"]))
    assert method_of("MultiMix").joint_network is not method.joint_network


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
