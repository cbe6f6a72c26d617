"""What papers and released code say stands in the bundles, or the table says why not."""

from __future__ import annotations

import inspect
from pydoc import locate
from typing import Any, NamedTuple

import pytest
from monai.bundle import ConfigParser
from support import BUNDLES


class Default(NamedTuple):
    """A default: its key in the configuration, what was published, and what stands there instead, with the reason."""

    bundle: str
    key: str
    published: Any
    ours: Any = None
    why: str = ""


SMALL = "64 pixels and some thousand steps on a CPU"
SHORT = "a thousand steps in place of a million"
PRETRAINING = "some hundred steps in place of some ten thousand"
BOOSTMIS, ADAPTIVE = "methods::boostmis", "methods::boostmis::threshold"
TEAR, ADAPL = "methods::tear", "methods::tear::adapl"

DEFAULTS = [
    Default("boostmis", f"{ADAPTIVE}::alpha", 0.9),
    Default("boostmis", f"{ADAPTIVE}::beta", 0.05),
    Default("boostmis", f"{ADAPTIVE}::last_step", "$int(0.8 * @max_epochs * @epoch_length)"),
    Default("boostmis", f"{ADAPTIVE}::minimum", 0.0, None, "no confident image would make every image a pseudo-label"),
    Default("boostmis", f"{BOOSTMIS}::weight", 1.0),
    Default("boostmis", f"{BOOSTMIS}::decay", 0.999),
    Default("boostmis", f"{BOOSTMIS}::normalization", "batch"),
    Default("boostmis", f"{BOOSTMIS}::temperature", None),
    Default("boostmis", "strategies::boostmis::instability::xi", 10.0),
    Default("boostmis", "strategies::boostmis::instability::radius", 1.0),
    Default("boostmis", "strategies::boostmis::instability::power_iterations", 1),
    Default("boostmis", "strategies::boostmis::density_entropy::neighbors", 10),
    Default("boostmis", "strategies::boostmis::pool", "unselected"),
    Default("boostmis", "query::budget", 50, 8, SMALL),
    Default("boostmis", "batch_size::labeled", 64, 16, SMALL),
    Default("boostmis", "batch_size::unlabeled", 128, 32, SMALL),
    Default("boostmis", "optimizer::lr", 0.03),
    Default("boostmis", "optimizer::momentum", 0.9),
    Default("boostmis", "optimizer::nesterov", True),
    Default("boostmis", "optimizer::params", "$@method_def.parameter_groups(weight_decay=5e-4)"),
    Default("boostmis", "methods::flexmatch::threshold", 0.95),
    Default("boostmis", "methods::flexmatch::weight", 1.0),
    Default("boostmis", "methods::freematch::momentum", 0.999, 0.99, SHORT),
    Default("boostmis", "methods::freematch::fairness_weight", 0.01),
    Default("boostmis", "methods::softmatch::momentum", 0.999, 0.99, SHORT),
    Default("boostmis", "methods::softmatch::sigmas", 2.0),
    Default("boostmis", "methods::softmatch::uniform", True),
    Default("tear", f"{TEAR}::threshold", 0.95),
    Default("tear", f"{TEAR}::weight", 1.0),
    Default("tear", f"{TEAR}::decay", 0.999),
    Default("tear", f"{TEAR}::ramp_steps", "$int(0.1 * @max_epochs * @epoch_length)"),
    Default("tear", f"{TEAR}::alignment::length", 32),
    Default("tear", f"{ADAPL}::gamma", 1.0),
    Default("tear", f"{ADAPL}::discrepancy", "l2"),
    Default("tear", f"{ADAPL}::previous", "ema"),
    Default("tear", f"{ADAPL}::history_decay", 0.0),
    Default(
        "tear",
        f"{ADAPL}::minimum_weight",
        0.5,
        "$0.5 if @kind.states > 2 else 0.75",
        "of two outcomes, 0.5 would say nothing",
    ),
    Default("tear", f"{TEAR}::iph::weight", 0.1),
    Default("tear", f"{TEAR}::iph::mode", "official", "shared", "the released pairs of clusters are unrelated"),
    Default("tear", "batch_size::labeled", 64, 16, SMALL),
    Default("tear", "batch_size::unlabeled", 448, 32, SMALL),
    Default("tear", "optimizer::lr", 0.001, 0.03, SMALL),
    Default("s2mts2", "methods::s2mts2::decay", 0.999),
    Default("s2mts2", "methods::s2mts2::weight", 1.0),
    Default("s2mts2", "methods::s2mts2::ramp_steps", "$@max_epochs * @epoch_length"),
    Default("s2mts2", "methods::s2mts2::shared_view", True),
    Default("s2mts2", "methods::s2mts2::teacher_bn", "train", "eval", "its batch statistics are averaged twice"),
    Default("s2mts2", "batch_size::labeled", 16),
    Default("s2mts2", "batch_size::unlabeled", 16),
    Default("s2mts2", "contrast::temperature", 0.07),
    Default("s2mts2", "contrast::strength", 2.0),
    Default("s2mts2", "contrast::dim", 128),
    Default("s2mts2", "contrast::layers", 3),
    Default("s2mts2", "contrast::num_keys", 2),
    Default("s2mts2", "contrast::key_decay", 0.999, 0.99, PRETRAINING),
    Default("s2mts2", "contrast::queue_length", 65536, "$2 * @batch_size::unlabeled", PRETRAINING),
    Default("ssal", "strategies::clusters::num_clusters", 10),
    Default("ssal", "networks::ssal_unet::pooling", "2x2"),
    Default("ssal", "init", "load"),
    Default("ssal", "query::budget", 35, 10, SMALL),
    Default("ssal", "query::cold_start", 300, 20, SMALL),
    Default("ssal", "batch_size::labeled", 10, 8, SMALL),
    Default("ssal", "optimizer::_target_", "torch.optim.Adam"),
    Default("ssal", "optimizer::lr", 0.0001, 0.001, SMALL),
    Default("multimix", "methods::multimix::threshold", 0.7),
    Default("multimix", "loss_weights::weight", 0.25),
    Default("multimix", "loss_weights::mask_weight", 5.0),
    Default("multimix", "loss_weights::consistency_weight", 0.01),
    Default("multimix", "loss_weights::class_weight", 1.0),
    Default("multimix", "networks::multimix::dropout", 0.25),
    Default("multimix", "networks::multimix::slope", 0.2),
    Default("multimix", "batch_size::segmented", 10),
    Default("multimix", "optimizer::lr", 0.0001, 0.003, SMALL),
]


def value_of(bundle: str, key: str) -> Any:
    """Return what stands at `key`; what is left out there is the default of its ``_target_``."""
    files = [BUNDLES / bundle / "configs" / "train.yaml"]
    if key.startswith("contrast::"):
        files.append(files[0].with_name("pretrain.yaml"))
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    if key in parser:
        return parser[key]
    parent, _, name = key.rpartition("::")
    return inspect.signature(locate(parser[parent]["_target_"])).parameters[name].default


@pytest.mark.parametrize("default", DEFAULTS, ids=lambda default: f"{default.bundle} {default.key}")
def test_a_default_is_as_published_or_differs_for_a_reason(default):
    assert value_of(default.bundle, default.key) == (default.ours if default.why else default.published)
    assert default.why or default.ours is None
    assert not default.why or default.ours != default.published
