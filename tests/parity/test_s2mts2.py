"""S2MTS2 against the golden vectors: sizes and hyper-parameters come from the file.

Values are of the authors' code, executed, but for those that the file calls exact or gauss_mc.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from medssl_monai.kinds import KINDS
from medssl_monai.losses import FindingCrossEntropy, KeyQueue, joint_contrastive_loss
from medssl_monai.losses.contrastive import mean_key
from medssl_monai.methods import S2MTS2, JointContrastive
from medssl_monai.metrics import classification_metrics, evaluate_predictions
from medssl_monai.networks import EMATeacher
from medssl_monai.schedules import linear_rampup

FILE = "s2mts2/s2mts2"
GROUPS = ("jcl_", "queue_", "mom_", "ema_", "ft_", "mc_", "sched_", "auc_")


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def only(g, prefix):
    """Each test answers for the keys of one prefix."""
    g.unused &= set(g.keys(prefix))


def test_every_key_of_the_file_has_a_test(golden):
    g = golden(FILE)
    g.unused = {key for key in g.keys("") if not key.startswith(GROUPS)}


def test_joint_contrastive_loss_as_released(golden):
    g = golden(FILE)
    only(g, "jcl_")
    raw, temperature, strength = tensor(g.input("jcl_q_raw")), float(g.input("jcl_T")), float(g.input("jcl_lambda"))
    raw.requires_grad_()
    query = F.normalize(raw, dim=1)
    keys = F.normalize(tensor(g.input("jcl_k_raw")).transpose(0, 1), dim=2)  # (M, B, D) there, (B, M, D) here
    negatives = tensor(g.input("jcl_queue")).T

    terms = joint_contrastive_loss(query, keys, negatives, temperature, strength)
    centered = keys - keys.mean(dim=1, keepdim=True)
    covariance = torch.einsum("bmc,bmd->bcd", centered, centered) / keys.shape[1]
    g.compare("jcl_q_norm", query, atol=1e-10)
    g.compare("jcl_key_mean", mean_key(keys), atol=1e-10)
    g.compare("jcl_key_cov", covariance, atol=1e-10)
    g.compare("jcl_quad", terms.spread * 2 * temperature**2 / strength, atol=1e-10)
    g.compare("jcl_quad", torch.einsum("bc,bcd,bd->b", query, covariance, query), atol=1e-10)
    g.compare("jcl_logits", torch.cat([terms.positive.unsqueeze(1), terms.negative], dim=1), atol=1e-10)
    g.compare("jcl_ce_mean", terms.infonce.mean(), atol=1e-10)
    g.compare("jcl_reg_mean", terms.spread.mean(), atol=1e-10)
    g.compare("jcl_total", terms.losses.mean(), atol=1e-10)
    g.compare("jcl_loss_per_sample", terms.losses, atol=1e-10)
    g.compare("jcl_grad_q_raw", torch.autograd.grad(terms.losses.mean(), raw, retain_graph=True)[0], atol=1e-10)

    plain = joint_contrastive_loss(query, keys, negatives, temperature, 0.0).losses.mean()
    g.compare("jcl_total_lambda0", plain, atol=1e-10)
    g.compare("jcl_grad_q_raw_lambda0", torch.autograd.grad(plain, raw, retain_graph=True)[0], atol=1e-10)
    bound = joint_contrastive_loss(query, keys, negatives, temperature, 1.0).losses
    g.compare("jcl_loss_per_sample_lambda1", bound, atol=1e-10)
    assert bool((bound.detach() + 2e-2 >= tensor(g.input("jcl_gauss_mc_expected_infonce_lambda1"))).all())

    queue = KeyQueue(*negatives.shape).double()
    queue.keys.copy_(negatives)
    queue.update(mean_key(keys))
    g.compare("jcl_queue_after", queue.keys.T, atol=1e-10)
    g.compare("jcl_queue_ptr_after", queue.pointer)


class Vectors(nn.Module):
    """A network that takes vectors for images and returns them."""

    def __init__(self, dim):
        super().__init__()
        self.dim, self.unused = dim, nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images


def test_the_method_in_float32_as_released(golden):
    g = golden(FILE)
    g.unused = set()
    raw, strength = tensor(g.input("jcl_q_raw")).float().requires_grad_(), float(g.input("jcl_lambda"))
    negatives = tensor(g.input("jcl_queue")).T.float()
    method = JointContrastive(Vectors(raw.shape[1]), 1, strength, float(g.input("jcl_T")), queue_length=len(negatives))
    method.queue.keys.copy_(negatives)
    keys = tensor(g.input("jcl_k_raw")).float().transpose(0, 1)
    batch = {"unlabeled": {"query": raw, "keys": keys}}
    output = method(batch)
    (gradient,) = torch.autograd.grad(output["loss"], raw)
    g.compare("jcl_total", output["loss"], atol=1e-5)
    g.compare("jcl_ce_mean", output["infonce"], atol=1e-5)
    g.compare("jcl_reg_mean", output["spread"], atol=1e-5)
    g.compare("jcl_grad_q_raw", gradient, atol=1e-5)
    method.after_step(batch, {name: value.detach() for name, value in output.items()})
    g.compare("jcl_queue_after", method.queue.keys.T, atol=1e-5)
    g.compare("jcl_queue_ptr_after", method.queue.pointer)


def test_queue_as_released(golden):
    g = golden(FILE)
    only(g, "queue_")
    start, steps = tensor(g.input("queue_init")).T, tensor(g.input("queue_keys"))
    queue = KeyQueue(*start.shape).double()
    queue.keys.copy_(start)
    snapshots, pointers = [], []
    for keys in steps:
        queue.update(keys)
        snapshots.append(queue.keys.T.clone())
        pointers.append(int(queue.pointer))
    g.compare("queue_snapshots", torch.stack(snapshots), atol=1e-10)
    g.compare("queue_ptrs", np.array(pointers))


def test_key_network_as_released(golden):
    """Parameters only; the query's weights of a step move the keys of that same step."""
    g = golden(FILE)
    only(g, "mom_")
    weight, bias = tensor(g.input("mom_wk0")), tensor(g.input("mom_bk0"))
    network = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0]), nn.BatchNorm1d(weight.shape[0])).double()
    network[0].weight.data, network[0].bias.data = weight.clone(), bias.clone()
    network.dim = weight.shape[0]
    method = JointContrastive(network, 1, queue_length=1, key_decay=float(g.input("mom_m")))
    key, found = method.key.network, []
    before = key[1].running_mean.clone()
    network[1].running_mean.add_(1.0)
    for weight, bias in zip(tensor(g.input("mom_wq")), tensor(g.input("mom_bq")), strict=True):
        network[0].weight.data, network[0].bias.data = weight, bias
        method.after_step({}, {"mean_key": torch.zeros(1, network.dim)})
        found.append((key[0].weight.clone(), key[0].bias.clone()))
    g.compare("mom_wk", torch.stack([w for w, _ in found]), atol=1e-10)
    g.compare("mom_bk", torch.stack([b for _, b in found]), atol=1e-10)
    assert torch.equal(key[1].running_mean, before)


def test_teacher_as_released_but_for_its_constructor(golden):
    g = golden(FILE)
    only(g, "ema_")
    start, statistics = tensor(g.input("ema_teacher_w0")), tensor(g.input("ema_teacher_buf0"))
    width = start.shape[0]
    linear = nn.Linear(start.shape[1], width, bias=False)
    student = nn.Sequential(linear, nn.BatchNorm1d(width, affine=False)).double()
    linear.weight.data, student[1].running_mean = start.clone(), statistics.clone()
    teacher = EMATeacher(student, float(g.input("ema_alpha")))
    found = []
    for weight, mean in zip(tensor(g.input("ema_student_w")), tensor(g.input("ema_student_buf")), strict=True):
        linear.weight.data, student[1].running_mean = weight, mean
        teacher.update(student, step=10**9)  # late, so that the decay is as asked for
        found.append((teacher.network[0].weight.clone(), teacher.network[1].running_mean.clone()))
    g.compare("ema_teacher_w", torch.stack([w for w, _ in found]), atol=1e-10)
    g.compare("ema_teacher_buf", torch.stack([m for _, m in found]), atol=1e-10)

    # The released constructor leaves the student with the teacher's weights. Ours never touches the student.
    overwritten = tensor(g.input("ema_official_ctor_student_w"))
    pretrained = nn.Linear(overwritten.shape[1], overwritten.shape[0], bias=False).double()
    pretrained.weight.data = overwritten + 1.0
    method = S2MTS2(pretrained, ramp_steps=1)
    method.on_start()
    assert torch.equal(method.network.weight, overwritten + 1.0)
    assert torch.equal(method.teacher.network.weight, overwritten + 1.0)


class Scripted(nn.Module):
    """Returns prepared logits, whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits


@pytest.mark.parametrize(("at", "word"), [("ft_", "findings"), ("mc_", "classes")])
def test_fine_tuning_as_released(golden, at, word):
    g = golden(FILE)
    only(g, at)
    labeled, unlabeled = (tensor(g.input(at + name)).requires_grad_() for name in ("logits_l", "logits_u_student"))
    targets, teacher = tensor(g.input(at + "targets")), tensor(g.input(at + "logits_u_teacher"))
    epoch, epochs = int(g.input("ft_epoch")), int(g.input("ft_epochs"))  # `mc_` has the same
    g.compare(at + "weight", np.float64(linear_rampup(1.0, epochs)(epoch)))

    criterion = FindingCrossEntropy() if word == "findings" else nn.CrossEntropyLoss()
    probs = (logits.sigmoid() if word == "findings" else logits.softmax(dim=1) for logits in (unlabeled, teacher))
    supervised, consistency = criterion(labeled, targets), F.mse_loss(*probs)
    total = supervised + float(g.input(at + "weight")) * consistency
    gradients = torch.autograd.grad(total, (labeled, unlabeled))
    for name, value in zip(("sup", "cons", "total"), (supervised, consistency, total), strict=True):
        g.compare(at + name, value, atol=1e-10)
    for name, value in zip(("grad_l", "grad_u"), gradients, strict=True):
        g.compare(at + name, value, atol=1e-10)

    # the method, in float32
    method = S2MTS2(
        Scripted(torch.cat([labeled, unlabeled]).detach().float().requires_grad_()), epochs, kind=KINDS[word]()
    )
    method.teacher.network.logits = teacher.float()
    method.steps_done = epoch
    images = {"image": labeled.detach(), "label": targets}
    output = method({"labeled": images, "unlabeled": {"weak": unlabeled.detach()}})
    (gradient,) = torch.autograd.grad(output["loss"], method.network.logits)
    for name, key in (("sup", "supervised"), ("cons", "consistency"), ("total", "loss")):
        g.compare(at + name, output[key], atol=1e-5)
    g.compare(at + "grad_l", gradient[: len(labeled)], atol=1e-5)
    g.compare(at + "grad_u", gradient[len(labeled) :], atol=1e-5)


@pytest.mark.parametrize("stage", ["ft", "pre"])
def test_schedules_as_released(golden, stage):
    """By epochs there; the same functions of the optimizer step here, and PyTorch's cosine for the learning rate."""
    g = golden(FILE)
    only(g, f"sched_{stage}_")
    at, epochs = f"sched_{stage}_", len(g.input(f"sched_{stage}_lr_factor"))
    strength = JointContrastive(Vectors(2), ramp_steps=epochs, strength=2.0, queue_length=1).strength
    weight = S2MTS2(nn.Linear(1, 1), ramp_steps=epochs).weight
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine, factors = CosineAnnealingLR(optimizer, T_max=epochs), []
    for _ in range(epochs):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    g.compare(at + "lr_factor", np.array(factors), atol=1e-10)
    g.compare(at + "cons_weight", np.array([weight(epoch) for epoch in range(epochs)]), atol=1e-10)
    g.compare(at + "lambda", np.array([strength(epoch + 1) for epoch in range(epochs)]), atol=1e-10)


def test_auroc_with_ties_as_released_and_exact(golden):
    """Of 14 findings, the mean too; the fifteenth, that nothing was found, is trained and not scored."""
    g = golden(FILE)
    only(g, "auc_")
    scores, targets = g.input("auc_scores"), g.input("auc_targets")
    scored = len(g.input("auc_exact_first14"))
    lowest, highest = scores.min(), scores.max()
    probs = (scores - lowest) / (highest - lowest)  # ranks are all that counts
    group = [str(row) for row in range(len(probs))]
    found = evaluate_predictions(probs[:, :scored], targets[:, :scored], group, resamples=2)
    values = np.array([found["per_class"][f"class {k}"]["auroc"] for k in range(scored)])
    g.compare("auc_exact_first14", values, atol=1e-10)
    g.compare("auc_official_first14", values, atol=1e-6)
    mean = np.float64(found["metrics"]["auroc"]["value"])
    g.compare("auc_exact_mean14", mean, atol=1e-10)
    g.compare("auc_official_mean14", mean, atol=1e-6)


def test_a_finding_with_one_outcome_is_named_and_left_out_of_the_mean(golden):
    g = golden(FILE)
    g.unused = set()
    scores, targets = g.input("auc_scores"), g.input("auc_targets")
    probs = (scores - scores.min()) / (scores.max() - scores.min())
    targets[:, 3] = 0
    values, undefined = classification_metrics(probs, targets)
    assert undefined["auroc of class 3"] == "no positive sample"
    rest = [k for k in range(probs.shape[1]) if k != 3]
    assert values["auroc"] == pytest.approx(classification_metrics(probs[:, rest], targets[:, rest])[0]["auroc"])
