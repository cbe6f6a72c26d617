"""What holds for every method; a new one joins by a line in `METHODS`."""

import copy
from functools import partial

import pytest
import torch
from methods.test_multimix import CONFIGURATIONS, weights_of
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from medssl_monai.losses import DistributionAlignment, QueueAlignment
from medssl_monai.methods import (
    IPH,
    S2MTS2,
    TEAR,
    AdaPL,
    AdaptiveThreshold,
    BoostMIS,
    CrossPseudoSupervision,
    FixMatch,
    MeanTeacher,
    MultiMix,
    Restoration,
    Supervised,
)
from medssl_monai.networks import MultiMixNetwork, small_resnet


def alignment(target=(0.35, 0.35, 0.3), **kwargs):
    return DistributionAlignment(list(target), decay=0.9, **kwargs)


def threshold(**kwargs):
    return AdaptiveThreshold(
        **{"num_samples": 12, "num_classes": 3, "alpha": 0.3, "beta": 0.1, "minimum": 0.0, **kwargs}
    )


def adapl(previous, **kwargs):
    return AdaPL(num_samples=12, num_classes=3, previous=previous, **kwargs)


def tear(net, **kwargs):
    return TEAR(net, **{"threshold": 0.4, "decay": 0.9, **kwargs})


FINDINGS = {
    "supervised": lambda net, **kw: Supervised(net, decay=0.9, **kw),
    "fixmatch": lambda net, **kw: FixMatch(net, threshold=0.52, decay=0.9, **kw),
    "fixmatch, by finding and state": lambda net, **kw: FixMatch(net, [0.52, 0.51, 0.51], absence_threshold=0.52, **kw),
    "fixmatch, aligned": lambda net, **kw: FixMatch(
        net, threshold=0.52, alignment=alignment((0.5, 0.5, 0.49), **kw), **kw
    ),
    "mean_teacher": lambda net, **kw: MeanTeacher(net, decay=0.9, **kw),
    "boostmis": lambda net, **kw: BoostMIS(net, threshold(alpha=0.42, **kw), decay=0.9, **kw),
    "boostmis, per batch, soft and aligned": lambda net, **kw: BoostMIS(
        net,
        threshold(alpha=0.42, scope="batch", **kw),
        normalization="selected",
        temperature=0.5,
        alignment=alignment((0.5, 0.5, 0.49), **kw),
        **kw,
    ),
    "s2mts2": lambda net, **kw: S2MTS2(net, ramp_steps=3, decay=0.9, **kw),
    "tear, adapl of a snapshot": lambda net, **kw: tear(
        net, threshold=0.52, adapl=adapl("snapshot", discrepancy="kl", minimum_weight=0.75, **kw), **kw
    ),
    "tear, adapl of a bank": lambda net, **kw: tear(
        net, threshold=0.52, adapl=adapl("bank", relaxation="sigmoid", minimum_weight=0.75, **kw), **kw
    ),
    "tear, all": lambda net, **kw: tear(
        net,
        threshold=0.52,
        alignment=QueueAlignment(3, labeled_target=True, **kw),
        adapl=adapl("ema", history_decay=0.5, minimum_weight=0.75, **kw),
        iph=IPH(2),
        ramp_steps=3,
        absence_threshold=[0.51, 0.52, 0.52],
        **kw,
    ),
}
"""What learns findings, too; a new method joins by a line here."""

MASKS = {
    "supervised": lambda net, **kw: Supervised(net, decay=0.9, **kw),
    "fixmatch": lambda net, **kw: FixMatch(net, threshold=0.4, decay=0.9, **kw),
    "mean_teacher": lambda net, **kw: MeanTeacher(net, decay=0.9, **kw),
    "cross pseudo supervision": lambda net, **kw: CrossPseudoSupervision(net, decay=0.9, **kw),
    "cross pseudo supervision, pre-trained": lambda net, **kw: CrossPseudoSupervision(net, reset="last", **kw),
}
"""What learns masks, too; a new method joins by a line here."""

JOINT = {
    f"{baseline} on {form}": (bridge, {**weights_of(baseline), **options})
    for form, options in {
        "2-D classes and masks": {"threshold": 0.4, "decay": 0.9},
        "3-D classes and masks": {"threshold": 0.4},
        "2-D masks and findings": {"threshold": 0.52, "decay": 0.9, "task": "multilabel"},
        "3-D masks and findings": {"threshold": [0.52, 0.51, 0.51], "task": "multilabel"},
    }.items()
    for baseline, (_, bridge, _) in CONFIGURATIONS.items()
    if not (baseline == "U-Net" and "findings" in form)  # it learns neither classes nor findings
}
"""What learns classes or findings and masks, by one network; its bridge and arguments."""

ONE_FORM_EACH = {
    forms[turn % len(forms)]
    for turn, baseline in enumerate(CONFIGURATIONS)
    for forms in [[name for name in JOINT if name.startswith(f"{baseline} on ")]]
}
"""Every baseline once and every form at least once: pairs enough for a default run."""

NOT_LEARNED = {"Enc": ("decoder", "output"), "EncSSL": ("decoder", "output"), "U-Net": ("classifier.head",)}
"""Parts of the network that have nothing to learn from."""

METHODS = {
    "supervised": lambda net: Supervised(net, decay=0.9),
    "fixmatch": lambda net: FixMatch(net, threshold=0.4, decay=0.9),
    "fixmatch, student only": lambda net: FixMatch(net, threshold=0.4, decay=None),
    "fixmatch, aligned": lambda net: FixMatch(net, threshold=0.4, alignment=alignment()),
    "mean_teacher": lambda net: MeanTeacher(net, decay=0.9),
    "cross pseudo supervision": lambda net: CrossPseudoSupervision(net, decay=0.9),
    "boostmis": lambda net: BoostMIS(net, threshold(), decay=0.9),
    "boostmis, per batch": lambda net: BoostMIS(net, threshold(scope="batch"), normalization="selected"),
    "boostmis, soft and aligned": lambda net: BoostMIS(net, threshold(), temperature=0.5, alignment=alignment()),
    "s2mts2": lambda net: S2MTS2(net, ramp_steps=3, decay=0.9),
    "s2mts2, as released but for the view": lambda net: S2MTS2(net, 3, teacher_bn="train", shared_view=False),
    "tear, plain": lambda net: tear(net),
    "tear, aligned": lambda net: tear(net, alignment=QueueAlignment(3, length=3)),
    "tear, aligned to the labeled": lambda net: tear(net, alignment=QueueAlignment(3, labeled_target=True)),
    "tear, adapl of the teacher": lambda net: tear(net, adapl=adapl("ema", history_decay=0.5)),
    "tear, adapl of a snapshot": lambda net: tear(net, adapl=adapl("snapshot", discrepancy="kl", gamma=4.0)),
    "tear, adapl of a bank": lambda net: tear(net, adapl=adapl("bank", discrepancy="tv", relaxation="sigmoid")),
    "tear, iph shared": lambda net: tear(net, iph=IPH(2)),
    "tear, iph matched": lambda net: tear(net, iph=IPH(2, "matched", interval=2)),
    "tear, all": lambda net: tear(
        net, alignment=QueueAlignment(3), adapl=adapl("ema", history_decay=0.5), iph=IPH(2), ramp_steps=3
    ),
    **{f"{name}, findings": partial(make, task="multilabel") for name, make in FINDINGS.items()},
    **{f"{name}, 2-D masks": partial(make, task="segmentation") for name, make in MASKS.items()},
    **{f"{name}, 3-D masks": partial(make, task="segmentation") for name, make in MASKS.items()},
    "restoration, networks for 2-D masks": lambda net: Restoration(net),
    "restoration, networks for 3-D masks": lambda net: Restoration(net),
    **{name: partial(MultiMix, **arguments) for name, (_, arguments) in JOINT.items()},
}


class Segmenter(nn.Module):
    """Two layers that keep the size of the image."""

    def __init__(self, dims):
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.backbone = nn.Sequential(convolution(1, 4, 3, padding=1), norm(4), nn.ReLU())
        self.head = convolution(4, 3, 1)

    def forward(self, images):
        return self.head(self.backbone(images))


def network(seed=0, name=""):
    torch.manual_seed(seed)
    dims = 2 if "2-D" in name else 3
    if name in JOINT:
        channels = (2, 4, 6) if dims == 2 else (2, 4)
        return MultiMixNetwork(3, 3, spatial_dims=dims, channels=channels, dropout=0.0, bridge=JOINT[name][0])
    return Segmenter(dims) if name.endswith("masks") else small_resnet(num_classes=3, width=2)


def head_of(network):
    """The last layer of a classifier, or of a network for masks."""
    return getattr(network, "classifier", network).head


def thinned(names):
    """The names as parameters; the joint methods on forms that another one covers run with ``--all`` only."""
    rest = JOINT.keys() - ONE_FORM_EACH
    return [pytest.param(name, marks=pytest.mark.every) if name in rest else name for name in names]


@pytest.fixture(params=thinned(METHODS))
def make(request):
    """Builds the method anew, on a network of another seed."""
    return lambda seed=0: METHODS[request.param](network(seed, request.param))


@pytest.fixture
def method(make):
    return make()


def make_batch(method, labeled=3, unlabeled=5):
    """Every stream, whether the method reads it or not; of masks as many labeled as there are unlabeled of classes."""
    g = torch.Generator().manual_seed(1)
    size = (6, 5, 4) if max(p.ndim for p in method.network.parameters()) == 5 else (16, 16)

    def images(n):
        return torch.rand(n, 1, *size, generator=g)

    label = torch.arange(labeled) % 3
    if method.task == "segmentation":
        label = torch.randint(-1, 3, (labeled, *size), generator=g)
    if method.task == "multilabel":
        label = torch.tensor([[1, 0, -1], [0, 1, 1], [-1, -1, -1]])[label]
    batch = {
        "labeled": {"image": images(labeled), "label": label, "index": torch.arange(labeled)},
        "unlabeled": {"weak": images(unlabeled), "strong": images(unlabeled), "index": torch.arange(unlabeled) + 4},
    }
    if "masked" in method.streams:
        mask = torch.randint(-1, 3, (unlabeled, *size), generator=g)
        batch["masked"] = {"image": images(unlabeled), "label": mask, "index": torch.arange(unlabeled)}
        batch["unmasked"] = {"weak": images(labeled), "index": torch.arange(labeled) + 6}
    if isinstance(method, Restoration):  # of its own pair of views; the networks here have three outputs
        weak, strong = batch["unlabeled"]["weak"], batch["unlabeled"]["strong"]
        batch["unlabeled"] |= {"distorted": strong, "image": weak.detach().expand(-1, 3, *size)}
    return batch


def state_of(method):
    """Everything but the statistics of batch-norm layers in training mode, which a forward pass moves."""
    state = copy.deepcopy(dict(method.state_dict()))
    moved = {
        f"{name}.{buffer}"
        for name, module in method.named_modules()
        if isinstance(module, _BatchNorm) and module.training
        for buffer, _ in module.named_buffers()
    }
    return {key: value for key, value in state.items() if key not in moved}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=0, atol=0, equal_nan=True, msg=key)


def train(method, batch, steps=2):
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.1)
    for _ in range(steps):
        method.train()
        optimizer.zero_grad()
        output = method(batch)
        output["loss"].backward()
        optimizer.step()
        method.after_step(batch, {name: value.detach() for name, value in output.items()})


def test_loss_is_a_finite_scalar_with_a_graph(method):
    loss = method(make_batch(method))["loss"]
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    assert loss.requires_grad


def test_loss_is_float32_under_autocast(method):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(make_batch(method))["loss"]
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_forward_changes_no_state_but_batch_norm_statistics(method):
    train(method, make_batch(method))
    before, steps = state_of(method), method.steps_done
    method(make_batch(method))
    assert_equal(before, state_of(method))
    assert method.steps_done == steps


def test_forward_leaves_the_batch_alone(method):
    batch = make_batch(method)
    method(batch)
    for name, stream in make_batch(method).items():
        assert_equal(stream, batch[name])


def test_gradient_reaches_all_that_is_trained_and_no_teacher(method, request):
    method.steps_done = 1000  # past every ramp-up
    method(make_batch(method))["loss"].backward()
    baseline = request.node.callspec.params["make"].split(" on ")[0]
    trained = {id(p) for p in method.trainable_parameters()}
    students = [method.network, *([method.second] if hasattr(method, "second") else [])]
    idle = [method.network.get_submodule(part) for part in NOT_LEARNED.get(baseline, ())]
    idle = {id(p) for part in idle for p in part.parameters()}
    assert trained == {id(p) for student in students for p in student.parameters()} - idle
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained), name


def test_no_target_sends_a_gradient_to_the_weak_branch(method):
    """All but `IPH`, which compares features of weak views, and students that see the weak view themselves."""
    batch = make_batch(method)
    batch["unlabeled"]["weak"].requires_grad_()
    batch["unlabeled"]["strong"].requires_grad_()
    output = method(batch)
    loss = output["supervised"] + output["unsupervised"] if "prototype" in output else output["loss"]
    loss.backward()
    student, teacher = ("strong", "weak") if method.needs_strong_view else ("weak", "strong")
    assert batch["unlabeled"][teacher].grad is None
    learns_from_images = "unlabeled" in method.streams and output.get("mask_rate", torch.tensor(1.0)) > 0
    assert (batch["unlabeled"][student].grad is not None) == learns_from_images


def test_state_dict_is_the_whole_state(make):
    """A method of other weights that loads the state goes on as the first one does, bit for bit."""
    method, twin = make(seed=0), make(seed=1)
    batch = make_batch(method)
    train(method, batch)
    method.on_query(torch.tensor([5]), (3, 4))
    twin.load_state_dict(copy.deepcopy(method.state_dict()))
    assert twin.steps_done == method.steps_done == int(twin.step) == 2
    assert twin.confidence_threshold == method.confidence_threshold
    train(method, batch)
    train(twin, batch)
    assert_equal(method.state_dict(), twin.state_dict())


def test_state_is_plain_enough_for_a_safe_load(method, tmp_path):
    train(method, make_batch(method))
    torch.save(method.state_dict(), tmp_path / "state.pt")
    assert_equal(method.state_dict(), torch.load(tmp_path / "state.pt", weights_only=True))


@pytest.mark.parametrize("sizes", [(1, 1), (1, 6), (5, 2)])
def test_batch_sizes_of_one_and_unequal_ones(method, sizes):
    batch = make_batch(method, *sizes)
    train(method, batch, steps=1)
    assert torch.isfinite(method(batch)["loss"])


def test_no_confident_sample_gives_a_loss_of_exactly_zero(method):
    head = head_of(method.network)
    nn.init.zeros_(head.weight)  # 1/3 for every class and 1/2 for a finding are below each threshold
    nn.init.zeros_(head.bias)
    batch = make_batch(method)
    batch["unlabeled"]["strong"].requires_grad_()
    output = method(batch)
    output["loss"].backward(retain_graph=True)
    if "mask_rate" in output:
        assert output["mask_rate"] == 0
        assert output["unsupervised"] == 0
        # prototypes do not ask for confidence, and those of labeled images share a pass with the strong views
        rest = method.ramp(0) * method.iph.weight * output["prototype"] if "prototype" in output else 0.0
        if isinstance(method, MultiMix):
            rest = sum(method.weights[name] * output[name] for name in ("masks", "consistency") if name in output)
        torch.testing.assert_close(output["loss"], output["supervised"] + rest, rtol=1e-7, atol=0)
        assert not torch.autograd.grad(output["unsupervised"], batch["unlabeled"]["strong"])[0].any()
    assert all(p.grad.isfinite().all() for p in method.trainable_parameters())


def test_every_sample_confident(method):
    head = head_of(method.network)
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([100.0, 0.0, 0.0])
    assert torch.isfinite(method(make_batch(method))["loss"])


def test_teacher_stays_in_evaluation_mode_unless_asked_to_follow(method):
    method.train()
    train(method, make_batch(method), steps=1)
    assert method.network.training
    if method.teacher is not None:
        assert {module.training for module in method.teacher.modules()} == {not method.teacher.always_eval}


def test_teacher_starts_from_weights_that_were_loaded_after_construction(make):
    method, other = make(), make(seed=7).network
    method.network.load_state_dict(other.state_dict())
    method.on_start()
    assert_equal(other.state_dict(), method.inference_network.state_dict())


def test_after_step_counts_once_and_leaves_the_student_alone(method):
    batch = make_batch(method)
    output = {name: value.detach() for name, value in method(batch).items()}
    before = copy.deepcopy(method.network.state_dict())
    method.after_step(batch, output)
    assert (method.steps_done, int(method.step)) == (1, 1)
    assert_equal(before, method.network.state_dict())


def test_deployed_network_is_the_averaged_one(method):
    train(method, make_batch(method))
    deployed = method.inference_network
    assert (deployed is method.network) == (method.teacher is None)
    if method.teacher is not None:
        pairs = zip(deployed.parameters(), method.network.parameters(), strict=True)
        weights = [pair for pair in pairs if pair[1].requires_grad and pair[1].ndim > 1]  # norms swallow biases
        assert weights and not any(torch.equal(average, own) for average, own in weights)


def test_confidence_threshold_is_what_the_loss_compares_with(method):
    value = method.confidence_threshold
    if value is not None:
        values = torch.tensor(value)
        expected = 0.515 if method.task == "multilabel" else 0.4
        assert ((values - expected).abs() < (0.0051 if method.task == "multilabel" else 1e-6)).all()
    assert (value is None) == ("mask_rate" not in method(make_batch(method)))


def test_weight_decay_spares_biases_and_normalisation(method):
    decayed, spared = method.parameter_groups(weight_decay=5e-4)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(method.trainable_parameters()))


# ---- findings --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=thinned(name for name in METHODS if name.endswith("findings")))
def of_findings(request):
    return METHODS[request.param](network(name=request.param))


def supervised(output):
    return output.get("supervised", output["loss"])


def test_unknown_findings_have_no_gradient(of_findings):
    """The last finding is known of one labeled image; without that it has no part in the labeled loss."""
    batch = make_batch(of_findings)
    for known in (True, False):
        batch["labeled"]["label"][1, 2] = 1 if known else -1
        bias = head_of(of_findings.network).bias
        (gradient,) = torch.autograd.grad(supervised(of_findings(batch)), bias)
        assert (gradient != 0).tolist() == [True, True, known]


def test_labeled_images_of_which_nothing_is_known_have_a_loss_of_exactly_zero(of_findings):
    batch = make_batch(of_findings)
    batch["labeled"]["label"].fill_(-1)
    output = of_findings(batch)
    assert supervised(output) == 0
    output["loss"].backward()
    assert torch.isfinite(output["loss"])
    assert all(p.grad.isfinite().all() for p in of_findings.trainable_parameters())


@pytest.fixture(params=MASKS)
def of_masks(request):
    return MASKS[request.param](network(name="2-D masks"), task="segmentation")


def test_masks_of_which_nothing_is_known_have_a_loss_of_exactly_zero(of_masks):
    batch = make_batch(of_masks)
    batch["labeled"]["label"].fill_(-1)
    output = of_masks(batch)
    assert supervised(output) == 0
    output["loss"].backward()
    assert torch.isfinite(output["loss"])
    assert all(p.grad.isfinite().all() for p in of_masks.trainable_parameters())


def test_masks_are_learnt(of_masks):
    """Bright voxels are class 2: a few steps with labels suffice."""
    batch = make_batch(of_masks)
    batch["unlabeled"]["strong"] = batch["unlabeled"]["weak"]  # in the same place, as views are
    batch["labeled"]["label"] = 2 * (batch["labeled"]["image"][:, 0] > 0.5).long()
    before = supervised(of_masks(batch)).item()
    train(of_masks, batch, steps=60)
    assert supervised(of_masks(batch)).item() < 0.7 * before


def test_findings_differ_from_classes_in_the_shape_of_their_state_only(of_findings):
    """Pairs have their own confidence; what is a scalar for the log stays one."""
    batch = make_batch(of_findings)
    train(of_findings, batch)
    output = of_findings(batch)
    assert output["loss"].ndim == 0
    if "mask_rate" in output:
        assert output["confidence"].shape == (5, 3)
        assert (output["confidence"] >= 0.5).all()
        assert 0 <= output["mask_rate"] <= 1
        assert float(15 * output["mask_rate"]) == pytest.approx(round(float(15 * output["mask_rate"])), abs=1e-4)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match=r"`task` must be one of \('multiclass', .*\), got 'binary'"):
        Supervised(network(), task="binary")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("alignment", lambda net: FixMatch(net, alignment=alignment(), task="multilabel")),
        ("alignment", lambda net: FixMatch(net, alignment=alignment(task="multilabel"))),
        ("threshold", lambda net: BoostMIS(net, threshold(), task="multilabel")),
        ("alignment", lambda net: BoostMIS(net, threshold(), alignment=alignment(task="multilabel"))),
        ("adapl", lambda net: tear(net, adapl=adapl("ema"), task="multilabel")),
        ("alignment", lambda net: tear(net, alignment=QueueAlignment(3), task="multilabel")),
    ],
)
def test_parts_for_another_task_are_refused(name, make):
    with pytest.raises(ValueError, match=rf"`{name}` is made for the task .*; give both the same `task`"):
        make(network())
