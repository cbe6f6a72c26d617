"""S2MTS2: contrastive pre-training, then a mean teacher for classes or findings."""

import copy
import math

import pytest
import torch
from support import assert_same_state, in_two_processes
from torch import nn
from torch.nn import functional as F

from medssl_monai.kinds import Classes, Findings
from medssl_monai.losses import joint_contrastive_loss
from medssl_monai.methods import S2MTS2, JointContrastive
from medssl_monai.networks import (
    MomentumEncoder,
    ProjectedClassifier,
    ProjectionNetwork,
    load_weights,
    prepare_network,
    small_resnet,
)
from medssl_monai.transforms import Affine, KeyViews

SHAPES = {"2-D": (1, 16, 16), "3-D": (1, 8, 8, 8)}


def network(seed=0, dims=2, classes=2):
    torch.manual_seed(seed)
    return small_resnet(classes, spatial_dims=dims, width=2)


def stage_a(seed=0, dims=2, **kwargs):
    return JointContrastive(
        ProjectionNetwork(network(seed, dims), dim=4), **{"ramp_steps": 10, "queue_length": 6, **kwargs}
    )


def stage_b(net=None, seed=0, **kwargs):
    return S2MTS2(net or network(seed), **{"ramp_steps": 30, "decay": 0.9, **kwargs})


def key_batch(images=4, keys=3, shape=SHAPES["2-D"], seed=0):
    g = torch.Generator().manual_seed(seed)
    query = torch.rand(images, *shape, generator=g)
    noise = 0.3 * torch.rand(images, keys, *shape, generator=g)
    return {"unlabeled": {"query": query, "keys": query.unsqueeze(1) + noise, "index": torch.arange(images)}}


def class_batch(seed=0, kind=None):
    g = torch.Generator().manual_seed(seed)
    image, weak, strong = torch.rand(3, 4, 1, 16, 16, generator=g)
    label = torch.tensor([0, 1, 1, 0])
    if isinstance(kind, Findings):
        label = torch.tensor([[1, 0], [0, -1], [1, 1], [-1, -1]])
    return {"labeled": {"image": image, "label": label}, "unlabeled": {"weak": weak, "strong": strong}}


def train(method, batch, steps=2, rate=0.1):
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=rate)
    outputs = []
    for _ in range(steps):
        method.train()
        optimizer.zero_grad()
        outputs.append(method(batch))
        outputs[-1]["loss"].backward()
        optimizer.step()
        method.after_step(batch, {name: value.detach() for name, value in outputs[-1].items()})
    return outputs


# ---- stage A ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_pre_training_learns_to_find_an_image_s_own_keys(dims):
    method = stage_a(dims=dims, strength=0.5, temperature=0.2, queue_length=8)
    batch = key_batch(8, 2, SHAPES[f"{dims}-D"])
    outputs = train(method, batch, steps=25, rate=0.05)
    assert outputs[-1]["infonce"] < outputs[1]["infonce"]
    assert all(output["loss"].isfinite() for output in outputs)


def test_loss_is_that_of_normalised_queries_against_the_queue():
    method, batch = stage_a(temperature=0.2, strength=2.0).eval(), key_batch()
    method.steps_done = 3
    output = method(batch)
    with torch.no_grad():
        query = F.normalize(method.network(batch["unlabeled"]["query"]), dim=1)
        keys = torch.stack([F.normalize(method.key(views), dim=1) for views in batch["unlabeled"]["keys"]])
    terms = joint_contrastive_loss(query, keys, method.queue.keys, 0.2, 2.0 * 4 / 10)
    torch.testing.assert_close(output["loss"], terms.losses.mean())
    torch.testing.assert_close(output["loss"], output["infonce"] + output["spread"])
    torch.testing.assert_close(output["mean_key"], keys.mean(1))
    assert output["found"] == (terms.positive > terms.negative.amax(1)).float().mean()


@pytest.mark.parametrize(("step", "strength"), [(0, 0.2), (4, 1.0), (9, 2.0), (50, 2.0)])
def test_strength_rises_to_its_full_value_within_the_ramp(step, strength):
    assert stage_a(strength=2.0).strength(step + 1) == pytest.approx(strength)
    ramped, constant = stage_a(strength=2.0), stage_a(strength=strength, ramp_steps=1)
    ramped.steps_done = step
    torch.testing.assert_close(ramped.eval()(key_batch())["loss"], constant.eval()(key_batch())["loss"])


def test_queue_takes_mean_keys_after_the_step_and_never_contrasts_with_the_present_ones():
    method, batch = stage_a(queue_length=6), key_batch(4)
    before = method.queue.keys.clone()
    method.train()
    output = method(batch)
    assert torch.equal(method.queue.keys, before)
    assert int(method.queue.pointer) == 0
    method.after_step(batch, {name: value.detach() for name, value in output.items()})
    assert torch.equal(method.queue.keys[:4], output["mean_key"])
    assert torch.equal(method.queue.keys[4:], before[4:])
    assert int(method.queue.pointer) == 4
    assert (output["mean_key"].norm(dim=1) < 1.0).all()  # not brought to unit length again
    train(method, batch, steps=1)
    assert int(method.queue.pointer) == 2  # 8 modulo 6: the length need not be a multiple of the batch


def test_mean_keys_may_be_brought_to_unit_length():
    output = stage_a(renormalise=True)(key_batch())
    torch.testing.assert_close(output["mean_key"].norm(dim=1), torch.ones(4))


def test_key_network_follows_by_its_parameters_alone():
    """Its BatchNorm statistics are from its own images, neither averaged with the query network's nor copied."""
    method, batch = stage_a(key_decay=0.75), key_batch()
    start = copy.deepcopy(method.key.network)
    train(method, batch, steps=1)
    for old, new, query in zip(
        start.parameters(), method.key.network.parameters(), method.network.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * query)
    own = start.train()
    own(batch["unlabeled"]["keys"].flatten(0, 1))
    for name, value in own.named_buffers():
        torch.testing.assert_close(method.key.network.get_buffer(name), value)
    name = "backbone.bn1.running_mean"
    assert not torch.equal(method.network.get_buffer(name), method.key.network.get_buffer(name))


def test_key_network_sees_the_weights_that_the_released_code_gives_it():
    """There the update comes before each forward pass, here after each step: the same keys, from the first one on."""
    method, batch = stage_a(key_decay=0.5), key_batch()
    theirs = MomentumEncoder(copy.deepcopy(method.network), 0.5)
    for _ in range(3):
        theirs.update(method.network, 0)
        for mine, other in zip(method.key.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other)
        train(method, batch, steps=1)


def test_key_network_takes_no_gradient_and_the_whole_query_network_does():
    method = stage_a()
    method(key_batch())["loss"].backward()
    assert all(parameter.grad is not None for parameter in method.network.parameters())
    assert all(parameter.grad is None for parameter in method.key.parameters())
    assert {id(p) for p in method.trainable_parameters()} == {id(p) for p in method.network.parameters()}


def test_forward_of_stage_a_changes_batch_norm_statistics_alone():
    method, batch = stage_a(), key_batch()
    train(method, batch)

    def state():
        return {k: v.clone() for k, v in method.state_dict().items() if "running" not in k and "tracked" not in k}

    before, views = state(), copy.deepcopy(batch)
    method(batch)
    assert_same_state(before, state())
    assert_same_state(batch, views)
    assert method.steps_done == 2


def test_state_dict_of_stage_a_is_its_whole_state(tmp_path):
    method, twin, batch = stage_a(), stage_a(seed=1), key_batch()
    train(method, batch)
    torch.save(method.state_dict(), tmp_path / "state.pt")
    twin.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert twin.steps_done == 2
    train(method, batch)
    train(twin, batch)
    assert_same_state(method.state_dict(), twin.state_dict())
    assert {"queue.keys", "queue.pointer"} <= method.state_dict().keys()


@pytest.mark.parametrize(("images", "keys"), [(1, 1), (1, 3), (5, 1), (9, 2)])
def test_batches_of_one_image_one_key_and_more_than_the_queue_holds(images, keys):
    method, batch = stage_a(queue_length=6), key_batch(images, keys)
    assert all(output["loss"].isfinite() for output in train(method, batch))


def test_loss_of_stage_a_is_float32_under_autocast():
    method, batch = stage_a(), key_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = method(batch)
    assert output["loss"].dtype == output["mean_key"].dtype == torch.float32
    output["loss"].backward()
    assert all(p.grad.isfinite().all() for p in method.network.parameters())


def test_one_key_per_image_is_moco_whatever_the_strength():
    first, second = stage_a(strength=0.0).eval(), stage_a(strength=100.0).eval()
    torch.testing.assert_close(first(key_batch(keys=1))["loss"], second(key_batch(keys=1))["loss"])


def test_key_network_starts_from_weights_that_were_loaded_after_construction():
    method = stage_a()
    method.network.load_state_dict(stage_a(seed=5).network.state_dict())
    method.on_start()
    assert_same_state(method.key.network.state_dict(), stage_a(seed=5).network.state_dict())


def test_stage_a_deploys_what_a_classifier_starts_from():
    method = stage_a()
    assert method.inference_network is method.network
    assert method.streams.keys() == {"unlabeled"}


def test_views_of_a_batch_are_what_stage_a_trains_on():
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 1, 16, 16), generator=g, dtype=torch.uint8)
    batch = KeyViews(Affine(rotate=20), num_keys=2)({"unlabeled": {"image": images}}, g)
    assert all(output["loss"].isfinite() for output in train(stage_a(), batch))


# ---- from A to B -----------------------------------------------------------------------------------------------------


def test_published_bug_the_teacher_overwrites_the_pretrained_student(tmp_path):
    """The released constructor copies teacher to student, after the pre-trained weights were loaded: they are lost."""
    pretrained = stage_a(seed=3).network
    torch.save(pretrained.state_dict(), tmp_path / "pretrained.pt")
    student = prepare_network(ProjectedClassifier(network(seed=4)), pretrained=tmp_path / "pretrained.pt")
    loaded = copy.deepcopy(student.state_dict())
    method = stage_b(student)
    assert_same_state(method.network.state_dict(), loaded)
    assert_same_state(method.teacher.network.state_dict(), loaded)
    method.on_start()
    for state in (method.network.state_dict(), method.teacher.network.state_dict()):
        assert_same_state(state, loaded)
        for name, value in pretrained.state_dict().items():
            assert name.startswith("contrast.") or torch.equal(state[name], value), name


def test_weights_that_are_loaded_after_construction_reach_the_teacher_and_stay_in_the_student(tmp_path):
    torch.save(stage_a(seed=3).network.state_dict(), tmp_path / "pretrained.pt")
    method = stage_b(network(seed=4))
    load_weights(method.network, tmp_path / "pretrained.pt")
    loaded = copy.deepcopy(method.network.state_dict())
    method.on_start()
    assert_same_state(method.network.state_dict(), loaded)
    assert_same_state(method.teacher.network.state_dict(), loaded)
    assert torch.equal(loaded["backbone.conv1.weight"], stage_a(seed=3).network.backbone.conv1.weight)


def test_the_teacher_may_start_from_the_key_network(tmp_path):
    pretraining = stage_a(seed=3, key_decay=0.5)
    train(pretraining, key_batch())
    torch.save(pretraining.key.network.state_dict(), tmp_path / "key.pt")
    method = stage_b(teacher_weights=tmp_path / "key.pt")
    student = copy.deepcopy(method.network.state_dict())
    method.on_start()
    assert_same_state(method.network.state_dict(), student)
    teacher = method.teacher.network
    assert torch.equal(teacher.backbone.conv1.weight, pretraining.key.network.backbone.conv1.weight)
    assert torch.equal(teacher.head.weight, method.network.head.weight)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


# ---- stage B ---------------------------------------------------------------------------------------------------------


def by_hand(kind, label, **kwargs):
    """Identity networks: the images are the logits."""
    batch = {
        "labeled": {"image": torch.zeros(1, 2), "label": torch.tensor(label)},
        "unlabeled": {"weak": torch.tensor([[2.0, -1.0]]), "strong": torch.tensor([[0.0, 0.0]])},
    }
    method = S2MTS2(nn.Identity(), ramp_steps=30, weight=3.0, kind=kind, **kwargs)
    method.steps_done = 10
    return method(batch)


def test_one_view_of_an_identity_is_consistent():
    output = by_hand(Findings.of_size(2), [[1, 0]])
    assert output["consistency"] == 0.0
    assert output["loss"].item() == pytest.approx(math.log(2))


def test_findings_by_hand():
    """Teacher sigmoid(2), sigmoid(-1), student 1/2 twice; a third of the ramp is done, so a weight of 1."""
    output = by_hand(Findings.of_size(2), [[1, -1]], shared_view=False)
    expected = ((1 / (1 + math.exp(-2)) - 0.5) ** 2 + (1 / (1 + math.exp(1)) - 0.5) ** 2) / 2
    assert output["consistency"].item() == pytest.approx(expected)
    assert output["loss"].item() == pytest.approx(math.log(2) + expected)


def test_classes_by_hand():
    output = by_hand(Classes.of_size(2), [1], shared_view=False)
    expected = (1 / (1 + math.exp(-3)) - 0.5) ** 2  # of both classes alike
    assert output["consistency"].item() == pytest.approx(expected)
    assert output["loss"].item() == pytest.approx(math.log(2) + expected)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (10, 1 / 3), (30, 1.0), (99, 1.0)])
def test_consistency_counts_nothing_at_first_and_in_full_after_the_ramp(step, share):
    method = stage_b(weight=1.5, shared_view=False)
    method.steps_done = step
    output = method(class_batch())
    torch.testing.assert_close(output["loss"], output["supervised"] + 1.5 * share * output["consistency"])


def test_student_and_teacher_see_the_same_view():
    method, batch = stage_b(), class_batch()
    batch["unlabeled"]["strong"].fill_(torch.nan)
    assert method(batch)["loss"].isfinite()
    del batch["unlabeled"]["strong"]
    assert method(batch)["loss"].isfinite()


def test_no_gradient_reaches_the_teacher():
    method = stage_b()
    method.steps_done = 30
    method(class_batch())["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.network.parameters())


@pytest.mark.parametrize("kind", [Classes.of_size(3), Findings.of_size(3)], ids=lambda kind: kind.word)
@pytest.mark.parametrize("teacher_bn", ["eval", "train"])
def test_parameters_and_batch_norm_statistics_are_averaged(kind, teacher_bn):
    method, batch = stage_b(decay=0.05, kind=kind, teacher_bn=teacher_bn), class_batch(kind=kind)
    before = copy.deepcopy(method.teacher.network)
    if teacher_bn == "train":
        before.train()(batch["unlabeled"]["weak"])  # what its own forward pass has moved is averaged again
    train(method, batch, steps=1)
    old, new, student = before.state_dict(), method.teacher.network.state_dict(), method.network.state_dict()
    for name, value in new.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.05 * old[name] + 0.95 * student[name], msg=name)
        else:
            assert torch.equal(value, student[name])  # the released code leaves these behind


def test_teacher_in_training_mode_normalises_by_the_batch():
    batch = class_batch()
    method = stage_b(teacher_bn="train").train()
    weak = batch["unlabeled"]["weak"]
    with torch.no_grad():
        expected = copy.deepcopy(method.teacher.network).train()(weak).softmax(1)
        student = copy.deepcopy(method.network).train()(torch.cat([batch["labeled"]["image"], weak]))[4:].softmax(1)
    torch.testing.assert_close(method(batch)["consistency"], F.mse_loss(student, expected))


def test_teacher_is_in_training_mode_only_while_training_and_if_asked_to():
    for mode in ("eval", "train"):
        method = stage_b(teacher_bn=mode)
        for training in (True, False):
            method.train(training)
            found = {module.training for module in method.teacher.modules()}
            assert found == {training and mode == "train"}


def test_teacher_is_deployed():
    method = stage_b()
    train(method, class_batch())
    assert method.inference_network is method.teacher.network
    assert not torch.equal(method.inference_network.head.weight, method.network.head.weight)


def test_unknown_findings_are_left_out_of_the_supervised_loss():
    method, batch = stage_b(kind=Findings.of_size(3)), class_batch(kind=Findings.of_size(3))
    logits = copy.deepcopy(method.network)(torch.cat([batch["labeled"]["image"], batch["unlabeled"]["weak"]]))[:4]
    pairs = [(0, 0, 1.0), (0, 1, 0.0), (1, 0, 0.0), (2, 0, 1.0), (2, 1, 1.0)]
    losses = [F.binary_cross_entropy_with_logits(logits[i, k], torch.tensor(y)) for i, k, y in pairs]
    torch.testing.assert_close(method(batch)["supervised"], torch.stack(losses).mean())


def test_labeled_images_of_which_nothing_is_known_leave_the_consistency():
    method, batch = stage_b(kind=Findings.of_size(3)), class_batch(kind=Findings.of_size(3))
    batch["labeled"]["label"].fill_(-1)
    method.steps_done = 30
    output = method(batch)
    assert output["supervised"] == 0.0
    assert output["loss"] == output["consistency"] > 0.0
    output["loss"].backward()
    assert all(p.grad.isfinite().all() for p in method.network.parameters())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"teacher_bn": "batch"}, "`teacher_bn` must be 'eval' or 'train', got 'batch'"),
        ({"ramp_steps": 0}, "`length` counts optimizer steps and must be at least 1, got 0"),
        ({"decay": 1.0}, r"`decay` is the share of the old teacher.*got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        stage_b(**arguments)


# ---- several processes -----------------------------------------------------------------------------------------------

TWO_PROCESSES = """
import torch
from torch.nn.parallel import DistributedDataParallel
from methods.test_s2mts2 import key_batch, stage_a

method = stage_a(queue_length=20)
wrapped = DistributedDataParallel(method)
optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.05)
means = []
for step in range(2):
    batch = key_batch(3, seed=10 * step + rank)
    optimizer.zero_grad()
    output = wrapped(batch)
    output["loss"].backward()
    optimizer.step()
    means.append(output["mean_key"].tolist())
    method.after_step(batch, {name: value.detach() for name, value in output.items()})
result = [{k: v.tolist() for k, v in method.state_dict().items() if "running" not in k}, means]
"""


@pytest.mark.slow
def test_two_processes_have_one_queue_and_one_key_network(tmp_path):
    (first, means), (second, others) = in_two_processes(TWO_PROCESSES, tmp_path)
    assert first == second
    assert first["queue.pointer"] == 12
    assert first["queue.keys"][:12] == [*means[0], *others[0], *means[1], *others[1]]


SHUFFLED = """
import torch
from methods.test_s2mts2 import key_batch, stage_a

batch, result = key_batch(3, seed=rank), []
for shuffle in (True, False):
    method = stage_a(shuffle=shuffle).train()
    result.append(method(batch)["mean_key"].tolist())
"""


@pytest.mark.slow
def test_shuffling_gives_keys_the_batch_statistics_of_all_processes(tmp_path):
    for shuffled, alone in in_two_processes(SHUFFLED, tmp_path):
        assert not torch.allclose(torch.tensor(shuffled), torch.tensor(alone), atol=1e-3)
