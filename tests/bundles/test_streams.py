"""What the streams of a real run draw."""

from __future__ import annotations

import pytest
from support import BUNDLES

from medssl_monai.bundle.run import workflow

LEARNERS = {
    "boostmis": "@methods::boostmis",
    "multimix": None,  # the only one
    "s2mts2": None,
    "ssal": "@methods::fixmatch",
    "tear": None,
}


def drawn_by(own_bundle, overrides, name):
    """Samples that each step of a run drew, by stream, with those that were labeled then."""
    bundle = own_bundle(name)
    run = workflow([bundle / "configs" / "train.yaml"], bundle_root=str(bundle), logging_file=False, **overrides)
    run.initialize()
    pool, steps = run.parser.get_parsed_content("pool"), []
    streams = run.parser.get_parsed_content("method_def").streams

    def note(method, inputs):
        for stream, batch in inputs[0].items():
            labeled = pool[streams[stream].part].mask.nonzero().flatten()
            steps.append((stream, set(batch["index"].tolist()), set(labeled.tolist())))

    run.parser.get_parsed_content("method_def").register_forward_pre_hook(note)
    run.run()
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_each_stream_of_a_run_draws_its_own_side_of_the_pool(own_bundle, tiny, name):
    """A labeled image among the unlabeled ones would teach twice: by its label, and by a pseudo-label."""
    choice = {} if LEARNERS[name] is None else {"method_def": LEARNERS[name]}
    steps = drawn_by(own_bundle, tiny(name=name, **{"query::strategy": "@strategies::random", **choice}), name)
    streams = {"labeled", "unlabeled", *({"segmented", "unsegmented"} if name == "multimix" else ())}
    assert {stream for stream, _, _ in steps} == streams
    for stream, drawn, labeled in steps:
        side = stream in ("labeled", "segmented")
        assert drawn and (drawn <= labeled if side else not drawn & labeled), stream
    known = [labeled for stream, _, labeled in steps if stream == "unlabeled"]
    assert known[0] < known[-1]  # an annotated image changes its side


def test_every_bundle_is_watched():
    assert set(LEARNERS) == {path.parents[1].name for path in BUNDLES.glob("*/configs/train.yaml")}
