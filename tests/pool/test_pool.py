"""The labels and which of them are known, and loaders that follow it."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import RandomizableTransform
from torch.utils.data import Dataset

from medssl_monai.data import Datalist
from medssl_monai.kinds import Classes, Findings
from medssl_monai.pool import LabelPool, Labels, MultiStreamLoader, PoolSampler, batch_loader, pool_loader
from medssl_monai.pool.draws import balanced_draw, stratified_draw
from medssl_monai.pool.streams import balanced_order
from medssl_monai.seeds import seed_of_epoch


def items(*labels, **flags):
    """Items "s0", "s1", ...; a label of None is left out."""
    return [
        {"image": f"{i}.png", "id": f"s{i}", **({} if label is None else {"label": label}), **flags}
        for i, label in enumerate(labels)
    ]


def labels_of(pool):
    return [pool.label(index) for index in range(len(pool))]


def strata(labels):
    """Strata of labels, as their kind has them."""
    kind = Findings() if labels and isinstance(labels[0], list) else Classes()
    return [kind.strata(label) for label in labels]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Indices(Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"index": index}


# ---- which labels are known at the start ------------------------------------------------------------------------


def test_without_a_flag_a_label_is_known():
    pool = Labels(items(0, None, 1))
    assert labels_of(pool) == [0, None, 1]
    assert pool.mask.tolist() == [True, False, True]
    assert pool.indices("labeled").tolist() == [0, 2]
    assert pool.indices("unlabeled").tolist() == [1]
    assert pool.indices("all").tolist() == [0, 1, 2]


def test_a_hidden_label_is_not_in_the_pool_at_all(tmp_path):
    pool = Labels(items(0, 1, labeled=False))
    assert not pool.mask.any()
    assert pool.targets(torch.arange(2)).tolist() == [-1, -1]
    LabelPool(pool).save(tmp_path / "labels.json")
    assert json.loads((tmp_path / "labels.json").read_text())["labels"] == {}
    assert pool.state_dict()["labels"] == [None, None]


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_a_number_draws_so_many_of_all_labels(count):
    pool = Labels(items(*[0, 1, 2] * 3, None), known=count)
    assert int(pool.mask.sum()) == count
    assert not pool.mask[9]


def test_a_fraction_is_of_the_items_that_have_a_label():
    assert int(Labels(items(*[0, 1] * 10, *[None] * 20), known=0.3).mask.sum()) == 6


@pytest.mark.parametrize("labels", [-1, 4, -0.5])
def test_more_or_fewer_labels_than_there_are_is_an_error(labels):
    with pytest.raises(ValueError, match=r"`labels` asks for -?\d+ items, and the training section has 3 with a label"):
        Labels(items(0, 1, 0, None), known=labels)


def test_the_draw_is_balanced_over_the_classes_of_an_unbalanced_list():
    labels = [0] * 90 + [1] * 8 + [2] * 2
    drawn = [labels[i] for i in balanced_draw(strata(labels), 12, seed=0)]
    assert [drawn.count(k) for k in range(3)] == [5, 5, 2]  # a class with too few gives all it has


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=30), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_the_draw_is_as_even_as_it_can_be(labels, share, seed):
    count = int(share * len(labels))
    drawn = balanced_draw(strata(labels), count, seed)
    assert drawn == sorted(set(drawn)) == balanced_draw(strata(labels), count, seed)
    assert len(drawn) == count
    chosen = [labels[i] for i in drawn]
    open_classes = [chosen.count(k) for k in set(labels) if chosen.count(k) < labels.count(k)]
    exhausted = [chosen.count(k) for k in set(labels) if chosen.count(k) == labels.count(k)]
    assert max(open_classes, default=0) - min(open_classes, default=0) <= 1
    assert not open_classes or max(exhausted, default=0) <= max(open_classes) + 1


def test_the_draw_depends_on_the_seed():
    assert len({tuple(balanced_draw(strata([0, 1] * 20), 6, seed)) for seed in range(5)}) > 1


def test_a_multi_hot_draw_serves_rare_findings_and_the_healthy():
    labels = [[1, 0]] * 50 + [[0, 1]] * 2 + [[0, 0]] * 10
    drawn = [tuple(labels[i]) for i in balanced_draw(strata(labels), 6, seed=1)]
    assert {found: drawn.count(found) for found in set(drawn)} == {(1, 0): 2, (0, 1): 2, (0, 0): 2}


def test_a_stratified_draw_has_the_counts_of_the_published_list():
    """Train350 of TEAR, from the classes of its 9,593 training images."""
    counts = [38 + 1028, 234 + 6421, 18 + 486, 12 + 305, 38 + 1051, 4 + 101, 5 + 127]  # any pool of these shares
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    drawn = [labels[i] for i in stratified_draw(strata(labels), 350, seed=0)]
    shares = [350 * count / len(labels) for count in counts]
    assert len(drawn) == 350
    assert all(abs(drawn.count(k) - share) < 1 for k, share in enumerate(shares))


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=40), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_stratified_draw_keeps_shares_and_every_class_if_it_can(labels, share, seed):
    count = int(share * len(labels))
    drawn = stratified_draw(strata(labels), count, seed)
    assert drawn == sorted(set(drawn)) == stratified_draw(strata(labels), count, seed)
    assert len(drawn) == count
    classes, chosen = set(labels), [labels[i] for i in drawn]
    if count >= len(classes):
        assert set(chosen) == classes
    wanted = {k: max(1, count * labels.count(k) / len(labels)) for k in classes}
    assert all(chosen.count(k) < wanted[k] + 1 for k in classes)


def test_a_pool_draws_at_the_frequency_of_the_classes():
    labels = [0] * 80 + [1] * 20
    pool = Labels(items(*labels), known=10, draw="stratified", names="ab")
    assert pool.counts().tolist() == [8, 2]
    with pytest.raises(ValueError, match=r"`draw` must be one of \('balanced', 'stratified'\), got 'even'"):
        Labels(items(*labels), known=10, draw="even")
    with pytest.raises(ValueError, match="a label here has several; draw balanced"):
        Labels(items([1, 1], [1, 0]), known=1, draw="stratified")


def test_labels_from_a_file_that_a_pool_wrote(tmp_path):
    first = Labels(Datalist(items(0, 1, None), classes=["a", "b"], synthetic=True))
    first.annotate([2], [1])
    pool = LabelPool(first)
    pool.query_size = (3, 4)
    pool.save(tmp_path / "labels.json")
    content = json.loads((tmp_path / "labels.json").read_text())
    assert content["synthetic"] is True
    assert content["labels"] == {"s0": 0, "s1": 1, "s2": 1}
    assert content["datalist_sha256"] == first.datalist_sha256
    second = Labels(items(*[None] * 3), known=str(tmp_path / "labels.json"))
    assert labels_of(second) == [0, 1, 1]
    assert second.query_size == LabelPool(second).query_size == (3, 4)


def test_a_file_of_labels_replaces_those_of_the_datalist(tmp_path):
    (tmp_path / "labels.csv").write_text("id,label\ns1,0\n")
    assert labels_of(Labels(items(1, 1, 1), known=tmp_path / "labels.csv")) == [None, 0, None]


def test_labels_from_a_table_by_name_or_index(tmp_path):
    (tmp_path / "labels.csv").write_text("id,reason,label\ns0,x,high\ns1,x,\n s2 ,x, 0 \n")
    pool = Labels(Datalist(items(*[None] * 3), classes=["low", "high"]), known=tmp_path / "labels.csv")
    assert labels_of(pool) == [1, None, 0]


def test_a_misspelt_class_in_a_table_of_labels_is_refused(tmp_path):
    """Nothing is labeled yet: the rows have to be compared with each other, or the name passes for a mask's path."""
    (tmp_path / "labels.csv").write_text("id,label\ns0,low\ns1,hgih\n")
    with pytest.raises(ValueError, match="hgih"):
        Labels(Datalist(items(*[None] * 3), classes=["low", "high"]), known=tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("id,label\ns0,0\nelsewhere,1\n", r"labels.csv: line 3: 'elsewhere' is not in the datalist"),
        ("id,label\ns0,2\n", r"labels.csv: line 2: the label of 's0' is 2, and must be a class index from 0 to 1"),
        ("name,label\ns0,0\n", r"must have the columns 'id' and 'label', got \['name', 'label'\]"),
    ],
)
def test_a_table_of_labels_that_does_not_fit_is_refused(tmp_path, table, match):
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(ValueError, match=match):
        Labels(items(None, None), known=tmp_path / "labels.csv", kind=Classes.of_size(2))


def test_a_file_of_labels_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`labels` names .*nowhere\.json, and there is no such file"):
        Labels(items(0), known=tmp_path / "nowhere.json")


def test_ids_must_differ():
    with pytest.raises(ValueError, match="the id 's0' occurs more than once in the datalist"):
        Labels([*items(0), *items(0)])


def test_labels_of_the_datalist_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"the label of 's1' is 5, and must be a class index from 0 to 1"):
        Labels(items(0, 5), kind=Classes.of_size(2))


# ---- targets ----------------------------------------------------------------------------------------------------


def test_targets_of_class_indices():
    targets = Labels(items(2, None, 0)).targets(torch.tensor([2, 0, 1, 0]))
    assert targets.dtype == torch.long
    assert targets.tolist() == [0, 2, -1, 2]


def test_targets_of_findings_where_some_are_unknown():
    pool = Labels(items([1, 0, -1], None, [0, 0, 1]))
    assert pool.targets(torch.tensor([0, 1])).tolist() == [[1, 0, -1], [-1, -1, -1]]


@pytest.mark.parametrize("draw", ["balanced", "stratified"])
def test_masks_are_drawn_by_the_seed_and_not_by_their_paths(draw):
    masks = items(*[f"{number:02d}.nii" for number in range(50)])
    drawn = [Labels(masks, known=5, seed=seed, draw=draw).indices("labeled").tolist() for seed in range(3)]
    assert len({tuple(positions) for positions in drawn}) == 3
    assert [0, 1, 2, 3, 4] not in drawn


def test_masks_that_the_datalist_names_move_with_it(tmp_path):
    pool = Labels(items("old/0.nii", "old/1.nii", None, None), known=1)
    pool.annotate([2], ["mine/2.nii"])
    LabelPool(pool).save(tmp_path / "pool.json")
    saved = json.loads((tmp_path / "pool.json").read_text())["labels"]
    assert sorted(map(str, saved.values())) == ["True", "mine/2.nii"]
    moved = items("new/0.nii", "new/1.nii", None, None)
    read, resumed = Labels(moved, known=tmp_path / "pool.json"), Labels(moved, known=0)
    resumed.load_state_dict(pool.state_dict())
    drawn = int(pool.indices("labeled")[0])
    for other in (read, resumed):
        assert {int(i): other.label(int(i)) for i in other.indices("labeled")} == {
            drawn: f"new/{drawn}.nii",
            2: "mine/2.nii",
        }
    with pytest.raises(ValueError, match="is said to be named by the datalist, and is not"):
        Labels(items(None, None, None, None), known=tmp_path / "pool.json", kind="masks")


def test_targets_of_masks_are_files_and_no_numbers():
    pool = Labels(items("a.nii", None))
    assert pool.label(0) == "a.nii"
    with pytest.raises(TypeError, match="the labels are masks, and there is nothing to read them with"):
        pool.targets(torch.tensor([0]))


def test_targets_follow_an_annotation_and_a_correction():
    pool, both = Labels(items(0, None)), torch.arange(2)
    assert pool.targets(both).tolist() == [0, -1]
    pool.annotate([1], [1])
    assert pool.targets(both).tolist() == [0, 1]
    pool.correct([0], [1])
    assert pool.targets(both).tolist() == [1, 1]


def test_counts_of_classes_follow_every_change():
    pool = Labels(items(0, 2, 0, None, None), names="abc")
    assert pool.counts().tolist() == [2, 0, 1]
    pool.annotate([3], [1])
    assert pool.counts().tolist() == [2, 1, 1]
    pool.correct([0], [2])
    assert pool.counts().tolist() == [1, 1, 2]
    pool.exclude([1])
    assert pool.counts().tolist() == [1, 1, 1]
    resumed = Labels(items(*[None] * 5), names="abc")
    assert resumed.counts().tolist() == [0, 0, 0]
    resumed.load_state_dict(pool.state_dict())
    assert resumed.counts().tolist() == [1, 1, 2]  # the quarantine belongs to the run, not to the state


def test_counts_of_findings_are_of_both_states_and_follow_every_change():
    pool = Labels(items([1, 0, -1], None, [1, 1, -1]))
    assert pool.counts().tolist() == [[0, 2], [1, 1], [0, 0]]
    pool.annotate([1], [[0, -1, 1]])
    assert pool.counts().tolist() == [[1, 2], [1, 1], [0, 1]]
    assert pool.counts() is pool.counts()
    pool.correct([0], [[0, 0, 0]])
    assert pool.counts().tolist() == [[2, 1], [1, 1], [1, 1]]
    pool.exclude([2])
    assert pool.counts().tolist() == [[2, 0], [1, 0], [1, 1]]


def test_counts_are_counted_once_until_a_label_changes():
    pool = Labels(items(0, 1, None), names="ab")
    counts = pool.counts()
    assert pool.counts() is counts
    pool.annotate([2], [0])
    assert pool.counts() is not counts


def test_voxels_are_not_counted():
    with pytest.raises(ValueError, match="masks have no fixed number of cases"):
        Labels(items("a.nii", None)).counts()


# ---- annotate and correct -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "labels", "match"),
    [
        ([1, 0], [1, 1], "'s0' is labeled already; correct it instead"),
        ([1, 1], [1, 1], "the sample 's1' occurs more than once"),
        ([1, 2], [1, 7], "the label of 's2' is 7, and must be a class index from 0 to 1"),
        ([1, 2], [1, -1], "the label of 's2' is -1, and must be a class index"),
        ([1, 2], [1, True], "the label of 's2' is True, and must be a class index"),
        ([1, 2], [1, [1, 0]], r"the label of 's2' is \[1, 0\], and must be a class index"),
        ([1, 2], [1, "mask.nii"], "the label of 's2' is 'mask.nii', and must be a class index"),
    ],
)
def test_an_annotation_is_refused_by_id_and_as_a_whole(index, labels, match):
    pool = Labels(items(0, None, None), kind=Classes.of_size(2))
    with pytest.raises(ValueError, match=match):
        pool.annotate(index, labels)
    assert labels_of(pool) == [0, None, None]


def test_labels_of_two_kinds_in_the_first_annotation_of_all_are_refused():
    pool = Labels(items(None, None))
    with pytest.raises(ValueError, match="'s1'"):
        pool.annotate([0, 1], [0, [1, 0]])
    assert labels_of(pool) == [None, None]


def test_as_many_labels_as_samples():
    pool = Labels(items(None, None))
    with pytest.raises(ValueError, match="zip"):
        pool.annotate([0, 1], [0])
    assert labels_of(pool) == [None, None]


def test_a_correction_replaces_and_an_annotation_does_not():
    pool = Labels(items(0, None))
    pool.correct(torch.tensor([0]), [1])
    assert labels_of(pool) == [1, None]
    with pytest.raises(ValueError, match="'s1' has no label yet"):
        pool.correct([0, 1], [0, 0])
    assert labels_of(pool) == [1, None]


def test_labeled_and_unlabeled_stay_a_partition():
    pool = Labels(items(*[None] * 6))
    for index in ([4], [0, 5], []):
        pool.annotate(index, [1] * len(index))
        both = torch.cat([pool.indices("labeled"), pool.indices("unlabeled")])
        assert sorted(both.tolist()) == list(range(6))


# ---- which kind -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "arguments", "word"),
    [
        ([0, None], {}, "classes"),
        ([None, [0, -1]], {}, "findings"),
        ([[0, 1], [1, 0]], {"known": 0}, "findings"),  # the hidden ones tell, and no more than this
        ([[-1, -1], None], {}, "findings"),
        (["mask.nii"], {}, "masks"),
        ([None, None], {"kind": "findings"}, "findings"),
        ([None, None], {}, "classes"),  # nothing tells
        ([None, None], {"kind": Findings(("a", "b"))}, "findings"),
    ],
)
def test_the_kind_is_that_of_the_labels_or_named(labels, arguments, word):
    assert Labels(items(*labels), **arguments).kind.word == word


def test_a_datalist_may_say_the_kind():
    data = Datalist(items(None, None), classes=["a", "b"], label_kind="findings")
    assert Labels(data).kind == Findings(("a", "b"))


def test_the_kind_of_labels_in_a_file(tmp_path):
    LabelPool(Labels(items([1, 0], None))).save(tmp_path / "pool.json")
    assert Labels(items(None, None), known=tmp_path / "pool.json").kind.word == "findings"
    LabelPool(Labels(items(None, None), kind="findings", names="ab")).save(tmp_path / "empty.json")
    assert Labels(items(None, None), known=tmp_path / "empty.json").kind.word == "findings"
    with pytest.raises(ValueError, match=r"pool\.json holds findings, and these labels are classes; name another file"):
        Labels(items(0, None), known=tmp_path / "pool.json")


def test_targets_have_a_column_per_finding_before_any_is_known():
    assert Labels(items(None, None), kind="findings", names="abc").targets(torch.arange(2)).tolist() == [[-1] * 3] * 2
    assert Labels(items([0, 1], [1, 0]), known=0).targets(torch.tensor([0])).tolist() == [[-1, -1]]


@pytest.mark.parametrize(
    ("labels", "kind", "match"),
    [
        ([1], "findings", "the label of 's0' is 1, and must hold 1 .*, 0 .* or -1 .* per finding"),
        ([[1, 0]], "classes", r"the label of 's0' is \[1, 0\], and must be a class index"),
        (["mask.nii"], "findings", "the label of 's0' is 'mask.nii', and must hold 1"),
        ([[0, 1], [1]], None, r"the label of 's1' is \[1\], with 1 entries for 2 findings"),
        ([1], "laterality", r"a kind of label is one of \['classes', .*\], got 'laterality'"),
    ],
)
def test_labels_that_do_not_fit_the_kind_are_refused(labels, kind, match):
    with pytest.raises(ValueError, match=match):
        Labels(items(*labels), kind=kind)


def test_hidden_labels_decide_what_an_annotation_may_be():
    pool = Labels(items([0, 1], [1, 0]), known=0)
    with pytest.raises(ValueError, match="the label of 's0' is 1, and must hold 1"):
        pool.annotate([0], [1])


def test_an_image_of_which_no_finding_is_known_has_no_label():
    pool = Labels(items([-1, -1], [1, -1], [-1, -1]))
    assert pool.indices("labeled").tolist() == [1]
    with pytest.raises(ValueError, match="the label of 's0' says nothing; leave it empty"):
        pool.annotate([0], [[-1, -1]])
    with pytest.raises(ValueError, match="the training section has 1 with a label"):
        Labels(items([-1, -1], [1, -1]), known=2)


FINDINGS = ["effusion", "mass", "pleural/other"]


def test_findings_in_a_table_of_labels(tmp_path):
    (tmp_path / "labels.csv").write_text("id;label\ns0;mass\ns1;\ns2;'effusion'\n".replace("'", '"'))
    pool = Labels(items(*[None] * 3), known=tmp_path / "labels.csv", names=FINDINGS, kind="findings")
    assert labels_of(pool) == [[0, 1, 0], None, [1, 0, 0]]


# ---- state ------------------------------------------------------------------------------------------------------


def test_excluded_samples_are_drawn_and_measured_nowhere_and_keep_their_labels(tmp_path):
    pool = Labels(items(0, 1, None, None))
    before = pool.state_dict()
    pool.exclude({0: "damaged", 3: "empty"})
    pool.exclude([])
    assert [pool.indices(subset).tolist() for subset in ("labeled", "unlabeled", "all")] == [[1], [2], [1, 2]]
    assert pool.targets(torch.arange(4)).tolist() == [-1, 1, -1, -1]
    assert set(PoolSampler(pool, "unlabeled", num_samples=8)) == {2}
    assert pool.state_dict() == before
    assert pool.mask.tolist() == [True, True, False, False]
    LabelPool(pool).save(tmp_path / "pool.json")
    assert json.loads((tmp_path / "pool.json").read_text())["labels"] == {"s0": 0, "s1": 1}


def test_excluded_samples_have_no_findings():
    pool = Labels(items([1, 0], [0, 1]))
    assert pool.targets(torch.tensor([0])).tolist() == [[1, 0]]
    pool.exclude([0])
    assert pool.targets(torch.arange(2)).tolist() == [[-1, -1], [0, 1]]


def test_no_readable_label_is_an_error_that_says_how_many_are_lost():
    pool = Labels(items(0, None, None))
    pool.exclude([0])
    with pytest.raises(ValueError, match="no labeled samples to draw from; there are 3 samples, 1 of them unreadable"):
        list(PoolSampler(pool, "labeled", num_samples=1))


def test_state_goes_by_id_into_a_longer_and_reordered_datalist():
    pool = LabelPool(Labels(items(0, None, 0, None)))
    pool.first.annotate([3], [1])
    pool.query_size = (5, 6)
    longer = LabelPool(Labels([{"id": "new"}, *reversed(items(*[None] * 4))]))
    longer.load_state_dict(pool.state_dict())
    resumed = longer.first
    assert {name: resumed.label(i) for name, i in resumed.position.items()} == {
        "new": None, "s0": 0, "s1": None, "s2": 0, "s3": 1,
    }  # fmt: skip
    assert longer.query_size == (5, 6)
    assert resumed.targets(torch.tensor([resumed.position["s3"]])).tolist() == [1]


def test_state_forgets_labels_that_the_datalist_shows_and_the_run_had_hidden():
    run = Labels(items(0, 1), known=0)
    resumed = Labels(items(0, 1))
    resumed.load_state_dict(run.state_dict())
    assert labels_of(resumed) == [None, None]


def test_state_of_samples_that_the_datalist_lacks_is_refused():
    with pytest.raises(ValueError, match="the checkpoint knows 1 samples that the datalist lacks, the first is 's2'"):
        Labels(items(0, 1)).load_state_dict(Labels(items(0, 1, 0)).state_dict())


@pytest.mark.parametrize("change", [{"labels": [7]}, {"labels": [0.5]}, {"labels": []}])
def test_a_state_that_says_no_labels_is_refused(change):
    pool = Labels(items(0), kind=Classes.of_size(2))
    with pytest.raises(ValueError, match="the checkpoint"):
        pool.load_state_dict({**pool.state_dict(), **change})


@pytest.mark.parametrize("change", [{"query_size": ["a", 1]}, {"parts": {}}])
def test_a_state_of_no_such_pool_is_refused(change):
    pool = LabelPool(Labels(items(0)))
    with pytest.raises(ValueError, match="the checkpoint"):
        pool.load_state_dict({**pool.state_dict(), **change})


def test_state_is_plain_and_no_view_of_the_pool(tmp_path):
    pool = Labels(items([1, 0], None))
    state = pool.state_dict()
    torch.save(state, tmp_path / "pool.pt")
    assert torch.load(tmp_path / "pool.pt", weights_only=True) == state
    state["labels"][0][0] = 0
    assert pool.label(0) == [1, 0]


# ---- samplers and loaders -------------------------------------------------------------------------------------------


def test_an_annotation_takes_effect_with_the_next_iter():
    pool = Labels(items(1, *[None] * 5))
    sampler = PoolSampler(pool, "labeled", num_samples=12)
    running = iter(sampler)
    assert next(running) == 0
    pool.annotate([3], [1])
    assert set(running) == {0}  # an epoch that has begun goes on as it was
    assert set(sampler) == {0, 3}
    assert 3 not in set(PoolSampler(pool, "unlabeled", num_samples=40))


def test_none_is_repeated_before_all_were_seen():
    order = list(PoolSampler(Labels(items(*[0] * 7)), "labeled", num_samples=17))
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert len(order) == 17
    assert order[:7] != order[7:14]


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        sampler = PoolSampler(Labels(items(*[0] * 20)), "all", num_samples=20, seed=seed)
        sampler.set_epoch(epoch)
        torch.rand(3)  # the global generator does not matter
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_two_processes_share_one_sequence(monkeypatch):
    pool = Labels(items(*[0] * 10))
    alone = list(PoolSampler(pool, "labeled", num_samples=12))
    parts = []
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        parts.append(list(PoolSampler(pool, "labeled", num_samples=6)))
    assert [len(part) for part in parts] == [6, 6]
    assert [index for pair in zip(*parts, strict=True) for index in pair] == alone
    assert sorted(alone[:10]) == list(range(10))


def test_labeled_images_stand_in_when_nothing_is_unlabeled():
    assert set(PoolSampler(Labels(items(0, 1)), "unlabeled", num_samples=8)) == {0, 1}


def test_nothing_labeled_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"no labeled samples to draw from; there are 2 samples\. Give some"):
        list(PoolSampler(Labels(items(None, None)), "labeled", num_samples=4))


def test_without_balancing_the_order_is_what_it_was():
    pool, generator = Labels(items(*[0] * 9, 1, None)), torch.Generator().manual_seed(seed_of_epoch(3, 2))
    sampler = PoolSampler(pool, "labeled", num_samples=25, seed=3)
    sampler.set_epoch(2)
    assert list(sampler) == torch.cat([torch.randperm(10, generator=generator) for _ in range(3)])[:25].tolist()


def balanced(pool, count, seed=0, epoch=0):
    sampler = PoolSampler(pool, "labeled", num_samples=count, seed=seed, balanced=True)
    sampler.set_epoch(epoch)
    assert len(sampler) == count
    return list(sampler)


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=40).filter(
        lambda labels: any(x is not None for x in labels)
    ),
    count=st.integers(1, 60),
    seed=st.integers(0, 9),
)
def test_a_balanced_order_is_even_over_classes_and_within_each(labels, count, seed):
    order = balanced(Labels(items(*labels)), count, seed)
    assert len(order) == count
    drawn = [order.count(i) for i in range(len(labels))]
    assert not any(times for times, label in zip(drawn, labels, strict=True) if label is None)
    classes = sorted({label for label in labels if label is not None})
    own = {k: [times for times, label in zip(drawn, labels, strict=True) if label == k] for k in classes}
    per_class = [sum(times) for times in own.values()]
    assert max(per_class) - min(per_class) <= 1
    assert all(max(times) - min(times) <= 1 for times in own.values())


def test_every_stretch_of_a_balanced_order_is_balanced():
    """So every batch is, up to the classes that its ends cut."""
    labels = [0] * 50 + [1] * 5 + [2]
    drawn = [labels[i] for i in balanced(Labels(items(*labels)), 60)]
    assert all(sorted(drawn[start : start + 3]) == [0, 1, 2] for start in range(0, 60, 3))
    assert len({tuple(drawn[start : start + 3]) for start in range(0, 60, 3)}) > 1  # in no fixed order


def test_a_balanced_order_depends_on_seed_and_epoch_only():
    pool = Labels(items(*[0] * 20, *[1] * 5))
    first = balanced(pool, 30, seed=0, epoch=1)
    torch.rand(3)  # the global generator does not matter
    assert balanced(pool, 30, seed=0, epoch=1) == first
    assert balanced(pool, 30, seed=0, epoch=2) != first
    assert balanced(pool, 30, seed=1, epoch=1) != first


def test_a_new_class_joins_a_balanced_order_with_the_next_iter():
    pool = Labels(items(*[0] * 9, 1, None))
    sampler = PoolSampler(pool, "labeled", num_samples=30, balanced=True)
    running = iter(sampler)
    next(running)
    pool.annotate([10], [2])
    assert 10 not in set(running)
    assert list(sampler).count(10) == 10


def test_two_processes_share_one_balanced_sequence(monkeypatch):
    pool = Labels(items(*[0] * 9, *[1] * 3))
    alone = balanced(pool, 60)
    parts = []
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        parts.append(balanced(pool, 30))
    assert [index for pair in zip(*parts, strict=True) for index in pair] == alone
    shares = [sum(index >= 9 for index in part) for part in parts]
    assert sum(shares) == 30
    assert 5 < shares[0] < 25  # blocks of two classes in a fixed order would give each process one class


def test_only_the_labeled_side_can_be_balanced():
    with pytest.raises(ValueError, match="only labeled samples can be balanced, not 'unlabeled'"):
        PoolSampler(Labels(items(0, None)), "unlabeled", num_samples=1, balanced=True)


@pytest.mark.parametrize("value", ["false", 1, None])
def test_balanced_is_true_or_false(value):
    with pytest.raises(TypeError, match="`balanced` must be True or False, got"):
        PoolSampler(Labels(items(0)), "labeled", num_samples=1, balanced=value)


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        ([None], ValueError, "no labeled samples to draw from"),
    ],
)
def test_labels_that_cannot_be_balanced(labels, error, match):
    with pytest.raises(error, match=match):
        balanced(Labels(items(*labels)), 4)


def test_a_balanced_order_of_findings_serves_each_and_the_images_without_any():
    labels = [[1, 0, 0]] * 30 + [[1, 1, 0]] * 2 + [[0, -1, 0]] * 8  # nobody has the third
    drawn = [tuple(labels[i]) for i in balanced(Labels(items(*labels, None)), 60)]
    assert drawn.count((0, -1, 0)) == 20
    assert drawn.count((1, 1, 0)) >= 20  # for the second finding, and now and then for the first
    assert sum(label[0] for label in drawn) == 40


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.lists(st.integers(-1, 1), min_size=3, max_size=3), min_size=1, max_size=30),
    count=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_a_balanced_order_of_findings_takes_every_group_in_every_block(labels, count, seed):
    targets = torch.tensor(labels)
    order = balanced_order(strata(labels), count, seeded(seed))
    assert order.tolist() == balanced_order(strata(labels), count, seeded(seed)).tolist()
    assert len(order) == count
    groups = [(targets[:, k] == 1).nonzero().flatten().tolist() for k in range(3)]
    groups.append([i for i, label in enumerate(labels) if 1 not in label])
    groups = [set(group) for group in groups if group]
    for block in order[: count - count % len(groups)].view(-1, len(groups)).tolist():
        assert all(group & set(block) for group in groups)


def test_a_balanced_loader():
    labels = [0] * 18 + [1, 2]
    loader = pool_loader(Indices(20), Labels(items(*labels)), "labeled", 6, epoch_length=4, balanced=True)
    batches = [sorted(labels[i] for i in batch["index"].tolist()) for batch in loader]
    assert batches == [[0, 0, 1, 1, 2, 2]] * 4


def test_a_loader_yields_exactly_epoch_length_batches():
    pool = Labels(items(0, 1, None))
    loader = pool_loader(Indices(3), pool, "labeled", batch_size=4, epoch_length=5)
    batches = [batch["index"].tolist() for batch in loader]
    assert [len(batch) for batch in batches] == [4] * 5
    assert len(loader) == 5
    assert {index for batch in batches for index in batch} == {0, 1}


def test_dataset_and_pool_must_share_one_datalist():
    with pytest.raises(ValueError, match="the dataset has 4 items, the labels 3; both must share one datalist"):
        pool_loader(Indices(4), Labels(items(0, 1, 1)), "labeled", batch_size=1, epoch_length=1)


def streams(pool, length=3, seed=0):
    return {
        "labeled": pool_loader(Indices(len(pool)), pool, "labeled", 2, length, seed),
        "unlabeled": pool_loader(Indices(len(pool)), pool, "unlabeled", 3, length, seed),
    }


def test_streams_are_read_in_step_and_know_no_label():
    loader = MultiStreamLoader(streams(Labels(items(*[0] * 4, *[None] * 6))))
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    for batch in batches:
        assert {name: set(stream) for name, stream in batch.items()} == {"labeled": {"index"}, "unlabeled": {"index"}}
        assert batch["labeled"]["index"].max() < 4 <= batch["unlabeled"]["index"].min()


def test_a_stream_that_is_switched_off_is_left_out():
    pool = Labels(items(*[0] * 4))
    loader = MultiStreamLoader({**streams(pool), "unlabeled": None})
    assert set(next(iter(loader))) == {"labeled"}


def test_streams_of_unequal_length_are_refused():
    pool = Labels(items(0, None))
    unequal = {**streams(pool, 3), "unlabeled": streams(pool, 4)["unlabeled"]}
    with pytest.raises(ValueError, match=r"got \{'labeled': 3, 'unlabeled': 4\}; set `epoch_length` of each alike"):
        MultiStreamLoader(unequal)


def test_an_epoch_is_the_same_whenever_it_is_opened():
    pool = Labels(items(*[0] * 9, *[None] * 9))

    def epoch(loader, number):
        loader.set_epoch(number)
        return [b["labeled"]["index"].tolist() + b["unlabeled"]["index"].tolist() for b in loader]

    first, second = MultiStreamLoader(streams(pool)), MultiStreamLoader(streams(pool))
    whole = [epoch(first, number) for number in (1, 2)]
    assert epoch(second, 2) == whole[1] != whole[0]


class Noise(RandomizableTransform):
    def __call__(self, data):
        return {**data, "draw": self.R.rand()}


def test_random_transforms_are_seeded_by_epoch_and_stream():
    from monai.data import Dataset as TransformedDataset

    def loader():
        dataset = TransformedDataset([{"index": i} for i in range(4)], Noise())
        other = TransformedDataset([{"index": i} for i in range(4)], Noise())
        return MultiStreamLoader({"a": batch_loader(dataset, 2), "b": batch_loader(other, 2)})

    def draws(loader, epoch):
        loader.set_epoch(epoch)
        return [(batch["a"]["draw"].tolist(), batch["b"]["draw"].tolist()) for batch in loader]

    one, two = loader(), loader()
    draws(one, 1)
    assert draws(one, 2) == draws(two, 2) != draws(two, 3)
    a, b = draws(two, 4)[0]
    assert a != b


def test_a_pool_file_of_other_classes_is_read_by_name(tmp_path):
    """A class that is new and sorted first must not turn every label into its neighbour."""
    LabelPool(Labels(Datalist(items(0, 1, None), classes=["low", "zzz"]))).save(tmp_path / "pool.json")
    pool = Labels(Datalist(items(None, None, None), classes=["b_new", "low", "zzz"]), known=tmp_path / "pool.json")
    assert labels_of(pool) == [1, 2, None]
    with pytest.raises(ValueError, match="the datalist lacks"):
        Labels(Datalist(items(None, None, None), classes=["low", "high"]), known=tmp_path / "pool.json")


def test_two_labels_for_one_id_in_a_table_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("id,label\ns0,0\ns0,1\n")
    with pytest.raises(ValueError, match=r"labels\.csv: lines 2 and 3: 's0' has different labels there"):
        Labels(items(None), known=tmp_path / "labels.csv")


def test_a_table_with_semicolons_is_read(tmp_path):
    (tmp_path / "labels.csv").write_text("id;label\ns0;1\n")
    assert labels_of(Labels(items(None), known=tmp_path / "labels.csv")) == [1]


@pytest.mark.parametrize("word", ["null", "None"])
def test_a_command_line_may_say_null(word):
    assert labels_of(Labels(items(1, None), known=word)) == [1, None]


def test_a_fraction_of_one_is_all_and_a_count_of_one_is_one():
    assert labels_of(Labels(items(0, 1, 1), known=1.0)) == [0, 1, 1]
    assert len(Labels(items(0, 1, 1), known=1).indices("labeled")) == 1


# ---- masks beside labels ----------------------------------------------------------------------------------------


def joint():
    """s0 has both; s1 and s2 have one that is hidden; s3 has no class, s4 nothing."""
    items = [
        {"label": 0, "mask": "m/0.png"},
        {"label": 1, "mask": "m/1.png", "masked": False},
        {"label": 1, "labeled": False},
        {"mask": "m/3.png"},
        {},
    ]
    return Datalist(
        [{"image": f"{i}.png", "id": f"s{i}", **item} for i, item in enumerate(items)],
        classes=["normal", "pneumonia"],
        mask_classes=["background", "lung"],
    )


def test_two_pools_of_one_datalist_know_nothing_of_each_other():
    classes, masks = Labels(joint()), Labels(joint(), key="mask")
    assert labels_of(classes) == [0, 1, None, None, None]
    assert labels_of(masks) == ["m/0.png", None, None, "m/3.png", None]
    assert (classes.kind.word, masks.kind.word) == ("classes", "masks")
    assert (classes.kind.names, masks.kind.names) == (("normal", "pneumonia"), ("background", "lung"))
    masks.annotate([2], ["m/2.png"])
    classes.correct([0], [1])
    assert labels_of(classes) == [1, 1, None, None, None]
    assert labels_of(masks) == ["m/0.png", None, "m/2.png", "m/3.png", None]
    assert Labels(Datalist(items(0, 1)), key="mask").kind.word == "masks", "also where no mask is known"


def test_draws_of_classes_and_masks_are_independent():
    both = Datalist([{"image": f"{i}.png", "id": f"s{i}", "label": 0, "mask": f"m{i}.png"} for i in range(60)])
    same = [
        set(Labels(both, known=20, seed=seed).indices("labeled").tolist())
        & set(Labels(both, known=20, seed=seed, key="mask").indices("labeled").tolist())
        for seed in range(5)
    ]
    assert 3 < sum(map(len, same)) / 5 < 11  # 20 * 20 / 60 is expected


@pytest.mark.parametrize(
    ("index", "labels", "match"),
    [
        ([0], ["m.png"], "'s0' is masked already; correct it instead"),
        ([1], [1], "the mask of 's1' is 1, and must be the path of a mask"),
        ([1], [""], "the mask of 's1' is an empty path"),
    ],
)
def test_refusals_name_the_mask(index, labels, match):
    with pytest.raises(ValueError, match=match):
        Labels(joint(), key="mask").annotate(index, labels)
    with pytest.raises(ValueError, match="'s1' has no mask yet"):
        Labels(joint(), key="mask").correct([1], ["m.png"])
    with pytest.raises(ValueError, match="the mask of 's1' is 0, and must be the path of a mask"):
        Labels(joint(), key="mask", known=0).annotate([1], [0])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"key": "masks"}, r"`key` must be one of \('label', 'mask'\), got 'masks'"),
        ({"kind": "classes"}, "the mask of 's0' is 'm/0.png', and must be a class index"),
        ({"known": 4}, "`mask_labels` asks for 4 items, and the training section has 3 with a mask"),
    ],
)
def test_errors_of_a_pool_of_masks(options, match):
    with pytest.raises(ValueError, match=match):
        Labels(joint(), **{"key": "mask", **options})


def test_no_mask_to_draw_from():
    pool = Labels(joint(), key="mask", known=0)
    with pytest.raises(ValueError, match="Give some items a mask, or name a table of masks with `mask_labels`"):
        list(PoolSampler(pool, "labeled", num_samples=1))


def test_files_and_states_of_masks_beside_labels(tmp_path):
    pool = Labels(joint(), key="mask")
    pool.annotate([4], ["mine/4.png"])
    LabelPool(pool).save(tmp_path / "masks.json")
    assert json.loads((tmp_path / "masks.json").read_text())["labels"] == {"s0": True, "s3": True, "s4": "mine/4.png"}
    again, resumed = Labels(joint(), known=tmp_path / "masks.json", key="mask"), Labels(joint(), key="mask")
    resumed.load_state_dict(pool.state_dict())
    assert labels_of(again) == labels_of(resumed) == labels_of(pool)
    with pytest.raises(ValueError, match=r"masks.json holds masks, and these are labels"):
        Labels(joint(), known=tmp_path / "masks.json")


def test_one_table_may_hold_classes_and_masks(tmp_path):
    (tmp_path / "t.csv").write_text("id,label,mask\ns2,pneumonia,\ns4,normal,m4.png\n")
    (tmp_path / "m4.png").write_bytes(b"")
    classes, masks = (Labels(joint(), known=tmp_path / "t.csv", key=key) for key in ("label", "mask"))
    assert labels_of(classes) == [None, None, 1, None, 0]
    assert labels_of(masks) == [None] * 4 + [str(tmp_path / "m4.png")]
    (tmp_path / "t.csv").write_text("id,label\ns2,1\n")
    with pytest.raises(ValueError, match="must have the columns 'id' and 'mask'"):
        Labels(joint(), known=tmp_path / "t.csv", key="mask")


# ---- several parts --------------------------------------------------------------------------------------------------


def pair(known=None, **masks):
    """The classes of a datalist, and the masks beside them."""
    return LabelPool([Labels(joint(), known), Labels(joint(), **{"known": known, "key": "mask", **masks})])


def test_a_file_has_the_labels_of_all_parts_and_each_takes_its_own(tmp_path):
    pool = pair()
    pool["label"].annotate([4], [0])
    pool["mask"].annotate([2], ["m/2.png"])
    pool.save(tmp_path / "pool.json")
    again = pair(tmp_path / "pool.json")
    assert labels_of(again["label"]) == labels_of(pool["label"])
    assert labels_of(again["mask"]) == labels_of(pool["mask"]) == ["m/0.png", None, "m/2.png", "m/3.png", None]
    assert '"m/0.png"' not in (tmp_path / "pool.json").read_text(), "what the datalist names is not written down"
    assert labels_of(Labels(joint(), known=tmp_path / "pool.json")) == labels_of(pool["label"]), "classes alone"


def test_a_file_takes_masks_away_that_the_datalist_shows(tmp_path):
    LabelPool([Labels(joint()), Labels(joint(), known=0, key="mask")]).save(tmp_path / "pool.json")
    assert not pair(tmp_path / "pool.json")["mask"].mask.any()


def test_a_checkpoint_has_all_parts():
    pool, again = pair(), pair()
    pool["label"].annotate([4], [0])
    pool["mask"].annotate([1], ["m/1.png"])
    again.load_state_dict(pool.state_dict())
    assert [labels_of(labels) for labels in again.parts.values()] == [labels_of(part) for part in pool.parts.values()]
    assert len(pool) == 5


def test_an_image_that_cannot_be_read_is_left_out_of_all_parts():
    pool = pair()
    pool.exclude([0])
    assert all(0 not in labels.indices("all") for labels in pool.parts.values())
    assert pool.first.label(0) == 0, "no label is lost"


def test_a_mask_that_cannot_be_read_takes_no_class_away():
    pool = pair(read=SimpleNamespace(unreadable={3: "mask: torn"}, read=lambda paths: None))
    pool.quarantine([1])
    assert [set(labels.indices("all").tolist()) for labels in pool.parts.values()] == [{0, 2, 3, 4}, {0, 2, 4}]


def test_masks_that_nobody_learns_are_not_read():
    read = SimpleNamespace(unreadable={3: "mask: torn"}, read=lambda paths: pytest.fail("read"))
    pool = pair(read=read)
    pool.quarantine([1], ["label"])
    assert 3 in pool["mask"].indices("all")


def test_only_what_a_method_learns_is_measured():
    pool = pair()
    assert pool.of(["label", "mask"]) is pool
    assert list(pool.of(["mask"]).parts) == ["mask"]
    assert pool.of(["mask"]).first is pool["mask"]
    alone = pool.of(["label"])
    assert (pool.names_of("mask"), alone.names_of("mask")) == (["background", "lung"], [])
    masks = LabelPool(Labels(joint(), key="mask"))
    assert masks.of(["label"]) is masks, "masks that are the labels"


@pytest.mark.parametrize(
    "other",
    [lambda: Labels(joint()), lambda: Labels(Datalist(joint()[:3]), key="mask")],
    ids=["of one key", "of another datalist"],
)
def test_parts_are_of_one_datalist_and_of_several_keys(other):
    with pytest.raises(ValueError, match="the parts of a pool must be of one datalist, and each of another key"):
        LabelPool([Labels(joint()), other()])


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(KeyError, match="have no 'mask'; their parts are"):
        LabelPool(Labels(items(0)))["mask"]


def sources(*names):
    return [
        {"image": f"{i}.png", "id": str(i), **({} if name is None else {"source": name}), "label": 0, "labeled": i < 2}
        for i, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("names", "unlabeled"),
    [
        (["a", "a", "a", "b", "a"], [2, 4]),
        ([None, None, None, "b", None], [2, 4]),
        (["a", "b", "a", "b", "a"], [2, 3, 4]),
        ([None] * 5, [2, 3, 4]),
    ],
)
def test_unlabeled_images_are_of_the_sources_that_have_labels(names, unlabeled):
    """Otherwise a method learns what tells one source from the other."""
    pool = Labels(sources(*names))
    assert pool.indices("unlabeled").tolist() == [2, 3, 4], "all can be queried"
    assert pool.drawable("unlabeled").tolist() == unlabeled
    sampler = PoolSampler(pool, "unlabeled", 12)
    assert set(sampler) == set(unlabeled)


def test_of_a_source_without_unlabeled_images_the_labeled_ones_stand_in():
    pool = Labels(sources("a", "a", "b"))
    assert set(PoolSampler(pool, "unlabeled", 6)) == {0, 1}


# ---- files that others wrote or damaged -----------------------------------------------------------------------------


def saved(folder, **changes):
    """A file of labels, with changes to what it says; those that are None are taken out."""
    LabelPool(Labels(Datalist(items(0, 1, None), classes=["a", "b"]))).save(folder / "pool.json")
    content = {**json.loads((folder / "pool.json").read_text()), **changes}
    text = json.dumps({key: value for key, value in content.items() if value is not ...})
    (folder / "pool.json").write_text(text)
    return folder / "pool.json"


def read(path, **options):
    return Labels(Datalist(items(None, None, None), classes=["a", "b"]), known=path, **options)


PART = {"key": "mask", "kind": "masks", "names": [], "labels": {}}


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": []},
        {"labels": ...},
        {"labels": {"s0": 2}},
        {"labels": {"s0": -1}},
        {"labels": {"s0": 1.0}},
        {"labels": {"s0": False}},
        {"labels": {"s0": True}},
        {"labels": {"s0": None}},
        {"labels": {"s0": {"a": 1}}},
        {"labels": {"s0": [[1], [0]]}},
        {"labels": {"s0": 10**400}},
        {"labels": {"s0": 10**30}, "names": []},
        {"labels": {"s0": "a.png"}},
        {"labels": {"\ud800": 1}},
        {"names": ["b", "a", "a"]},
        {"names": ["$open('x')", "b"]},
        {"names": [1, 2]},
        {"names": {"0": "a"}},
        {"names": "ab"},
        {"names": ["other", "b"]},
        {"kind": "findings"},
        {"kind": ["classes"]},
        {"key": "masks"},
        {"key": ["label"]},
        {"query_size": [1]},
        {"query_size": [1, -1]},
        {"query_size": [1, 2.0]},
        {"query_size": [True, 1]},
        {"query_size": None},
        {"query_size": [0, 10**30]},
        {"note": "mine"},
        {"others": {}},
        {"others": [{**PART, "kind": "sides"}]},
        {"others": [{**PART, "labels": {"nobody": "a.png"}}]},
        {"others": [{**PART, "others": [PART]}]},
    ],
)
def test_a_damaged_file_of_labels_is_refused_by_name(tmp_path, changes):
    path = saved(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"pool\.json"):
        read(path), read(path, key="mask")


@pytest.mark.parametrize("text", ["", "[1]", '{"labels": {"s0": 0, "s0": 1}}', '{"query_size": NaN}', "[" * 100_000])
def test_what_is_no_json_object_is_refused_by_name(tmp_path, text):
    (tmp_path / "pool.json").write_text(text)
    with pytest.raises(ValueError, match=r"pool\.json"):
        read(tmp_path / "pool.json")


def test_masks_of_the_datalist_survive_other_names_of_classes(tmp_path):
    """`true` is no class index 1."""
    masks = Datalist(items("a.png", None), classes=["background", "cord"])
    LabelPool(Labels(masks)).save(tmp_path / "pool.json")
    other = Datalist(items("a.png", None), classes=["background", "cord", "disc"])
    assert labels_of(Labels(other, known=tmp_path / "pool.json")) == ["a.png", None]


def test_an_id_that_unicode_writes_in_two_ways_is_found(tmp_path):
    path = saved(tmp_path, labels={"\u00e9": 0, "e\u0301": 1})
    with pytest.raises(ValueError, match="written in two ways that Unicode takes for one"):
        Labels([{"id": "\u00e9"}], known=path)
    path = saved(tmp_path, labels={"e\u0301": 1})
    assert labels_of(Labels([{"id": "\u00e9"}], known=path, names=["a", "b"])) == [1]


# ---- files that several write ---------------------------------------------------------------------------------------


def test_a_run_writes_over_its_own_labels_and_keeps_those_of_others(tmp_path, caplog):
    path, pool = tmp_path / "pool.json", pair()
    pool.save_over(path)
    pool["label"].annotate([4], [0])
    pool.save_over(path)
    assert not list(tmp_path.glob("pool.previous*"))
    other = pair(path)
    other["label"].annotate([2], [1])
    other["mask"].annotate([1], ["mine.png"])
    for save in (other.save, lambda path: path.write_text("{")):
        save(path)
        before = path.read_bytes()
        pool.save_over(path)
        assert labels_of(pair(path)["label"]) == labels_of(pool["label"])
        kept = sorted(tmp_path.glob("pool.previous*.json"))[-1]
        assert kept.read_bytes() == before
        assert f"it is {kept.name} now" in caplog.text
    pool["label"].correct([0], [1])
    pool.save_over(path)
    assert len(list(tmp_path.glob("pool.previous*"))) == 3
