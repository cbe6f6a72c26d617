"""What holds for every kind of label."""

import json
from typing import NamedTuple

import pytest
import torch
from kinds.laterality import SIDES, Laterality
from support import leaves

from medssl_monai.kinds import KINDS, Classes, Findings, Kind, Masks, Threshold
from medssl_monai.kinds.grades import Grades
from medssl_monai.pool import LabelPool, Labels


class Entry(NamedTuple):
    kind: Kind
    labels: list
    wrong: list


NAMES = ("low", "mid", "high")
TABLE = {
    "classes": Entry(Classes(NAMES), [0, 1, 2], ["nothing like it", 3, -1, True, None, [0]]),
    "findings": Entry(
        Findings(NAMES), [[0, 0, 0], [1, 0, -1], [1, 1, 1], [-1, -1, 0]], ["nothing like it", 7, [5], None, True, [1]]
    ),
    "masks": Entry(Masks(NAMES), ["a/b.png", "c d.nii.gz"], [" ", "a\0b", 7, [5], None, True]),
    "grades": Entry(Grades(NAMES), [0, 1, 2], ["nothing like it", 3, -1, True, None, [0]]),
}
OWN = Entry(Laterality(SIDES), [frozenset(), frozenset(SIDES), frozenset(["left"])], ["both", "", 7, ["left"], None])
EVERY = [*TABLE.values(), OWN]
KIND_OF = [entry.kind for entry in EVERY]
every_entry = pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry.kind.word)
every_kind = pytest.mark.parametrize("kind", KIND_OF, ids=lambda kind: kind.word)


def logits_of(kind, batch, seed=0):
    """Of masks for images of 4 x 5."""
    spatial = (4, 5) if kind.cases is None else ()
    return 3 * torch.randn(batch, kind.width, *spatial, generator=torch.Generator().manual_seed(seed))


def outcomes_of(kind, batch, seed=0):
    return kind.outcomes(logits_of(kind, batch, seed))


def test_every_kind_is_in_the_table():
    assert TABLE.keys() == KINDS.keys()
    assert all(type(entry.kind) is KINDS[word] for word, entry in TABLE.items())


# ---- labels ---------------------------------------------------------------------------------------------------------


@every_entry
def test_what_a_kind_writes_it_reads(entry):
    kind = entry.kind
    for label in entry.labels:
        assert kind.parse(kind.text(label)) == label
        assert kind.parse(json.loads(json.dumps(kind.plain(label, None)))) == label
        for listed in (None, label):
            assert kind.restore(json.loads(json.dumps(kind.plain(label, listed))), listed) == label
        assert kind.translate(label, kind.names) == label
        assert kind.known(label) and len(kind.strata(label)) > 0
        assert kind.shown(label)


@every_entry
def test_what_is_no_label_is_refused(entry):
    for wrong in entry.wrong:
        with pytest.raises(ValueError, match=r"^(is|must|says) "):
            entry.kind.parse(wrong)


@every_entry
def test_a_pool_takes_labels_and_its_state_is_json(entry):
    items = [{"image": str(i), "id": str(i)} for i in range(len(entry.labels))]
    pool, again = (LabelPool(Labels(items, kind=entry.kind)) for _ in range(2))
    pool.first.annotate(range(len(items)), entry.labels)
    again.load_state_dict(json.loads(json.dumps(pool.state_dict())))
    assert [again.first.label(i) for i in range(len(items))] == entry.labels


@every_kind
def test_another_name_is_another_kind_of_the_same_word(kind):
    other = kind.renamed([name.upper() for name in kind.names])
    assert (other.word, other.names, other.width) == (kind.word, tuple(map(str.upper, kind.names)), kind.width)
    assert other != kind and other.renamed(kind.names) == kind


# ---- numbers --------------------------------------------------------------------------------------------------------


@every_kind
def test_outcomes_are_probabilities_of_the_states(kind):
    logits = logits_of(kind, 6)
    outcomes = kind.outcomes(logits)
    assert outcomes.shape == (6, *((4, 5) if kind.cases is None else kind.cases), kind.states)
    assert bool((outcomes >= 0).all())
    torch.testing.assert_close(outcomes.sum(dim=-1), torch.ones(outcomes.shape[:-1]))
    torch.testing.assert_close(kind.log_outcomes(logits).exp(), outcomes)
    assert bool(kind.log_outcomes(100 * logits).isfinite().all())


@every_kind
def test_logits_have_the_outcomes_that_they_were_made_of(kind):
    if kind.cases is None:
        with pytest.raises(ValueError, match="define `logits`"):
            kind.logits(outcomes_of(kind, 2))
        return
    outcomes = outcomes_of(kind, 6)
    torch.testing.assert_close(kind.outcomes(kind.logits(outcomes)), outcomes, atol=1e-5, rtol=0)
    certain = kind.one_hot(kind.decide(outcomes))
    assert torch.equal(kind.outcomes(kind.logits(certain)), certain)


@every_kind
def test_certain_outcomes_are_decided_and_the_unknown_has_none(kind):
    states = kind.decide(outcomes_of(kind, 6))
    assert states.dtype == torch.long and len(states.unique()) > 1
    certain = kind.one_hot(states)
    assert torch.equal(kind.decide(certain), states)
    assert torch.equal(kind.confidence(certain), torch.ones(states.shape))
    assert not kind.one_hot(torch.full_like(states, -1)).any()


@every_kind
def test_learning_states_is_learning_certain_outcomes(kind):
    logits, states = logits_of(kind, 6).requires_grad_(), kind.decide(outcomes_of(kind, 6, seed=1))
    losses = kind.losses(logits, states)
    assert losses.shape == states.shape
    torch.testing.assert_close(losses, kind.losses(logits, kind.one_hot(states)))
    soft = kind.losses(logits, outcomes_of(kind, 6, seed=2))
    for loss in (losses, soft):
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert bool(loss.isfinite().all()) and bool(gradient.isfinite().all()) and bool(gradient.any())


@pytest.mark.parametrize("kind", [kind for kind in KIND_OF if kind.word != "classes"], ids=lambda kind: kind.word)
def test_where_nothing_is_known_there_is_nothing_to_learn(kind):
    logits, states = logits_of(kind, 6).requires_grad_(), kind.decide(outcomes_of(kind, 6, seed=1))
    known = kind.criterion()(logits, states)
    assert known.ndim == 0 and known > 0
    loss = kind.criterion()(logits, torch.full_like(states, -1))
    loss.backward()
    assert loss.item() == pytest.approx(0) and not logits.grad.any()


@every_kind
def test_thresholds_are_of_names_and_never_of_the_batch(kind):
    """As many images as names: one alone has the mask that it has among the others."""
    outcomes = outcomes_of(kind, len(kind.names), seed=4)
    threshold = kind.threshold([0.0, 1.0, 0.7][: len(kind.names)])
    together = kind.confident(outcomes, threshold)
    assert together.any() and not together.all()
    alone = torch.cat([kind.confident(row, threshold) for row in outcomes.split(1)])
    assert torch.equal(alone, together)
    again = Threshold.of_plain(json.loads(json.dumps(threshold.plain())))
    assert torch.equal(kind.confident(outcomes, again), together)
    with pytest.raises(RuntimeError, match="expand"):
        kind.confident(outcomes, Threshold(torch.zeros(outcomes.shape)))
    every_state = kind.threshold(dict.fromkeys(kind.state_names, 0.8))
    assert torch.equal(kind.confident(outcomes, every_state), kind.confident(outcomes, kind.threshold(0.8)))


@every_kind
def test_thresholds_that_fit_no_name_are_refused(kind):
    for given, why in (([0.5] * 5, "there are 5 thresholds for"), (1.5, "in .0, 1."), ({"other": 0.5}, "by state")):
        with pytest.raises(ValueError, match=why):
            kind.threshold(given)


@every_kind
def test_what_is_kept_of_a_pool_says_what_a_query_shows(kind):
    kept = kind.kept(outcomes_of(kind, 6))
    assert kind.sure(kept, kind.threshold(0.0)).tolist() == [kind.cases is not None] * 6
    assert not kind.sure(0.9 * kept, kind.threshold(1.0)).any()
    columns = kind.columns(kept)
    assert list(columns) == list(kind.names) and all(len(column) == 6 for column in columns.values())
    said = json.loads(json.dumps(kind.describe(kept[0]), allow_nan=False))
    assert said["predicted"] and 0 <= said.get("confidence", 0) <= 1
    if kind.cases is None:
        return
    states = kind.decide(kept[:1])[0]
    assert not kind.differs(said, kind.label_of(states))
    assert kind.differs(said, kind.label_of((states + 1) % kind.states))


@every_kind
def test_the_expected_loss_is_from_0_to_1_and_nothing_where_all_is_certain(kind):
    outcomes = outcomes_of(kind, 20)
    loss = kind.expected_loss(outcomes)
    assert loss.shape == (20,) and bool(((loss > 0) & (loss <= 1)).all())
    assert kind.expected_loss(kind.one_hot(kind.decide(outcomes))).abs().max() < 1e-6


# ---- figures --------------------------------------------------------------------------------------------------------


def scored(kind, outcomes, targets):
    scores = kind.scores()
    for rows in torch.arange(len(targets)).split(5):
        scores.add(outcomes[rows], targets[rows])
    return scores


@every_kind
def test_samples_of_which_nothing_is_known_count_as_none(kind):
    outcomes, targets = outcomes_of(kind, 12), kind.decide(outcomes_of(kind, 12, seed=1))
    targets[[3, 8]] = -1
    known = [i for i in range(12) if i not in (3, 8)]
    scores, others = scored(kind, outcomes, targets), scored(kind, outcomes[known], targets[known])
    group = [str(i // 3) for i in range(12)]
    figures = json.loads(json.dumps(scores.figures(group), allow_nan=False))
    assert leaves(figures) == pytest.approx(leaves(others.figures([group[i] for i in known])))
    assert (figures["kind"], figures["n"], figures["groups"]) == (kind.word, 10, 4)
    assert scores.quick() == others.quick() and scores.quick()[2] == 10
    assert scores.best in figures["metrics"] and scores.best in scores.quick()[0]
    assert {*figures["metrics"], *figures["undefined"]} >= scores.shown.keys()
    assert scores.columns(figures).keys() == scores.shown.keys()
    assert scores.quick()[0][scores.best] == pytest.approx(figures["metrics"][scores.best]["value"])
