"""Random patches of images and their masks."""

import pytest
import torch

from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.data.mask_store import Masks
from medssl_monai.pool import Labels, MultiStreamLoader, pool_loader
from medssl_monai.pool.patches import PatchDataset

SHAPE = (12, 10, 6)


def place(shape):
    """A number for every voxel."""
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


@pytest.fixture
def data():
    return Datalist([{"image": f"{i}", "id": f"{i}", "label": f"m{i}.nii"} for i in range(3)], classes=["b", "f"])


@pytest.fixture
def dataset(data):
    """Volumes whose grey value says which voxel it is."""
    image = place(SHAPE)[None] / place(SHAPE).max()
    return ImageDataset(data, lambda item: {"image": image}, dtype="float32", patch_size=(4, 4, 4))


@pytest.fixture
def pool(data):
    """One voxel of foreground, in a corner."""
    mask = torch.zeros(SHAPE, dtype=torch.long)
    mask[0, 9, 5] = 1
    return Labels(data, read=Masks(data, lambda item: {"label": mask[None]}))


def voxels(batch):
    return (batch["image"] * place(SHAPE).max()).round().long()[:, 0]


def test_image_and_mask_are_cut_alike(dataset, data):
    mask = place(SHAPE) % 7
    pool = Labels(data, kind="masks", read=Masks(data, lambda item: {"label": mask[None]}))
    batch = PatchDataset(dataset, (4, 3, 6), pool, 0.5).__getitems__([0, 2, 1])
    assert batch["image"].shape == (3, 1, 4, 3, 6)
    assert torch.equal(batch["label"], voxels(batch) % 7)
    assert batch["index"].tolist() == [0, 2, 1]


def test_a_patch_is_one_box(dataset):
    first = voxels(PatchDataset(dataset, (4, 4, 4), None, 0.0).__getitems__([0]))[0]
    assert torch.equal(first - first[0, 0, 0], place(SHAPE)[:4, :4, :4])


def test_an_axis_that_is_shorter_gives_all_it_has(dataset):
    batch = PatchDataset(dataset, (4, 4, 9), None, 0.0).__getitems__([0])
    assert batch["image"].shape == (1, 1, 4, 4, 6)


def test_foreground_is_found_however_rare(dataset, pool):
    always = PatchDataset(dataset, (4, 4, 4), pool, foreground=1.0)
    assert all((always.__getitems__([0])["label"] == 1).any() for _ in range(20))
    never = PatchDataset(dataset, (4, 4, 4), pool, foreground=0.0)
    found = [bool((never.__getitems__([0])["label"] == 1).any()) for _ in range(60)]
    assert sum(found) < 20  # 1 of 9 x 7 x 3 boxes has the corner


def test_a_loader_shows_as_much_foreground_as_it_is_told(dataset, pool):
    shares = []
    for foreground in (0.0, 0.33, 0.8):
        (batch,) = pool_loader(dataset, pool, "labeled", 300, 1, foreground=foreground)
        shares.append((batch["label"] == 1).flatten(1).any(dim=1).double().mean().item())
    assert shares == pytest.approx([0.0, 0.33, 0.8], abs=0.08)  # 1 of 189 boxes has the corner by chance


def test_a_mask_without_foreground_gives_patches_anywhere(dataset, data):
    pool = Labels(data, read=Masks(data, lambda item: {"label": torch.zeros(1, *SHAPE)}))
    starts = {int(voxels(PatchDataset(dataset, (4, 4, 4), pool, 1.0).__getitems__([0]))[0, 0, 0, 0])}
    patches = PatchDataset(dataset, (4, 4, 4), pool, 1.0)
    starts |= {int(voxels(patches.__getitems__([0]))[0, 0, 0, 0]) for _ in range(20)}
    assert len(starts) > 5


def test_an_epoch_has_its_own_patches_and_the_same_ones_again(dataset, pool):
    def epoch(number):
        loader = MultiStreamLoader({"labeled": pool_loader(dataset, pool, "labeled", 2, 3)}, seed=1)
        loader.set_epoch(number)
        return torch.cat([batch["labeled"]["image"] for batch in loader])

    assert epoch(1).shape == (6, 1, 4, 4, 4)
    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))


def test_only_the_labeled_stream_brings_masks(dataset, pool):
    streams = {name: pool_loader(dataset, pool, name, 2, 1) for name in ("labeled", "all")}
    batch = next(iter(MultiStreamLoader(streams)))
    assert "label" in batch["labeled"]
    assert "label" not in batch["all"]


def test_a_size_of_other_axes_or_no_share_is_refused(dataset, pool):
    with pytest.raises(ValueError, match=r"patches of the size \[4, 4\] do not fit images \[12, 10, 6\]"):
        PatchDataset(dataset, (4, 4), None, 0.0).__getitems__([0])
    with pytest.raises(ValueError, match="`foreground` is a share"):
        pool_loader(dataset, pool, "labeled", 2, 1, foreground=2.0)
