"""MultiMix's network; against the released one in `parity/test_multimix`."""

import copy
import io

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import sliding_window_inference
from support import in_two_processes
from torch import nn
from torch.nn import functional as F

from medssl_monai.networks import EMATeacher, EmbeddingClassifier, MultiMixNetwork, export_joint, multimix_classifier

CASES = {  # arguments, an image, and the smallest side
    "2-D": ({}, (1, 16, 24), 8),
    "2-D, sides that cannot be halved": ({}, (1, 19, 13), 8),
    "2-D, colour and four classes of voxels": ({"in_channels": 3, "num_classes": 3, "mask_classes": 4}, (3, 8, 8), 8),
    "3-D": ({"spatial_dims": 3, "channels": (4, 6)}, (1, 8, 5, 4), 4),
    "without a bridge": ({"bridge": "none"}, (1, 16, 16), 8),
    "a later stage, group norm, a probability": (
        {"bridge_stage": 2, "norm": ("group", {"num_groups": 2}), "saliency_source": "pred_prob"},
        (1, 16, 16),
        8,
    ),
}


def tiny(seed=0, **kwargs):
    """Weights large enough that saliencies are, too."""
    torch.manual_seed(seed)
    network = MultiMixNetwork(**{"channels": (4, 6, 8), **kwargs})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def images_of(count=2, shape=(1, 16, 24), seed=1, dtype=torch.float32):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=CASES)
def case(request):
    arguments, shape, _ = CASES[request.param]
    return tiny(**arguments).eval(), images_of(shape=shape)


def count_passes(network):
    """How often each block of the encoder and each stage of the decoder runs, as it goes on."""
    counts = {}
    for part, blocks in (("encoder", network.classifier.backbone.blocks), ("decoder", network.decoder)):
        for number, block in enumerate(blocks):
            block.register_forward_hook(
                lambda m, i, o, key=(part, number): counts.__setitem__(key, counts.get(key, 0) + 1)
            )
    return lambda part: {count for (where, _), count in counts.items() if where == part}


# ---- every form ------------------------------------------------------------------------------------------------------


def test_published_sizes():
    network = MultiMixNetwork()
    encoder = sum(parameter.numel() for parameter in network.classifier.parameters())
    assert encoder == 1_178_994
    assert sum(parameter.numel() for parameter in network.parameters()) - encoder == 786_161
    assert network.decoder[0].layers[0].conv.in_channels == 386


@pytest.mark.parametrize("dims", [2, 3])
def test_trap_10_norms_fit_their_convolutions_and_hold_nothing(dims):
    """Each second norm of the released blocks is declared for another number of channels."""
    network = MultiMixNetwork(spatial_dims=dims, channels=(4, 6, 8))
    blocks = [*network.classifier.backbone.blocks, *network.decoder]
    convolutions = [convolution for block in blocks for convolution in block.layers]
    assert len(convolutions) == 2 * (3 + 2)
    for convolution in convolutions:
        norm = convolution.adn.N
        assert isinstance(norm, nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)
        assert norm.num_features == convolution.conv.out_channels
        assert [*norm.parameters(), *norm.buffers()] == []


def test_outputs_of_one_pass(case):
    network, images = case
    with torch.no_grad():
        class_logits, mask_logits, saliency = network.joint(images)
        embedding, same = network.with_embedding(images)
        assert torch.equal(network(images), mask_logits)
        assert torch.equal(same, mask_logits)
        assert torch.equal(network.embed(images), embedding)
        assert torch.equal(network.classifier(images), class_logits)
        assert torch.equal(network.classifier.head(embedding), class_logits)
    assert class_logits.shape == (2, network.num_classes)
    assert mask_logits.shape == (2, network.mask_classes, *images.shape[2:])
    assert not mask_logits[:, 0].any()
    assert bool((mask_logits[:, 1:].flatten(2).std(dim=2) > 0).all())
    assert (saliency is None) == (network.bridge == "none")
    if saliency is not None:
        assert saliency.shape == images.shape
        assert bool((saliency >= 0).all()) and bool((saliency.flatten(1).sum(dim=1) > 0).all())
    assert not any(part.requires_grad for part in (class_logits, mask_logits, saliency) if part is not None)


def test_gradients_reach_every_weight(case):
    network, images = case
    class_logits, mask_logits, _ = network.train().joint(images)
    (class_logits.square().sum() + mask_logits.square().sum()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(("arguments", "shape", "least"), CASES.values(), ids=CASES)
def test_images_must_fill_the_deepest_level(arguments, shape, least):
    network, dims = tiny(**arguments).eval(), len(shape) - 1
    with torch.no_grad():
        assert network(torch.rand(1, shape[0], *[least] * dims)).shape[2:] == (least,) * dims
        with pytest.raises(ValueError, match=rf"images of \[{least - 1}, .* whose sides must be at least {least}"):
            network(torch.rand(1, shape[0], least - 1, *[least] * (dims - 1)))


def test_a_volume_of_equal_slices_is_treated_as_its_slices():
    """Weights of 2-D in the middle of those of 3-D; what differs is the padding at both ends, and the score's scale."""
    flat, deep = (
        tiny(channels=(4, 6), bridge="none").eval(),
        tiny(channels=(4, 6), bridge="none", spatial_dims=3).eval(),
    )
    for two, three in zip(flat.parameters(), deep.parameters(), strict=True):
        three.data = torch.zeros_like(three) if three.ndim == 5 else two.data.clone()
        if three.ndim == 5:
            three.data[:, :, three.shape[2] // 2] = two.data
    images = images_of(shape=(1, 8, 12))
    with torch.no_grad():
        expected, found = flat(images), deep(images.unsqueeze(2).expand(-1, -1, 4, -1, -1))
    torch.testing.assert_close(found, expected.unsqueeze(2).expand_as(found), rtol=1e-4, atol=1e-5)


# ---- the saliency ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["max_logit", "pred_prob"])
def test_saliency_by_finite_differences(source):
    """Of each image by itself, at every pixel."""
    network = tiny(saliency_source=source, num_classes=3).double().eval()
    images, step = images_of(shape=(1, 8, 8), dtype=torch.double), 1e-6
    saliency = network.joint(images).saliency

    def score(image, chosen):
        logits = network.classifier(image)
        return (logits.softmax(dim=1) if source == "pred_prob" else logits)[:, chosen]

    with torch.no_grad():
        for image, found in zip(images, saliency, strict=True):
            chosen = int(network.classifier(image.unsqueeze(0)).argmax())
            moved = step * torch.eye(image.numel(), dtype=torch.double).view(-1, *image.shape)
            slope = (score(image + moved, chosen) - score(image - moved, chosen)) / (2 * step)
            torch.testing.assert_close(found, slope.abs().view_as(found), rtol=1e-4, atol=1e-7)


def test_saliency_between_0_and_1_on_request():
    images = images_of(3)
    images[2] = 0.5  # nothing stands out, but at the borders
    plain, scaled = (tiny(saliency_norm=norm).eval().joint(images).saliency for norm in ("none", "minmax"))
    low, high = (getattr(plain.flatten(1), name)(dim=1).view(-1, 1, 1, 1) for name in ("amin", "amax"))
    torch.testing.assert_close(scaled, (plain - low) / (high - low))
    silent = tiny(saliency_norm="minmax").eval()
    nn.init.zeros_(silent.classifier.head.weight)
    assert not silent.joint(images).saliency.any()  # and not 0 / 0


def test_two_evaluations_are_bit_identical_also_after_training():
    """Trap 2: the released network leaves evaluation with its first saliency."""
    network, images = tiny(), images_of()
    network.joint(images)
    network.eval()
    with torch.no_grad():
        first, second = network.joint(images), network.joint(images)
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
        network.classifier.backbone.blocks[0].dropout.p = 0.99
        assert torch.equal(network(images), first.mask_logits)


def test_modes_and_gradients_of_weights_stay_as_they_are():
    """Trap 3: the released network lets the score's gradients into the weights and then clears all of them."""
    network, images = tiny(), images_of()
    network.decoder[0].eval()
    network.classifier.backbone.blocks[1].eval()
    modes = {name: module.training for name, module in network.named_modules()}
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    network.joint(images)
    with torch.no_grad():
        network.joint(images)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(bool((parameter.grad == 7.0).all()) for parameter in network.parameters())
    assert images.grad is None and not images.requires_grad


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_the_saliency_is_of_a_pass_without_dropout_and_adds_no_other(mode, dropout):
    network, images = tiny(dropout=dropout).train(mode == "training"), images_of()
    with torch.no_grad():
        expected = copy.deepcopy(network).eval().joint(images)
    passes = count_passes(network)
    torch.manual_seed(5)
    found = network.joint(images)
    twice = mode == "training" and dropout > 0.0
    assert passes("encoder") == {2 if twice else 1} and passes("decoder") == {1}
    assert torch.equal(found.saliency, expected.saliency)
    assert torch.equal(found.class_logits, expected.class_logits) != twice
    torch.manual_seed(5)  # the pass of the saliency draws no random numbers
    assert torch.equal(network.classifier(images), found.class_logits)
    assert passes("decoder") == {1}


def test_without_a_bridge_there_is_one_pass():
    network = tiny(bridge="none")
    passes = count_passes(network)
    network.joint(images_of())
    assert passes("encoder") == passes("decoder") == {1}


def test_dropout_layers_alone_can_be_at_work():
    """As Monte-Carlo dropout of a query has it."""
    network, images = tiny(dropout=0.5).eval(), images_of()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    with torch.no_grad():
        first, second = network.joint(images), network.joint(images)
    assert torch.equal(first.saliency, second.saliency)
    assert not torch.equal(first.class_logits, second.class_logits)
    assert not torch.equal(first.mask_logits, second.mask_logits)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("detach", [True, False])
def test_what_the_masks_teach_the_saliency(dropout, detach):
    """The gradient with regard to the encoder's first weights, by finite differences, the saliency held or not."""
    network = tiny(dropout=dropout, saliency_detach=detach, channels=(3, 4)).double()
    images = images_of(shape=(1, 8, 8), dtype=torch.double)
    weight = network.classifier.backbone.blocks[0].layers[0].conv.weight
    held = network.joint(images).saliency.detach()

    def loss(saliency=None):
        torch.manual_seed(3)
        if saliency is not None:
            network.__dict__["_normalized"] = lambda _: saliency
        masks = network(images)[:, 1:].sigmoid().square().mean()
        network.__dict__.pop("_normalized", None)
        return masks

    (gradient,) = torch.autograd.grad(loss(), weight)
    slopes = torch.zeros_like(gradient).flatten()
    for position in range(slopes.numel()):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight.view(-1)[position] += step
                values.append(loss(held if detach else None))
                weight.view(-1)[position] -= step
        slopes[position] = (values[0] - values[1]) / 2e-6
    torch.testing.assert_close(gradient.flatten(), slopes, rtol=1e-3, atol=1e-8)
    if dropout == 0.0:
        other = tiny(dropout=dropout, saliency_detach=not detach, channels=(3, 4)).double()
        first = other.classifier.backbone.blocks[0].layers[0].conv.weight
        (different,) = torch.autograd.grad(other(images)[:, 1:].sigmoid().square().mean(), first)
        assert not torch.allclose(different, gradient, rtol=1e-2)


def test_gradients_with_regard_to_images_are_those_of_the_logits():
    """Also where one pass serves both."""
    network, images = tiny().eval(), images_of().requires_grad_()
    joint = network.joint(images)
    (gradient,) = torch.autograd.grad(joint.class_logits.max(dim=1).values.sum(), images)
    torch.testing.assert_close(gradient.abs(), joint.saliency)


def test_a_frozen_averaged_copy_predicts_as_its_student():
    network, images = tiny().eval(), images_of()
    teacher = EMATeacher(network)
    with torch.no_grad():
        assert torch.equal(teacher(images), network(images))
    assert not teacher.network.joint(images).mask_logits.requires_grad  # also where nobody turned gradients off


# ---- where gradients are off, precision low, images large ------------------------------------------------------------


def test_it_works_within_monais_evaluator_and_sliding_windows():
    network, images = tiny().eval(), images_of(shape=(1, 24, 24))
    expected = network(images).detach()
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": MetaTensor(images), "label": torch.zeros(2, 1, 24, 24)}],
        network=network,
        decollate=False,
    )
    network.train()
    evaluator.run()
    assert torch.equal(torch.as_tensor(evaluator.state.output["pred"]), expected)
    assert network.training  # MONAI puts it back

    network.eval()
    with torch.no_grad():
        windows = sliding_window_inference(images, (16, 24), 2, network, overlap=0.5)
        first, last = network(images[:, :, :16]), network(images[:, :, 8:])
    assert windows.shape == (2, 2, 24, 24)
    torch.testing.assert_close(windows[:, :, :8], first[:, :, :8])
    torch.testing.assert_close(windows[:, :, 16:], last[:, :, 8:])
    torch.testing.assert_close(windows[:, :, 8:16], (first[:, :, 8:] + last[:, :, :8]) / 2)


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_under_autocast_the_saliency_is_in_float32(mode):
    network, images = tiny().train(mode == "training"), images_of()
    expected = network.joint(images)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            found = network.joint(images.to(dtype))
        assert found.saliency.dtype == torch.float32
        if dtype == torch.float32:
            assert torch.equal(found.saliency, expected.saliency)
        else:
            torch.testing.assert_close(found.saliency, expected.saliency, rtol=0.2, atol=0.2)
        assert found.mask_logits.dtype == torch.bfloat16
        found.mask_logits.float().square().sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in network.decoder.parameters())


def test_inference_mode_is_refused_in_words():
    network, images = tiny().eval(), images_of()
    message = "needs the gradient of a score, which torch.inference_mode rules out; predict within torch.no_grad"
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match=message):
            network(images)
        assert network.classifier(images).shape == (2, 2)
        assert tiny(bridge="none").eval()(images).shape == (2, 2, 16, 24)
        foreign = images.clone()
    with torch.no_grad():
        with pytest.raises(RuntimeError, match=message):
            network(foreign)
        assert torch.equal(network(foreign.clone()), network(images))


# ---- deployment ------------------------------------------------------------------------------------------------------


def test_torchscript_is_refused_in_words():
    network, images = tiny().eval(), images_of()
    for attempt in (lambda: torch.jit.script(network), lambda: torch.jit.trace(network, images)):
        with pytest.raises(
            RuntimeError, match=r"TorchScript cannot hold this network, .* `network.classifier` scripted"
        ):
            attempt()
    with pytest.raises(RuntimeError, match="TorchScript cannot hold"):  # also as a part
        torch.jit.script(nn.Sequential(network))


def test_classifier_can_be_scripted_and_a_network_without_a_bridge_traced():
    network, images, other = tiny(bridge="none").eval(), images_of(), images_of(3, (1, 19, 32))
    with torch.no_grad():
        assert torch.equal(torch.jit.script(network.classifier)(other), network.classifier(other))
        with pytest.warns(torch.jit.TracerWarning):  # of the check of sizes, which a trace leaves out
            trace = torch.jit.trace(network, images)
        assert torch.equal(trace(other), network(other))


def test_without_a_bridge_torch_exports_for_all_sizes():
    network, images, other = tiny(bridge="none").eval(), images_of(), images_of(3, (1, 19, 32))
    sizes = {axis: torch.export.Dim(name, min=16, max=512) for axis, name in ((2, "rows"), (3, "columns"))}
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("images"), **sizes},))
    with torch.no_grad():
        torch.testing.assert_close(loaded(program)(other), network(other))


@pytest.mark.parametrize("bridge", ["concat", "none"])
def test_a_program_holds_the_bridge_and_needs_no_gradients(bridge):
    network, images, others = tiny(bridge=bridge), images_of(), images_of(seed=2)
    state = copy.deepcopy(network.state_dict())
    program = loaded(export_joint(network, images))
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    with torch.inference_mode():
        found = program(others)
    expected = [part for part in network.eval().joint(others) if part is not None]
    assert len(found) == len(expected) == (3 if bridge == "concat" else 2)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach())


def loaded(program):
    """After a way through a file."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


def test_weights_are_plain_and_complete(tmp_path):
    network, images = tiny().eval(), images_of()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    twin = tiny(seed=1).eval()
    twin.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(twin(images), network(images))


def test_the_classifier_alone_is_the_one_of_the_network():
    """Enc and EncSSL; its weights are those that the joint network has under `classifier`."""
    network, images = tiny(num_classes=3, in_channels=2), images_of(shape=(2, 9, 8))
    alone = multimix_classifier(3, 2, channels=(4, 6, 8))
    alone.load_state_dict(network.classifier.state_dict())
    assert isinstance(alone, EmbeddingClassifier)
    with torch.no_grad():
        assert torch.equal(alone.eval()(images), network.eval().joint(images).class_logits)
        assert alone.embed(images).shape == (2, 8)


# ---- several processes -----------------------------------------------------------------------------------------------

TWO_PROCESSES = """
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from networks.test_multimix import JointLoss, images_of, tiny

method = DistributedDataParallel(JointLoss(tiny(dropout=0.0)))
images = images_of(4)
for _ in range(2):
    method.zero_grad()
    method(images[2 * rank : 2 * rank + 2]).backward()
result = [parameter.grad.flatten().tolist() for parameter in method.parameters()]
"""


class JointLoss(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        class_logits, mask_logits, _ = self.network.joint(images)
        classes = torch.arange(len(images)) % 2
        return F.cross_entropy(class_logits, classes) + (mask_logits[:, 1] - images[:, 0]).square().mean()


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path):
    ranks = in_two_processes(TWO_PROCESSES, tmp_path)
    method = JointLoss(tiny(dropout=0.0))
    method(images_of(4)).backward()
    assert ranks[0] == ranks[1]
    for found, parameter in zip(ranks[0], method.parameters(), strict=True):
        torch.testing.assert_close(torch.tensor(found), parameter.grad.flatten(), rtol=1e-3, atol=1e-5)


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "`num_classes` must be at least 2, got 1"),
        ({"mask_classes": 1}, "counts the background, too, and must be at least 2, got 1; two classes are one learned"),
        ({"spatial_dims": 1}, "`spatial_dims` must be 2 or 3, got 1"),
        ({"channels": (4,)}, r"`channels` must be those of at least two levels, got \[4\]"),
        ({"bridge": "add"}, r"`bridge` must be one of \['concat', 'none'\], got 'add'"),
        ({"bridge_stage": 3}, "`bridge_stage` must be one of the 2 stages of the decoder, got 3"),
        ({"saliency_source": "logit"}, r"`saliency_source` must be one of \['max_logit', 'pred_prob'\], got 'logit'"),
        ({"saliency_norm": "l1"}, r"`saliency_norm` must be one of \['none', 'minmax'\], got 'l1'"),
        ({"norm": "batch"}, "`norm` 'batch' has running statistics, .* take 'instance' or 'group'"),
        ({"norm": ("instance", {"track_running_stats": True})}, "has running statistics"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)
