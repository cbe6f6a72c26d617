"""SSAL's selection and CEAL's uncertainty against the golden vectors; sizes and budgets come from the file."""

import re

import numpy as np
import pytest
import torch
from parity.published import ssal_quotas, ssal_selection

from medssl_monai.clustering import nearest_center
from medssl_monai.query.clusters import apportion, fit_centers, nearest_members
from medssl_monai.query.masks import ceal_uncertainty, distance_weight

FILE = "ssal/ssal"


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def only(g, pattern):
    """Each test answers for the keys of one group; test_ssal.py has the others."""
    g.unused = {key for key in g.keys("") if re.match(pattern, key)}
    assert g.unused


def check_clustering(g, at):
    """Centers, distances and clusters of k-means from given centers; returns the last two, exact."""
    features = tensor(g.input(f"{at}_features"))
    start = tensor(g.input(f"{at}_init_centers"))
    centers, iterations = fit_centers(features, len(start), start=start)
    distance, cluster = nearest_center(features.double(), centers)
    squared = torch.cdist(features.double(), centers, compute_mode="donot_use_mm_for_euclid_dist").square()
    g.compare(f"{at}_ids", cluster)
    g.compare(f"{at}_centers", centers, atol=1e-5)
    g.compare(f"{at}_sqdist", squared, atol=1e-4)
    torch.testing.assert_close(distance, squared.sqrt().gather(1, cluster.unsqueeze(1)).squeeze(1))
    return squared, cluster, iterations


def check_selection(g, at, squared, cluster, budget):
    """Both rules; returns the rows of the released one."""
    sizes = cluster.bincount(minlength=squared.shape[1]).tolist()
    quotas = ssal_quotas(sizes, budget)
    released = ssal_selection(squared, quotas)
    g.compare(f"{at}_official_quota", quotas)
    g.compare(f"{at}_official_idx", released)
    quotas = apportion(sizes, budget)
    own = nearest_members(cluster, squared.gather(1, cluster.unsqueeze(1)).squeeze(1), quotas)
    g.compare(f"{at}_corrected_quota", quotas)
    g.compare(f"{at}_corrected_idx", own)
    assert len(own) == len(set(own.tolist())) == sum(quotas) == budget
    assert cluster[own].tolist() == sorted(cluster[own].tolist())
    return released


def test_clusters(golden):
    g = golden(FILE)
    only(g, "km_")
    _, _, iterations = check_clustering(g, "km")
    g.compare("km_iters", iterations)
    assert float(g.input("km_tol")) == 1e-4  # theirs stops at small shifts, ours once no sample changes its cluster


def test_selection_for_growing_budgets(golden):
    g = golden(FILE)
    only(g, "sel|km_(features|init|ids|centers|sqdist)")
    squared, cluster, _ = check_clustering(g, "km")
    budgets = [int(budget) for budget in g.input("sel_budgets")]
    for budget in budgets:
        check_selection(g, f"sel{budget}", squared, cluster, budget)


def test_the_released_rule_picks_samples_twice_and_of_other_clusters(golden):
    g = golden(FILE)
    only(g, "ov_")
    squared, cluster, _ = check_clustering(g, "ov")
    released = check_selection(g, "ov", squared, cluster, int(g.input("ov_budget")))
    picked_for = torch.arange(squared.shape[1]).repeat_interleave(tensor(g.input("ov_official_quota")))
    g.compare("ov_official_n_unique", len(set(released.tolist())))
    g.compare("ov_official_n_nonmember", int((cluster[released] != picked_for).sum()))
    assert len(set(released.tolist())) < len(released)


def test_the_released_rule_overshoots_the_budget(golden):
    g = golden(FILE)
    only(g, "neg_")
    distance, cluster = tensor(g.input("neg_dist")), tensor(g.input("neg_ids"))
    released = check_selection(g, "neg", distance, cluster, int(g.input("neg_budget")))
    assert len(released) > int(g.input("neg_budget"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ceal(golden, dtype):
    g = golden(FILE)
    only(g, "ceal_")
    samples, mask = tensor(g.input("ceal_mc_probs")).to(dtype), tensor(g.input("ceal_base_mask")) > 0.5
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4
    g.compare("ceal_edt_norm", distance_weight(mask))
    g.compare("ceal_uncert_edt", ceal_uncertainty(samples, mask), atol=tolerance)
    g.compare("ceal_uncert_plain", ceal_uncertainty(samples, torch.ones_like(mask)), atol=tolerance)
