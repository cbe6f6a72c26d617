"""Views for segmentation: image and mask move alike, strong views stay where weak ones are."""

import pytest
import torch

from medssl_monai.transforms import Affine, Brightness
from medssl_monai.transforms.views_masks import MaskViews


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def disks(dims, size=24):
    """Blurred balls at different places, and which voxels they cover."""
    axes = torch.meshgrid(*[torch.arange(size).float()] * dims, indexing="ij")
    centre = torch.tensor([[0.4] * dims, [0.6] * dims, [0.5] * dims]) * size
    distance = torch.stack([sum((a - c) ** 2 for a, c in zip(axes, at, strict=True)).sqrt() for at in centre])
    return (size / 4 - distance).sigmoid()[:, None], (distance < size / 4).long()


@pytest.mark.parametrize("dims", [2, 3])
def test_masks_move_with_their_images(dims):
    images, masks = disks(dims)
    views = MaskViews(Affine(rotate=30, shift=0.1, scale=0.1, flip=[0, 1]))
    moved = views({"labeled": {"image": images, "label": masks, "index": torch.arange(3)}}, generator())["labeled"]
    assert moved["label"].dtype == torch.long
    assert not torch.equal(moved["label"], masks)
    known = moved["label"] >= 0
    agree = (moved["image"][:, 0] > 0.5) == (moved["label"] == 1)
    assert agree[known].float().mean() > 0.98  # the border falls between voxels
    assert moved["index"].tolist() == [0, 1, 2]


def test_what_comes_from_outside_is_unknown():
    views = MaskViews(Affine(shift=0.4))
    batch = {"labeled": {"image": torch.ones(4, 1, 16, 16), "label": torch.ones(4, 16, 16, dtype=torch.long)}}
    moved = views(batch, generator())["labeled"]["label"]
    assert set(moved.unique().tolist()) == {-1, 1}
    assert (moved == -1).float().mean() < 0.6


def test_nothing_moves_without_a_transform_and_unknown_stays_unknown():
    masks = torch.randint(-1, 5, (3, 16, 12))
    batch = {"labeled": {"image": torch.rand(3, 1, 16, 12), "label": masks}}
    moved = MaskViews(Affine())(batch, generator())["labeled"]
    assert torch.equal(moved["label"], masks)
    torch.testing.assert_close(moved["image"], batch["labeled"]["image"])


def test_a_strong_view_is_where_its_weak_view_is():
    images, _ = disks(2)
    views = MaskViews(Affine(rotate=30, shift=0.2, flip=[0]), Brightness(0.3))
    result = views({"unlabeled": {"image": images * 0.3 + 0.35}}, generator())["unlabeled"]
    offset = result["strong"] - result["weak"]
    assert offset.abs().max() > 0.01
    torch.testing.assert_close(offset.flatten(1).std(dim=1), torch.zeros(3), atol=1e-5, rtol=0)
    assert "strong" not in MaskViews(Affine())({"unlabeled": {"image": images}}, generator())["unlabeled"]


def test_the_same_generator_gives_the_same_views():
    images, masks = disks(3, 12)
    views = MaskViews(Affine(rotate=20, flip=[0, 1, 2]))
    batch = {"labeled": {"image": (images * 255).byte(), "label": masks}}
    one, two = (views(batch, generator(7))["labeled"] for _ in range(2))
    assert torch.equal(one["image"], two["image"])
    assert torch.equal(one["label"], two["label"])
    assert one["image"].dtype == torch.float32
