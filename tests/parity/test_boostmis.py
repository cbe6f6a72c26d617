"""BoostMIS against the golden vectors: sizes, constants and hyper-parameters come from the files."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from parity.published import boostmis_batch_size_threshold, class_learning_status, class_threshold
from support import pseudo_label_loss
from torch import nn
from torch.nn import functional as F

from medssl_monai.losses import DistributionAlignment
from medssl_monai.methods.boostmis import AdaptiveThreshold, adaptive_threshold
from medssl_monai.networks import EMATeacher
from medssl_monai.pool import Labels
from medssl_monai.query import BoostMISQuery, DensityEntropy, Instability, PoolOutputs
from medssl_monai.query.instability import adversarial_instability, unit_rows
from medssl_monai.query.neighbors import graph_degree, nearest_neighbors
from medssl_monai.schedules import cosine_decay


def tensor(array):
    return torch.from_numpy(np.asarray(array))


@pytest.mark.parametrize("mode", ["hard", "soft", "hard_da"])
def test_consistency_as_released(golden, mode):
    g = golden("boostmis/consistency_official")
    own = [key for key in g.keys(prefix="") if re.match(rf"{mode}_(call|p_target)", key)]
    g.unused &= set(own)  # the other modes have tests of their own
    alpha, beta, fixed = g.meta["a"], g.meta["b"], g.meta["p_cutoff"]
    alignment = DistributionAlignment(tensor(g.input(f"{mode}_p_target")))
    previous = 1
    for call in range(sum(key.endswith("_loss") for key in own)):
        at = f"{mode}_call{call}_"
        logits_s = tensor(g.input(at + "logits_s")).requires_grad_()
        probs = tensor(g.input(at + "logits_w")).softmax(dim=1)
        if mode == "hard_da":
            probs, mean = alignment(probs)
            alignment.update(mean)
        share = float(g.input(at + "N_a") / g.input(at + "K"))
        cutoff = boostmis_batch_size_threshold(len(probs), previous, share, alpha, beta)
        previous = len(probs)
        loss, mask = pseudo_label_loss(logits_s, probs, cutoff, temperature=g.meta["T"] if mode == "soft" else None)
        loss.backward()
        confidence, pseudo_label = probs.max(dim=1)
        g.compare(at + "cutoff", cutoff)
        g.compare(at + "mask", mask)
        g.compare(at + "mask_mean", mask.mean())
        g.compare(at + "select_fixed", (confidence >= fixed).long())
        g.compare(at + "pseudo_label", pseudo_label)
        g.compare(at + "loss", loss)
        g.compare(at + "grad_logits_s", logits_s.grad)
        g.compare(at + "p_model", alignment.mean)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_adaptive_threshold(golden, dtype):
    g = golden("boostmis/adaptive_threshold")
    probs, logits = tensor(g.input("probs_weak")), tensor(g.input("logits_strong")).to(dtype)
    alpha, beta = float(g.input("alpha")), float(g.input("beta"))
    (steps, n, classes), last_step = probs.shape, int(g.input("T_max"))
    threshold = AdaptiveThreshold(n, (classes,), alpha, beta, period=1, minimum=0.0, last_step=last_step).to(dtype)
    found = {name: [] for name in ("count", "ratio", "eps", "mask", "pseudo_label", "selected", "batch")}
    previous = torch.tensor(0.0)
    for step in range(steps):
        confidence, pseudo_label = probs[step].max(dim=1)
        count = (confidence > alpha + beta).sum().double()
        ratio = adaptive_threshold(count, previous, 0.0, alpha=1.0, beta=0.0)
        found["ratio"].append(ratio if step < last_step else torch.ones_like(ratio))  # not used any more
        threshold.set_query_size((int(g.input("N_A")[step]), 2 * int(g.input("K"))))
        threshold.update(torch.arange(n), confidence.to(dtype), step)  # a whole pool at each time
        eps = threshold.at(step)
        loss_selected, mask = pseudo_label_loss(logits[step], probs[step].to(dtype), eps, "selected")
        loss_batch, _ = pseudo_label_loss(logits[step], probs[step].to(dtype), eps, "batch")
        for name, value in (("count", count.long()), ("eps", eps), ("mask", mask), ("pseudo_label", pseudo_label)):
            found[name].append(value.clone())
        found["selected"].append(loss_selected)
        found["batch"].append(loss_batch)
        previous = count
    for name in ("count", "ratio", "eps", "mask", "pseudo_label"):
        g.compare(name, torch.stack(found[name]))
    g.compare("loss_norm_selected", torch.stack(found["selected"]))
    g.compare("loss_norm_batch", torch.stack(found["batch"]))
    nothing = tensor(g.input("none_logits_weak")).softmax(dim=1)
    loss, _ = pseudo_label_loss(logits[0], nothing.to(dtype), float(g.input("none_eps")))
    g.compare("none_loss", loss, atol=0.0)


def test_learning_status(golden):
    g = golden("boostmis/learning_status")
    cutoff, after = float(g.input("p_cutoff")), torch.zeros(0)
    for step in range(sum(key.endswith("_idx") for key in g.keys(prefix=""))):
        at = f"step{step}_"
        selected = tensor(g.input(at + "selected_label_before"))
        if step:
            g.compare(at + "selected_label_before", after)
        index, probs = tensor(g.input(at + "idx")), tensor(g.input(at + "logits_w")).softmax(dim=1)
        classes = probs.shape[1]
        status = class_learning_status(selected, classes, warmup=True)
        if bool((selected == -1).all()):  # stays as it was until something is selected
            status = torch.zeros_like(status)
            g.compare(at + "classwise_acc_nowarmup", status)
        else:
            g.compare(at + "classwise_acc_nowarmup", class_learning_status(selected, classes, warmup=False))
        g.compare(at + "classwise_acc_warmup", status)
        confidence, label = probs.max(dim=1)
        for shape in ("linear", "lowlimit", "concave"):
            g.compare(f"{at}thr_{shape}", class_threshold(status[label], cutoff, shape))
        after = selected.clone()
        after[index[confidence >= cutoff]] = label[confidence >= cutoff]
        g.compare(at + "selected_label_after", after)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_virtual_adversarial_direction(golden, dtype):
    g = golden("boostmis/vat_official")
    weight = {key: tensor(g.input(key)).to(dtype) for key in g.keys(prefix="") if re.match("(lin|mlp)_[Wb]", key)}
    x, budget = tensor(g.input("x")).to(dtype), int(g.input("K"))
    heads = {
        "lin": lambda r: F.linear(r, weight["lin_W"], weight["lin_b"]),
        "mlp": lambda r: F.linear(
            F.linear(r, weight["mlp_W1"], weight["mlp_b1"]).tanh(), weight["mlp_W2"], weight["mlp_b2"]
        ),
    }
    cases = [re.match(r"(lin|mlp)_xi(.+)_eps(.+)_ip(\d+)_d0$", key) for key in g.keys(prefix="")]
    cases = [case for case in cases if case]
    assert cases
    for case in cases:
        at = case.string.removesuffix("d0")
        net, xi, radius, iterations = case[1], float(case[2]), float(case[3]), int(case[4])
        start = unit_rows(tensor(g.input(at + "uniform_draw")).to(dtype) - 0.5)
        g.compare(at + "d0", start)
        direction, lds = adversarial_instability(
            lambda inputs, head=heads[net]: head(inputs).log_softmax(dim=1),
            x,
            start,
            xi,
            radius,
            iterations,
            tiny=1e-8 * len(x),  # of the batch mean
        )
        g.compare(at + "d_final", direction)
        g.compare(at + "r_adv", radius * direction)
        g.compare(at + "lds_each", lds)
        g.compare(at + "lds", lds.mean())
        g.compare(at + "topk", lds.argsort(descending=True)[:budget])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_density_entropy(golden, dtype):
    g = golden("boostmis/density_entropy")
    features, probs = tensor(g.input("features")).to(dtype), tensor(g.input("probs")).to(dtype)
    neighbors, budget, n = int(g.input("M")), int(g.input("K")), len(features)
    index, cosine = nearest_neighbors(features, neighbors, chunk_elements=7 * n)  # several chunks
    g.compare("nn_sim", cosine)
    if dtype == torch.float64:
        g.compare("nn_idx", index)
    else:
        g.compare_set("nn_idx", index)
    joined = torch.zeros(n, n).scatter_(1, index, (cosine > 0).float())
    adjacency = torch.maximum(joined, joined.T)
    g.compare("adjacency", adjacency.double())
    degree = graph_degree(index, cosine)
    assert torch.equal(degree, adjacency.sum(dim=1).long())
    g.compare("degree", degree.to(dtype))
    g.compare("mean_sim", cosine.mean(dim=1))
    outputs = PoolOutputs(torch.arange(n), torch.zeros(n, dtype=torch.bool), probs, embedding=features)
    predicted = probs.argmax(dim=1)
    g.compare("pred", predicted)
    for density, name in (("none", "entropy"), ("degree", "score_degree"), ("mean_sim", "score_mean_sim")):
        score = DensityEntropy(density, neighbors)(outputs, torch.arange(n))
        g.compare(name, score.to(dtype))
        for fill in (0, 1):
            chosen = DensityEntropy(density, neighbors, fill=bool(fill)).choose(
                score, predicted, probs.shape[1], budget
            )
            g.compare_set(f"balanced_{name}_fill{fill}", chosen)


def test_one_whole_acquisition(golden, monkeypatch):
    g = golden("boostmis/merge")
    features, ids = tensor(g.input("features")), g.input("dataset_index")
    weight, bias = tensor(g.input("head_W")), tensor(g.input("head_b"))
    conf, eps, budget = tensor(g.input("conf")), float(g.input("eps_t")), int(g.input("K"))
    rows = (conf < eps).nonzero().squeeze(1)
    g.compare("pool", rows)

    network = nn.Module()
    network.head = nn.Linear(weight.shape[1], weight.shape[0]).double()
    network.head.load_state_dict({"weight": weight, "bias": bias})
    outputs = PoolOutputs(  # `conf` is given, so the rows that it leaves out count as labeled here
        torch.arange(len(features)), conf >= eps, F.linear(features, weight, bias).softmax(dim=1),
        embedding=features, network=network,
    )  # fmt: skip
    start = tensor(g.input("d0"))
    draw = start - 0.0
    monkeypatch.setattr(torch, "rand", lambda *a, **k: draw + 0.5)  # the strategy's random start
    unstable, uncertain = Instability(), DensityEntropy("degree", int(g.input("M")))
    lds = unstable(outputs, rows, torch.Generator())
    g.compare("lds_each", lds)
    g.compare("aus", lds.argsort(descending=True)[:budget])
    score = uncertain(outputs, rows)
    bus = uncertain.choose(score, outputs.kept[rows].argmax(dim=1), len(weight), budget)
    g.compare_set("bus", bus)

    query = BoostMISQuery(unstable, uncertain, pool="all")(outputs, budget, torch.Generator())
    g.compare_set("union_pool_pos", [rows.tolist().index(i) for i in query.index.tolist()])
    g.compare("union_dataset_index", np.sort(ids[query.index.numpy()]))
    returned, possible = query.size
    g.compare("N_A", returned)
    assert possible == 2 * budget
    alpha, beta = float(g.input("alpha")), float(g.input("beta"))
    g.compare("next_beta_term", beta * returned / possible)
    threshold = AdaptiveThreshold(len(features), (len(weight),), alpha, beta, minimum=0.0).double()
    threshold.set_query_size(query.size)
    threshold.update(torch.arange(1), torch.ones(1, dtype=torch.double), step=0)
    g.compare("next_eps_if_ratio1", threshold.at(1))

    before = g.input("labelled_before").tolist()
    everyone = sorted({*before, *ids.tolist()})
    pool = Labels([{"id": str(i), "image": "x", **({"label": 0} if i in before else {})} for i in everyone])
    pool.annotate([pool.position[str(ids[i])] for i in query.index.tolist()], [1] * len(query))
    g.compare("labelled_after", np.sort([int(pool.ids[i]) for i in pool.indices("labeled").tolist()]))
    g.compare("unlabelled_after", np.sort([int(pool.ids[i]) for i in pool.indices("unlabeled").tolist()]))


def test_schedule_and_averaged_weights(golden):
    g = golden("boostmis/schedule_ema_official")
    total, steps, base = int(g.input("total_steps")), g.input("steps"), g.meta["base_lr"]
    g.compare("lr", np.array([base * cosine_decay(total)(int(step)) for step in steps]))
    g.compare("lr_warmup10pct", np.array([base * cosine_decay(total, total // 10)(int(step)) for step in steps]))
    weights, biases = tensor(g.input("weights")), tensor(g.input("biases"))
    student = nn.Linear(weights.shape[2], weights.shape[1]).double()
    student.load_state_dict({"weight": weights[0], "bias": biases[0]})
    teacher = EMATeacher(student, float(g.input("ema_decay")))
    found = [(weights[0], biases[0])]
    for step in range(1, len(weights)):
        student.load_state_dict({"weight": weights[step], "bias": biases[step]})
        teacher.update(student, step=10**9)  # late, so that the decay is as asked for
        found.append((teacher.network.weight.clone(), teacher.network.bias.clone()))
    g.compare("ema_weights", torch.stack([w for w, _ in found])[-len(g.input("ema_weights")) :])
    g.compare("ema_biases", torch.stack([b for _, b in found])[-len(g.input("ema_biases")) :])
