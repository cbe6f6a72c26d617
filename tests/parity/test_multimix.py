"""MultiMix against the golden vectors: sizes and hyper-parameters come from the file.

Values are of the authors' code, executed, but for the divergences that the file calls proposed, which are ours.
"""

import numpy as np
import pytest
import torch
from parity.published import multimix_consistency
from support import pseudo_label_loss
from torch import nn
from torch.nn import functional as F

from medssl_monai.kinds import Classes
from medssl_monai.losses import MaskConsistency, SmoothDiceLoss
from medssl_monai.methods import MultiMix
from medssl_monai.networks import MultiMixNetwork

FILE = "multimix/multimix"
CONVOLUTIONS = {"0": "layers.0.conv", "3": "layers.1.conv"}
"""Of a block, in the released code and here."""


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def two_classes(logit):
    """Of a single mask logit ``(B, 1, H, W)`` those of background and foreground, as `MultiMixNetwork` returns them."""
    return torch.cat([torch.zeros_like(logit), logit], dim=1)


def is_of_network(key):
    return key.startswith(("slim_", "full_"))


def test_losses_as_released(golden):
    g = golden(FILE)
    g.unused = {
        key for key in g.keys("") if not is_of_network(key) and not key.startswith(("kl2_", "kl_bern", "kl_spat"))
    }
    names = ("seg_logits", "seg_logits_unl", "cls_logits_l", "cls_logits_weak", "cls_logits_strong")
    inputs = [tensor(g.input(name)).requires_grad_() for name in names]
    masks, unlabeled, labeled, weak, strong = inputs
    threshold = float(g.input("threshold"))

    assert float(g.input("dice_smooth")) == 1.0  # ours is fixed
    dice = SmoothDiceLoss()(two_classes(masks), tensor(g.input("seg_target")).squeeze(1).long())
    cross_entropy = nn.CrossEntropyLoss()(labeled, tensor(g.input("cls_labels")))
    probs = weak.softmax(dim=1)
    unsupervised, mask = pseudo_label_loss(strong, probs, threshold)
    consistency = multimix_consistency(masks, unlabeled)
    weights = [float(g.input(name)) for name in ("alpha_dice", "lambda_u", "beta_kl")]
    terms = dice, unsupervised, consistency
    total = cross_entropy + sum(weight * term for weight, term in zip(weights, terms, strict=True))

    g.compare("dice", dice, atol=1e-12)
    g.compare("ce", cross_entropy, atol=1e-12)
    g.compare("weak_max_prob", Classes().confidence(probs), atol=1e-12)
    g.compare("pseudo_label", probs.argmax(dim=1))
    g.compare("mask", mask)
    g.compare("unsup", unsupervised, atol=1e-12)
    g.compare("kl_seg_official_1ch", consistency, atol=0.0)
    g.compare("kl_cls_unused", multimix_consistency(labeled, strong), atol=1e-12)
    g.compare("total_official", total, atol=1e-12)
    gradients = torch.autograd.grad(total, inputs, materialize_grads=True)
    keys = ("grad_seg", "grad_seg_unl_official", "grad_cls_l", "grad_weak_official", "grad_strong")
    for key, gradient in zip(keys, gradients, strict=True):
        g.compare(key, gradient, atol=1e-12)
    for key in ("grad_seg_unl_official", "grad_weak_official"):
        assert not g.input(key).any()


def test_threshold_and_no_confident_sample(golden):
    """A confidence equal to the threshold counts; where none does the loss is 0 and finite."""
    g = golden(FILE)
    g.unused = set()
    weak, strong = tensor(g.input("cls_logits_weak")), tensor(g.input("cls_logits_strong")).requires_grad_()
    probs = weak.softmax(dim=1)
    highest = float(probs.max())
    kind, above = Classes(), min(1.0, float(np.nextafter(highest, 2.0)))
    assert int(kind.confident(probs, kind.threshold(highest)).sum()) == 1
    assert not kind.confident(probs, kind.threshold(above)).any()
    loss, mask = pseudo_label_loss(strong, probs, above)
    (gradient,) = torch.autograd.grad(loss, strong)
    assert loss.item() == 0.0 and not mask.any() and not gradient.any()


def test_divergences_in_place_of_the_term_that_is_zero(golden):
    g = golden(FILE)
    g.unused = set(g.keys("kl2_") + g.keys("kl_bernoulli") + g.keys("kl_spatial"))
    both = [tensor(g.input(key)) for key in ("kl2_logits_p", "kl2_logits_q")]
    g.compare("kl2_official", multimix_consistency(*both), atol=1e-12)
    g.compare("kl2_official", MaskConsistency()(*both) / both[0].shape[1], atol=1e-12)

    single = [tensor(g.input(key)).requires_grad_() for key in ("seg_logits", "seg_logits_unl")]
    masks = [two_classes(logit) for logit in single]
    bernoulli = MaskConsistency()(*masks)
    g.compare("kl_bernoulli_pixel_mean", bernoulli, atol=1e-12)
    g.compare("kl_bernoulli_mean_over_2ch", bernoulli / 2, atol=1e-12)
    gradients = torch.autograd.grad(bernoulli / 2, single, retain_graph=True)
    g.compare("kl_bernoulli_grad_p", gradients[0], atol=1e-12)
    g.compare("kl_bernoulli_grad_q", gradients[1], atol=1e-12)
    constant = MaskConsistency(detach=True)(*masks) / 2
    assert torch.autograd.grad(constant, single[0], retain_graph=True, allow_unused=True) == (None,)
    g.compare("kl_bernoulli_grad_q", torch.autograd.grad(constant, single[1])[0], atol=1e-12)
    g.compare("kl_spatial_softmax", MaskConsistency("spatial")(*masks), atol=1e-12)


def test_saliency_of_a_slim_encoder_as_released(golden):
    g = golden(FILE)
    g.unused &= set(g.keys("slim_"))
    weights = {key.removeprefix("slim_w_"): tensor(g.input(key)) for key in g.keys("slim_w_")}
    channels, in_channels = [len(weights[f"{block}.3.bias"]) for block in "ab"], weights["a.0.weight"].shape[1]
    network = MultiMixNetwork(len(weights["fc.bias"]), in_channels=in_channels, channels=channels).double()
    for block, own in zip("ab", network.classifier.backbone.blocks, strict=True):
        own.load_state_dict({f"{name}.{part}": weights[f"{block}.{number}.{part}"]
                             for number, name in CONVOLUTIONS.items() for part in ("weight", "bias")})  # fmt: skip
    network.classifier.head.load_state_dict({part: weights[f"fc.{part}"] for part in ("weight", "bias")})
    images = tensor(g.input("slim_x"))

    class_logits, _, saliency = network.eval().joint(images)
    g.compare("slim_logits", class_logits, atol=1e-8)
    g.compare("slim_saliency", saliency, atol=1e-8)
    assert bool((saliency >= 0).all())
    g.compare("slim_saliency", network.train().joint(images).saliency, atol=1e-8)  # dropout has no part in it
    assert network.training and all(parameter.grad is None for parameter in network.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        g.compare("slim_saliency_official_f32", network.float().joint(images.float()).saliency)


def released(g):
    """The whole network, its weights by the formula of the file, and names of what it lacks."""
    shapes = {
        str(name): tuple(int(size) for size in str(shape).strip("(,)").split(","))
        for name, shape in zip(g.input("full_param_names"), g.input("full_param_shapes"), strict=True)
    }
    channels = [size[0] for name, size in shapes.items() if name.startswith("encoder") and name.endswith(".3.bias")]
    network = MultiMixNetwork(
        shapes["encoder.fc.bias"][0],
        1 + shapes["decoder.conv_last.bias"][0],
        shapes["encoder.dconv_down1.0.weight"][1],
        channels=channels,
    ).double()
    own, gain = dict(network.named_parameters()), float(g.input("full_weight_gain"))
    lacking = []
    for t, (name, shape) in enumerate(shapes.items()):
        j = torch.arange(int(np.prod(shape)), dtype=torch.double) + 1
        values = torch.sin(1.37 * j + 0.61 * t) + 0.5 * torch.cos(0.0731 * j * (t + 1))
        values *= 0.05 if len(shape) == 1 else gain * (2 / np.prod(shape[1:])) ** 0.5
        ours = own_name(name, len(channels))
        if ours in own:
            own.pop(ours).data = values.view(shape)
        else:
            lacking.append((name, len(j)))
    assert not own
    return network, lacking


def own_name(name, levels):
    """``encoder.dconv_down2.3.weight`` is ``classifier.backbone.blocks.1.layers.1.conv.weight`` here."""
    part, layer, *rest = name.split(".")
    if layer == "fc":
        return f"classifier.head.{rest[-1]}"
    if layer == "conv_last":
        return f"output.conv.{rest[-1]}"
    convolution = CONVOLUTIONS.get(rest[0])
    if part == "encoder":
        return f"classifier.backbone.blocks.{int(layer[-1]) - 1}.{convolution}.{rest[-1]}"
    return f"decoder.{levels - 1 - int(layer[-1])}.{convolution}.{rest[-1]}" if layer[-1].isdigit() else ""


def test_the_whole_network_as_released(golden):
    g = golden(FILE)
    g.unused &= set(g.keys("full_"))
    network, lacking = released(g)
    sizes = [sum(parameter.numel() for parameter in part.parameters()) for part in (network.classifier, network)]
    g.compare("full_n_params_encoder", np.int64(sizes[0]))
    g.compare("full_n_params_decoder", np.int64(sizes[1] - sizes[0] + sum(size for _, size in lacking)))
    assert {name.split(".")[1] for name, _ in lacking} == {"conv_last_saliency"}  # which nothing calls

    images, seen = tensor(g.input("full_x")), {}
    deepest, first = network.classifier.backbone.blocks[-1], network.decoder[0]
    deepest.register_forward_hook(lambda m, i, output: seen.__setitem__("conv5", output))
    first.register_forward_pre_hook(lambda m, i: seen.__setitem__("bridge", i[0][:, -2 * images.shape[1] :]))
    with torch.no_grad():
        class_logits, mask_logits, saliency = network.eval().joint(images)
    g.compare("full_cls_logits", class_logits, atol=1e-8)
    g.compare("full_saliency", saliency, atol=1e-8)
    g.compare("full_bridge", seen["bridge"], atol=1e-8)
    g.compare("full_conv5_mean", seen["conv5"].flatten(2).mean(dim=2), atol=1e-8)
    g.compare("full_seg_logits", mask_logits[:, 1:], atol=1e-8)
    assert not mask_logits[:, 0].any()

    first.register_forward_pre_hook(lambda m, i: (without_saliency(i[0], images.shape[1]), *i[1:]))
    with torch.no_grad():
        blind = network(images)[:, 1:]
    g.compare("full_seg_logits_zero_saliency", blind, atol=1e-8)
    assert not torch.allclose(blind, mask_logits[:, 1:], atol=1e-3)


def without_saliency(features, channels):
    return F.pad(features[:, :-channels], [0, 0, 0, 0, 0, channels])


def test_the_whole_network_in_float32(golden):
    g = golden(FILE)
    g.unused = set()
    network, _ = released(g)
    with torch.no_grad():
        class_logits, mask_logits, saliency = network.float().eval().joint(tensor(g.input("full_x")).float())
    g.compare("full_cls_logits", class_logits, atol=1e-3)
    g.compare("full_saliency", saliency, atol=1e-3)
    g.compare("full_seg_logits", mask_logits[:, 1:], atol=1e-3)


class Logits(nn.Module):
    """Takes logits for images: those of classes as they are, of masks with the background's."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Identity()

    def forward(self, images):
        return two_classes(images)


class Released(nn.Module):
    """The released consistency, of the single logit."""

    def forward(self, labeled, unlabeled):
        return multimix_consistency(labeled[:, 1:], unlabeled[:, 1:])


def test_the_loss_of_the_method_as_released(golden):
    g = golden(FILE)
    g.unused = set()
    names = ("threshold", "lambda_u", "alpha_dice", "beta_kl")
    method = MultiMix(Logits(), *(float(g.input(name)) for name in names), consistency=Released())
    output = method(
        {
            "labeled": {"image": tensor(g.input("cls_logits_l")), "label": tensor(g.input("cls_labels"))},
            "unlabeled": {
                "weak": tensor(g.input("cls_logits_weak")),
                "strong": tensor(g.input("cls_logits_strong")),
            },
            "segmented": {
                "image": tensor(g.input("seg_logits")),
                "label": tensor(g.input("seg_target")).squeeze(1).long(),
            },
            "unsegmented": {"weak": tensor(g.input("seg_logits_unl"))},
        }
    )
    g.compare("ce", output["supervised"].double(), atol=1e-6)  # the step is in float32
    g.compare("unsup", output["unsupervised"].double(), atol=1e-6)
    g.compare("dice", output["masks"].double(), atol=1e-6)
    g.compare("total_official", output["loss"].double(), atol=1e-5)
    assert output["mask_rate"].item() == pytest.approx(float(np.mean(g.input("mask"))))
