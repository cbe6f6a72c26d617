"""TEAR against the golden vectors: sizes, constants and hyper-parameters come from the files.

The files whose names end in "official" are from the authors' code; "proposal", "theory" and "recommended" are ours.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from support import pseudo_label_loss
from torch import nn
from torch.nn import functional as F

from medssl_monai.clustering import cluster_means, kmeans, match
from medssl_monai.losses import QueueAlignment
from medssl_monai.methods import AdaPL
from medssl_monai.methods.estimator import discrepancy, estimate_loss, label_weight, relaxed_targets
from medssl_monai.methods.prototypes import prototype_distance, tear_prototypes
from medssl_monai.networks import EMATeacher
from medssl_monai.schedules import cosine_decay


def tensor(array):
    return torch.from_numpy(np.asarray(array))


@pytest.mark.parametrize("mode", ["noda", "da", "stdda"])
def test_pseudo_labels_and_alignment_as_released(golden, mode):
    g = golden("tear/fixmatch_da_official")
    g.unused &= {key for key in g.keys("") if key.startswith(f"{mode}_")}  # the other modes have tests of their own
    threshold, length = float(g.input("thr")), g.meta["queue_len"]
    logits_x, logits_w, logits_s, label = (
        tensor(g.input(f"{mode}_{name}")) for name in ("logits_x", "logits_u_w", "logits_u_s", "y_x")
    )
    temperature = g.meta.get("DA_T", 0.5)
    alignment = QueueAlignment((logits_w.shape[2],), length, mode == "stdda", temperature).double()
    names = ("probs", "scores", "guess", "mask", "loss_x", "loss_u", "grad_u_s")
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for step in range(len(logits_w)):
        strong = logits_s[step].requires_grad_()
        probs = logits_w[step].softmax(dim=1)
        if mode != "noda":
            probs, row = alignment(probs, logits_x[step].softmax(dim=1))
            alignment.update(row)
            torch.testing.assert_close(alignment.align(logits_w[step].softmax(dim=1)), probs)
        confidence, pseudo_label = probs.max(dim=1)
        loss, mask = pseudo_label_loss(strong, probs, threshold)
        (gradient,) = torch.autograd.grad(loss, strong)
        values = (probs, confidence, pseudo_label, mask, F.cross_entropy(logits_x[step], label[step]), loss, gradient)
        for name, value in zip(names, values, strict=True):
            found[name].append(value.detach())
    for name in names:
        g.compare(f"{mode}_{name}", torch.stack(found[name]))


def test_prototype_block_as_released(golden):
    g = golden("tear/iph_official_literal")
    alignment = QueueAlignment((g.input("iter0_logits_x").shape[1],)).double()
    for step in range(g.meta["iterations"]):
        at = f"iter{step}_"
        x, u = (tensor(g.input(at + name)).requires_grad_() for name in ("feat_x", "feat_u_w"))
        teacher = torch.cat([tensor(g.input(at + name)) for name in ("ema_feat_x", "ema_feat_u_w")])
        probs, x_teacher, u_teacher = (
            tensor(np.concatenate([g.input(at + name) for name in names])).softmax(dim=1)
            for names in (("logits_x", "logits_u_w"), ("ema_logits_x",), ("ema_logits_u_w",))
        )
        aligned, row = alignment(u_teacher)
        alignment.update(row)
        probs_teacher = torch.cat([x_teacher, aligned])
        cluster = tensor(g.input(at + "kmeans_labels"))
        block = tear_prototypes(torch.cat([x, u]), teacher, cluster, probs, probs_teacher, g.meta["thr_dist"])
        grad_x, grad_u = torch.autograd.grad(block.loss, (x, u))
        g.compare(at + "ema_pseudo", probs_teacher.argmax(dim=1))
        g.compare(at + "prototype", block.prototypes)
        g.compare(at + "prototype_ema", block.teacher_prototypes)
        g.compare(at + "std", block.deviation)
        g.compare(at + "std_ema", block.teacher_deviation)
        g.compare(at + "num_c_std_filter", block.alike)
        g.compare(at + "loss_proto", block.loss)
        g.compare(at + "loss_std", block.deviation_loss)
        g.compare(at + "grad_feat_x", grad_x)
        g.compare(at + "grad_feat_u_w", grad_u)


def test_schedule_and_averaged_weights_as_released(golden):
    g = golden("tear/schedule_ema_official")
    total, warmup, base = int(g.input("total_iters")), int(g.input("warmup_iters")), g.meta["base_lr"]
    steps = g.input("steps").tolist()
    g.compare("lr_nowarmup", np.array([base * cosine_decay(total)(step) for step in steps]))
    schedule = cosine_decay(total, warmup, warmup_start=5e-4)
    g.compare("lr_expwarmup", np.array([base * schedule(step) for step in steps]))
    weight, mean = tensor(g.input("weight")), tensor(g.input("running_mean"))
    linear = nn.Linear(weight.shape[2], weight.shape[1], bias=False)
    student = nn.Sequential(linear, nn.BatchNorm1d(weight.shape[1], affine=False)).double()
    linear.weight.data = tensor(g.input("ema_weight_init"))
    teacher = EMATeacher(student, float(g.input("ema_m")))
    found = []
    for step in range(len(weight)):
        linear.weight.data, student[1].running_mean = weight[step], mean[step]
        teacher.update(student, step=10**9)  # late, so that the decay is as asked for
        found.append(teacher.network[0].weight.clone())
    g.compare("ema_weight", torch.stack(found))
    g.compare("ema_running_mean", mean)  # copied from the student; ours are averaged


def test_repaired_prototypes(golden):
    g = golden("tear/iph_recommended")
    for step in range(g.meta["iterations"]):
        at = f"iter{step}_"
        student, teacher = (tensor(g.input(at + name)) for name in ("feat_student", "feat_teacher"))
        rows, rows_teacher = (tensor(g.input(at + f"init_rows_{name}")) for name in ("student", "teacher"))
        clusters = len(rows)
        label, centers = kmeans(student, student[rows], iterations=100)  # from where the centers stop, nothing changes
        label_teacher, centers_teacher = kmeans(teacher, teacher[rows_teacher], iterations=100)
        g.compare(at + "labels_student", label)
        g.compare(at + "labels_teacher", label_teacher)
        g.compare(at + "centers_student", centers)
        g.compare(at + "centers_teacher", centers_teacher)

        student.requires_grad_()
        prototypes, count = cluster_means(student, label, clusters)
        shared, _ = cluster_means(teacher, label, clusters)
        loss = prototype_distance(prototypes, shared, count > 0)
        (gradient,) = torch.autograd.grad(loss, student)
        g.compare(at + "proto_student", prototypes)
        g.compare(at + "proto_teacher_shared", shared)
        g.compare(at + "loss_shared", loss)
        g.compare(at + "grad_feat_student_shared", gradient)

        prototypes = prototypes.detach()
        own, own_count = cluster_means(teacher, label_teacher, clusters)
        pair = match(F.cosine_similarity(prototypes.unsqueeze(1), own.unsqueeze(0), dim=2))
        g.compare(at + "proto_teacher_own", own)
        g.compare(at + "matching", pair)
        g.compare(at + "loss_matched", prototype_distance(prototypes, own[pair], (count > 0) & (own_count[pair] > 0)))


def test_proposed_estimate_and_targets(golden):
    g = golden("tear/adapl_proposal")
    weak, strong, student = (tensor(g.input(name)) for name in ("x_weak", "x_strong", "student_W"))
    threshold, minimum, delta = (float(g.input(name)) for name in ("thr", "w_min", "delta"))
    samples, classes = len(weak), student.shape[1]
    linear = nn.Linear(student.shape[2], classes, bias=False).double()
    linear.weight.data = student[0]
    teacher = EMATeacher(linear, float(g.input("ema_m")))
    history = AdaPL(samples, (classes,), minimum_weight=1.0, history_decay=float(g.input("hist_m"))).double()
    averaged = [student[0]]
    for step in range(1, g.meta["iterations"] + 1):
        at = f"iter{step}_"
        q, logits = (weak @ student[step].T).softmax(dim=1), strong @ student[step].T
        pseudo_label = q.argmax(dim=1)
        loss, mask = pseudo_label_loss(logits, q, threshold)
        g.compare(at + "q", q)
        g.compare(at + "pseudo", pseudo_label)
        g.compare(at + "mask", mask)
        g.compare(at + "loss_hard", loss)
        earlier = {"ema": averaged[-1], "snapshot": student[step - 1]}
        for previous in g.meta["prev"]:
            q_previous = (weak @ earlier[previous].T).softmax(dim=1)
            g.compare(f"{at}{previous}_q_prev", q_previous)
            for kind in g.meta["discrepancies"]:
                score = discrepancy(q, q_previous, kind)
                for gamma in g.meta["gammas"]:
                    here = f"{at}{previous}_{kind}_g{gamma}_"
                    estimate = estimate_loss(score, gamma, delta)
                    targets = relaxed_targets(pseudo_label, label_weight(estimate, "exp", minimum), classes)
                    g.compare(here + "score", score)
                    g.compare(here + "loss_est", estimate)
                    g.compare(here + "rho", 1.0 - label_weight(estimate, "exp", minimum))
                    g.compare(here + "Q", targets)
                    g.compare(here + "loss_con", pseudo_label_loss(logits, q, threshold, targets=targets)[0])
                    weight = label_weight(estimate_loss(score, 1.0, delta), "sigmoid", minimum, gamma)
                    targets = relaxed_targets(pseudo_label, weight, classes)
                    g.compare(here + "Q_sigmoid", targets)
                    g.compare(here + "loss_con_sigmoid", pseudo_label_loss(logits, q, threshold, targets=targets)[0])
        index = tensor(g.input(at + "bank_idx"))
        q_previous = (weak @ earlier["ema"].T).softmax(dim=1)
        history.update(index, history(q[index], index, q_previous[index]), q[index])
        g.compare(at + "bank_after", history.estimate)
        linear.weight.data = student[step]
        teacher.update(linear, step=10**9)
        averaged.append(teacher.network.weight.clone())
    g.compare("teacher_W", torch.stack(averaged)[: len(g.input("teacher_W"))])


def test_proposed_bound(golden):
    """-ln(1 - ||dz|| / kappa) never exceeds the true cross-entropy, and is equal to it for two classes."""
    g = golden("tear/adapl_theory")
    eta = float(g.input("eta"))
    for at in sorted({match_[0] for key in g.keys("") if (match_ := re.match(r"C\d+_", key))}):
        x, weight, label = (tensor(g.input(at + name)) for name in ("x", "W", "y"))
        found = {name: [] for name in ("logit_change", "kappa", "loss_true", "loss_est")}
        for row, y in zip(x, label, strict=True):
            model = weight.clone().requires_grad_()
            loss = F.cross_entropy((row @ model.T).unsqueeze(0), y.unsqueeze(0))
            (gradient,) = torch.autograd.grad(loss, model)
            before, after = row @ weight.T, row @ (weight - eta * gradient).T
            kappa = 2**0.5 * eta * row.square().sum()
            score = discrepancy(after.softmax(dim=0)[None], before.softmax(dim=0)[None], "logits")
            found["logit_change"].append(after - before)
            found["kappa"].append(kappa)
            found["loss_true"].append(loss.detach())
            found["loss_est"].append(estimate_loss(score, 2**0.5 / kappa, delta=0.0).squeeze(0))
        for name, values in found.items():
            g.compare(at + name, torch.stack(values))
        estimate, truth = torch.stack(found["loss_est"]), torch.stack(found["loss_true"])
        assert bool((estimate <= truth + 1e-10).all())
        if weight.shape[0] == 2:
            torch.testing.assert_close(estimate, truth, rtol=0, atol=1e-10)
