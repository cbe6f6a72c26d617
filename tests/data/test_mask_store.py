"""Masks as labels: read once, only if known, and never by what is hidden."""

import numpy as np
import pytest
import torch

from medssl_monai.data import Datalist
from medssl_monai.data.mask_store import Masks
from medssl_monai.kinds import kind_named
from medssl_monai.pool import LabelPool, Labels
from medssl_monai.pool.annotate import annotate_from_table
from medssl_monai.transforms import UNLABELED

N = 4


@pytest.fixture
def data(tmp_path):
    """Four images of 3 x 2 with masks of three classes; the first two are labeled."""
    rng = np.random.default_rng(0)
    items = []
    for i in range(N):
        np.save(tmp_path / f"{i}.npy", rng.integers(0, 3, (3, 2)))
        items.append({"image": f"i{i}.png", "id": f"s{i}", "label": str(tmp_path / f"{i}.npy"), "labeled": i < 2})
    return Datalist(items, classes=["background", "cord", "canal"])


class Read:
    """Remembers what was read."""

    def __init__(self):
        self.paths = []

    def __call__(self, item):
        self.paths.append(item["label"])
        assert item["image"].startswith("i")
        mask = np.load(item["label"])
        if mask.max() > 2:
            raise ValueError("classes from 0 to 2 are wanted")
        return {**item, "label": torch.as_tensor(mask)[None]}


@pytest.fixture
def pool(data):
    """Its masks are read without a cache, and the reader remembers."""
    read = Read()
    pool = Labels(data, read=Masks(data, read))
    pool.opened = read.paths
    return pool


def mask_of(data, i):
    return torch.as_tensor(np.load(data[i]["label"]))


def test_known_masks_are_targets_and_others_unknown(pool, data):
    assert pool.kind == kind_named("masks", data.classes)
    targets = pool.targets(torch.tensor([1, 3, 0]))
    assert targets.dtype == torch.long
    assert torch.equal(targets[0], mask_of(data, 1))
    assert torch.equal(targets[2], mask_of(data, 0))
    assert (targets[1] == -1).all()


def test_a_hidden_mask_is_not_read_and_a_known_one_once(pool, data):
    for _ in range(3):
        pool.targets(torch.arange(N))
    assert sorted(pool.opened) == [data[0]["label"], data[1]["label"]]
    pool.annotate([3], [data[3]["label"]])
    assert torch.equal(pool.targets(torch.tensor([3]))[0], mask_of(data, 3))
    assert len(pool.opened) == 3


def test_a_corrected_mask_is_read_again(pool, data, tmp_path):
    pool.targets(torch.tensor([0]))
    np.save(tmp_path / "new.npy", np.full((3, 2), 2))
    pool.correct([0], [str(tmp_path / "new.npy")])
    assert (pool.targets(torch.tensor([0])) == 2).all()


def test_voxels_that_nobody_labeled_are_unknown(data):
    masks = Masks(data, lambda item: {"label": torch.tensor([[[0, UNLABELED], [1, 2]]])})
    targets = Labels(data, read=masks).targets(torch.tensor([0]))
    assert targets.tolist() == [[[0, -1], [1, 2]]]


def test_what_is_excluded_is_unknown(pool):
    pool.exclude([0])
    assert (pool.targets(torch.tensor([0])) == -1).all()
    assert (pool.targets(torch.tensor([1])) >= 0).all()


def test_a_bad_mask_stops_the_run_by_id_or_is_skipped_and_listed(data):
    np.save(data[0]["label"], np.full((3, 2), 9))
    pool = Labels(data, read=Masks(data, Read()))
    with pytest.raises(ValueError, match=r"masks: 1 of 2 .*\n  s0: ValueError: classes from 0 to 2"):
        pool.targets(torch.tensor([1]))
    pool = Labels(data, read=Masks(data, Read(), on_bad_file="skip"))
    assert list(pool.unreadable) == [0]
    assert pool.unreadable[0].startswith("mask: ValueError: classes")
    pool.exclude(pool.unreadable)
    assert pool.indices("labeled").tolist() == [1]
    assert (pool.targets(torch.tensor([0])) == -1).all()


def test_without_any_mask_there_is_no_shape(data):
    pool = Labels(data, known=0, read=Masks(data, Read()))
    with pytest.raises(ValueError, match="no mask is known; label an image first"):
        pool.targets(torch.tensor([0]))
    with pytest.raises(TypeError, match="give the labels `read`"):
        Labels(data).targets(torch.tensor([0]))
    with pytest.raises(ValueError, match="masks have no fixed number of cases"):
        Labels(data).counts(3)


def test_images_without_masks_need_their_kind_named():
    data = Datalist([{"image": "a.png", "id": "a"}])
    pool = Labels(data, kind="masks")
    assert pool.refusal("a", 1, labeled=False) == "the label of 'a' is 1, and must be the path of a mask"


def test_a_person_names_masks_relative_to_the_table(pool, data, tmp_path):
    table = tmp_path / "round_00.csv"
    table.write_text("id,label\ns2,2.npy\ns3,lost.npy\n")
    accepted, refused = annotate_from_table(LabelPool([pool]), table)["label"]
    assert accepted == ["s2"]
    assert refused == ["line 3: the label of 's3' is 'lost.npy', and there is no such file"]
    assert torch.equal(pool.targets(torch.tensor([2]))[0], mask_of(data, 2))


def test_a_mask_in_the_cache_belongs_to_its_image(tmp_path):
    """The place of a mask is that of its image: another image under the same path is looked at again."""
    np.save(tmp_path / "m.npy", np.zeros((3, 2)))
    data = Datalist([{"image": str(tmp_path / "i.npy"), "id": "a", "label": str(tmp_path / "m.npy")}])

    def check(item):
        mask = np.load(item["label"])
        if np.load(item["image"]).shape != mask.shape:
            raise ValueError("another shape")
        return {"label": torch.as_tensor(mask)[None]}

    for shape, fits in (((3, 2), True), ((4, 2), False)):
        np.save(tmp_path / "i.npy", np.zeros(shape))
        pool = Labels(
            data, kind=kind_named("masks", ("nothing", "spot")), read=Masks(data, check, cache_dir=tmp_path / "cache")
        )
        if fits:
            assert (pool.targets(torch.tensor([0])) == 0).all()
        else:
            with pytest.raises(ValueError, match="another shape"):
                pool.targets(torch.tensor([0]))


def test_state_brings_masks_back(pool, data):
    pool.annotate([2], [data[2]["label"]])
    other = Labels(data, known=0, read=Masks(data, Read()))
    other.load_state_dict(pool.state_dict())
    assert torch.equal(other.targets(torch.arange(N)), pool.targets(torch.arange(N)))


def test_masks_beside_labels_are_targets_of_a_pool_of_their_own(data):
    both = Datalist(
        [{**item, "label": 1, "mask": item["label"], "masked": i == 2} for i, item in enumerate(data)],
        classes=["normal", "ill"],
        mask_classes=data.classes,
    )
    read = Read()
    pool = Labels(both, key="mask", read=Masks(both, read))
    targets = pool.targets(torch.arange(N))
    assert torch.equal(targets[2], mask_of(data, 2))
    assert (targets[[0, 1, 3]] == -1).all()
    assert read.paths == [data[2]["label"]], "a hidden mask is not even read"
