"""What holds for every method; a new one joins by a line in `methods.entries`. No test here names one."""

import copy

import pytest
import torch
from methods.entries import METHODS, head_of
from torch.nn.modules.batchnorm import _BatchNorm

from medssl_monai.data import ImageDataset
from medssl_monai.engines.evaluate import check_pseudo_labels
from medssl_monai.engines.predict import predict
from medssl_monai.kinds import Findings, Masks
from medssl_monai.networks import EMATeacher
from medssl_monai.pool import Labels
from medssl_monai.pool.outputs import PoolOutputs


def thinned(wanted=lambda entry: True):
    """The entries as parameters; those of a shape that another one has run with ``--all`` only."""
    return [
        pytest.param(entry, id=name, marks=[pytest.mark.every] if entry.every else [])
        for name, entry in METHODS.items()
        if wanted(entry)
    ]


@pytest.fixture(params=thinned())
def entry(request):
    return request.param


@pytest.fixture
def make(entry):
    """Builds the method anew, on a network of another seed."""
    return entry.method


@pytest.fixture
def method(make):
    return make()


@pytest.fixture
def batch(entry, method):
    return entry.batch(method)


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


def test_loss_is_a_finite_scalar_with_a_graph(method, batch):
    loss = method(batch)["loss"]
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    assert loss.requires_grad


def test_loss_is_float32_under_autocast(method, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch)["loss"]
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_forward_changes_no_state_but_batch_norm_statistics(method, batch):
    train(method, batch)
    before, steps = state_of(method), method.steps_done
    method(batch)
    assert_equal(before, state_of(method))
    assert method.steps_done == steps


def test_forward_leaves_the_batch_alone(entry, method, batch):
    method(batch)
    for name, stream in entry.batch(method).items():
        assert_equal(stream, batch[name])


def test_gradient_reaches_all_that_is_trained_and_no_teacher(entry, method, batch):
    method.steps_done = 1000  # past every ramp-up
    method(batch)["loss"].backward()
    trained = {id(p) for p in method.trainable_parameters()}
    teachers = [module for module in method.modules() if isinstance(module, EMATeacher)]
    frozen = [*teachers, *map(method.network.get_submodule, entry.frozen)]
    assert trained == {id(p) for p in method.parameters()} - {id(p) for part in frozen for p in part.parameters()}
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained), name


def test_no_target_sends_a_gradient_to_the_view_that_it_is_made_of(entry, method, batch):
    batch["unlabeled"]["weak"].requires_grad_()
    batch["unlabeled"]["strong"].requires_grad_()
    output = method(batch)
    sum(output[name] for name in entry.targets).backward()
    student, teacher = ("strong", "weak") if method.needs_strong_view else ("weak", "strong")
    assert batch["unlabeled"][teacher].grad is None
    learns_from_images = "unlabeled" in method.streams and output.get("mask_rate", torch.tensor(1.0)) > 0
    assert (batch["unlabeled"][student].grad is not None) == learns_from_images


def told(method):
    """Thresholds by part, as files have them."""
    return {part: threshold.plain() for part, threshold in method.thresholds().items()}


def test_state_dict_is_the_whole_state(make, batch):
    """A method of other weights that loads the state goes on as the first one does, bit for bit."""
    method, twin = make(seed=0), make(seed=1)
    train(method, batch)
    method.on_query(torch.tensor([5]), (3, 4))
    twin.load_state_dict(copy.deepcopy(method.state_dict()))
    assert twin.steps_done == method.steps_done == int(twin.step) == 2
    assert told(twin) == told(method)
    train(method, batch)
    train(twin, batch)
    assert_equal(method.state_dict(), twin.state_dict())


def test_state_is_plain_enough_for_a_safe_load(method, batch, tmp_path):
    train(method, batch)
    torch.save(method.state_dict(), tmp_path / "state.pt")
    assert_equal(method.state_dict(), torch.load(tmp_path / "state.pt", weights_only=True))


@pytest.mark.parametrize("sizes", [(1, 1), (1, 6), (5, 2)])
def test_batch_sizes_of_one_and_unequal_ones(entry, method, sizes):
    batch = entry.batch(method, *sizes)
    train(method, batch, steps=1)
    assert torch.isfinite(method(batch)["loss"])


def test_no_confident_sample_gives_a_loss_of_exactly_zero(entry, method, batch):
    entry.make_unsure(method)
    batch["unlabeled"]["strong"].requires_grad_()
    output = method(batch)
    output["loss"].backward(retain_graph=True)
    if "mask_rate" in output:
        assert output["mask_rate"] == 0
        assert output["unsupervised"] == 0
        expected = output["supervised"] + entry.rest(method, output)
        torch.testing.assert_close(output["loss"], expected, rtol=3e-7, atol=0)  # a sum in another order
        assert not torch.autograd.grad(output["unsupervised"], batch["unlabeled"]["strong"])[0].any()
    assert all(p.grad.isfinite().all() for p in method.trainable_parameters())


def test_every_sample_confident(entry, method, batch):
    entry.make_sure(method)
    output = method(batch)
    assert torch.isfinite(output["loss"])
    assert output.get("mask_rate", torch.tensor(1.0)) == 1


def test_teacher_stays_in_evaluation_mode_unless_asked_to_follow(method, batch):
    method.train()
    train(method, batch, steps=1)
    assert method.network.training
    if method.teacher is not None:
        assert {module.training for module in method.teacher.modules()} == {not method.teacher.always_eval}


def test_teacher_starts_from_weights_that_were_loaded_after_construction(make):
    method, other = make(), make(seed=7).network
    method.network.load_state_dict(other.state_dict())
    method.on_start()
    assert_equal(other.state_dict(), method.inference_network.state_dict())


def test_after_step_counts_once_and_leaves_the_student_alone(method, batch):
    output = {name: value.detach() for name, value in method(batch).items()}
    before = copy.deepcopy(method.network.state_dict())
    method.after_step(batch, output)
    assert (method.steps_done, int(method.step)) == (1, 1)
    assert_equal(before, method.network.state_dict())


def test_deployed_network_is_the_averaged_one(method, batch):
    train(method, batch)
    deployed = method.inference_network
    assert (deployed is method.network) == (method.teacher is None)
    if method.teacher is not None:
        pairs = zip(deployed.parameters(), method.network.parameters(), strict=True)
        weights = [pair for pair in pairs if pair[1].requires_grad and pair[1].ndim > 1]  # norms swallow biases
        assert weights and not any(torch.equal(average, own) for average, own in weights)


def test_the_thresholds_that_are_told_are_what_the_loss_compares_with(entry, method, batch):
    thresholds, output = method.thresholds(), method(batch)
    assert (entry.told is None) == (not thresholds) == ("mask_rate" not in output)
    assert thresholds.keys() <= method.kinds.keys()
    if entry.told is not None:
        low, high = entry.told[0] - 1e-6, entry.told[1] + 1e-6
        assert all(((t.values >= low) & (t.values <= high)).all() for t in thresholds.values())
        surely, perhaps = ((output["confidence"] >= bound).float().mean() for bound in (high, low))
        assert surely <= output["mask_rate"] + 1e-6 and output["mask_rate"] <= perhaps + 1e-6


def test_weight_decay_spares_biases_and_normalisation(method):
    decayed, spared = method.parameter_groups(weight_decay=5e-4)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(method.trainable_parameters()))


# ---- what works with a method ----------------------------------------------------------------------------------------

IMAGES = 6


def dataset_of(entry, kind):
    """Images whose labels are known and hidden; where a label is a file, there is none."""
    states = entry.form.labels(kind, IMAGES, torch.Generator().manual_seed(2))
    labels = [None if kind.cases is None else kind.label_of(row) for row in states]
    items = [
        {"image": f"{i}.png", "id": str(i), **({} if label is None else {"label": label})}
        for i, label in enumerate(labels)
    ]
    images = entry.form.images(IMAGES, torch.Generator().manual_seed(3))
    return ImageDataset(items, lambda item: {"image": images[int(item["id"])]}), Labels(items, known=0, kind=kind)


@pytest.mark.parametrize("sure", [True, False])
def test_queries_and_pseudo_label_checks_agree_with_what_the_learner_takes(entry, method, sure):
    """A sure learner doubts no image and accepts every pseudo-label; images with masks are always asked for."""
    (entry.make_sure if sure else entry.make_unsure)(method)
    for part, kind in method.kinds.items():
        dataset, labels = dataset_of(entry, kind)
        kept = predict(method.inference_network, dataset, "cpu", kind=kind, part=part).kept
        threshold, index = method.thresholds().get(part), torch.arange(IMAGES)
        outputs = PoolOutputs(index, index < 0, kept, kind, threshold=threshold, key=part)
        wholes = kind.cases is not None
        assert outputs.doubtful.tolist() == [not (sure and wholes and threshold is not None)] * IMAGES
        if threshold is not None:
            found = check_pseudo_labels(method.inference_network, dataset, labels, "cpu", threshold)
            assert bool(found) == wholes
            assert not wholes or found["accepted"] == (found.get("pairs", found["unlabeled"]) if sure else 0)
            assert ("accuracy" in found) == (sure and wholes)


# ---- findings and masks ----------------------------------------------------------------------------------------------


@pytest.fixture(params=thinned(lambda entry: isinstance(entry.form.kind, Findings)))
def of_findings(request):
    return request.param


def supervised(output):
    return output.get("supervised", output["loss"])


def test_unknown_findings_have_no_gradient(of_findings):
    """The last finding is known of one labeled image; without that it has no part in the labeled loss."""
    method = of_findings.method()
    batch = of_findings.batch(method)
    for known in (True, False):
        batch["labeled"]["label"] = torch.tensor([[1, 0, -1], [0, 1, 1 if known else -1], [-1, -1, -1]])
        bias = head_of(method.network).bias
        (gradient,) = torch.autograd.grad(supervised(method(batch)), bias)
        assert (gradient != 0).tolist() == [True, True, known]


def test_findings_differ_from_classes_in_the_shape_of_their_state_only(of_findings):
    """Pairs have their own confidence; what is a scalar for the log stays one."""
    method = of_findings.method()
    batch = of_findings.batch(method)
    train(method, batch)
    output = method(batch)
    assert output["loss"].ndim == 0
    if "mask_rate" in output:
        assert output["confidence"].shape == (5, 3)
        assert (output["confidence"] >= 0.5).all()
        assert 0 <= output["mask_rate"] <= 1


@pytest.fixture(params=thinned(lambda entry: isinstance(entry.form.kind, Masks)))
def of_masks(request):
    return request.param


@pytest.mark.parametrize("of", thinned(lambda entry: isinstance(entry.form.kind, Findings | Masks)))
def test_labeled_images_of_which_nothing_is_known_have_a_loss_of_exactly_zero(of):
    method = of.method()
    batch = of.batch(method)
    batch["labeled"]["label"].fill_(-1)
    output = method(batch)
    assert supervised(output) == 0
    output["loss"].backward()
    assert torch.isfinite(output["loss"])
    assert all(p.grad.isfinite().all() for p in method.trainable_parameters())


def test_masks_are_learnt(of_masks):
    """Bright voxels are class 2: a few steps with labels suffice."""
    method = of_masks.method()
    batch = of_masks.batch(method)
    batch["unlabeled"]["strong"] = batch["unlabeled"]["weak"]  # in the same place, as views are
    batch["labeled"]["label"] = 2 * (batch["labeled"]["image"][:, 0] > 0.5).long()
    before = supervised(method(batch)).item()
    train(method, batch, steps=60)
    assert supervised(method(batch)).item() < 0.7 * before
