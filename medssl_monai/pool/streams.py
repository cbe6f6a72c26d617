"""Loaders that follow what is known: images of the labeled or the unlabeled side, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import ignite.distributed as idist
import torch
from monai.data import DataLoader, set_rnd
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from medssl_monai.data.images import ImageDataset
from medssl_monai.pool.draws import Strata
from medssl_monai.pool.labels import ASKED_BY, Labels, Subset
from medssl_monai.pool.patches import PatchDataset
from medssl_monai.seeds import seed_of_epoch


class PoolSampler(Sampler[int]):
    """Draw a fixed number of positions per epoch from one side of labels.

    The labels are read anew at every ``iter()``, so an annotation takes effect with the next epoch. Positions are drawn
    as a sequence of permutations: none is repeated before all were seen. Several processes share one sequence. When
    nothing is left on the unlabeled side, labeled samples stand in, without their labels. Images of a source (datalist)
    of which no label is known are not drawn: what they look like differs with the source, and a method that compares
    labeled and unlabeled images would learn that.

    Args:
        labels: to draw from.
        subset: which side of it.
        num_samples: positions per epoch and process.
        seed: together with the epoch, decides the order.
        balanced: draw every class that has a label equally often (labeled side only), see `balanced_order`. Few images
            of a rare class are then seen very often.

    Raises:
        ValueError: if `balanced` is asked for another side.
        TypeError: if `balanced` is neither true nor false.
    """

    def __init__(self, labels: Labels, subset: Subset, num_samples: int, seed: int = 0, balanced: bool = False) -> None:
        if not isinstance(balanced, bool):  # a shell's "false" would be true
            raise TypeError(f"`balanced` must be True or False, got {balanced!r}.")
        if balanced and subset != "labeled":
            raise ValueError(f"only labeled samples can be balanced, not {subset!r}; switch `balanced` off.")
        self.labels, self.subset, self.num_samples, self.seed = labels, subset, num_samples, seed
        self.balanced, self.epoch = balanced, 0

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _strata(self, positions: Tensor) -> Strata:
        known = [self.labels.label(i) for i in positions.tolist()]
        return [self.labels.kind.strata(label) for label in known if label is not None]

    def __iter__(self) -> Iterator[int]:
        positions = self.labels.drawable(self.subset)
        if len(positions) == 0 and self.subset == "unlabeled":
            positions = self.labels.drawable("all")
        if len(positions) == 0:
            lost = len(self.labels) - len(self.labels.indices("all"))
            raise ValueError(
                f"no {self.subset} samples to draw from; there are {len(self.labels)} samples"
                f"{f', {lost} of them unreadable' if lost else ''}. Give some items a {self.labels.key}, or name a "
                f"table of {self.labels.key}s with `{ASKED_BY[self.labels.key]}`."
            )
        generator = torch.Generator().manual_seed(seed_of_epoch(self.seed, self.epoch))
        rank, world_size = idist.get_rank(), idist.get_world_size()
        total = self.num_samples * world_size
        if self.balanced:
            order = balanced_order(self._strata(positions), total, generator)
        else:
            order = permutations(len(positions), total, generator)
        yield from positions[order[rank:total:world_size]].tolist()


def permutations(count: int, total: int, generator: torch.Generator) -> Tensor:
    """`total` of the numbers below `count`: one permutation after the other."""
    rounds = -(-total // count)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:total]


def balanced_order(strata: Strata, total: int, generator: torch.Generator) -> Tensor:
    """Return `total` positions in `strata`, of every stratum as many as of any other, give or take one.

    Blocks of one position per stratum, the strata in random order; each stratum goes through permutations of its own
    positions, so that those of one stratum are drawn equally often as well, give or take one. A label of several
    strata, such as several findings, is drawn for each of them, so that findings that come together come more often.

    Args:
        strata: of each label, see `medssl_monai.kinds.Kind.strata`.
        total: positions to draw.
        generator: draws them.
    """
    members: dict[int, list[int]] = {}
    for position, own in enumerate(strata):
        for stratum in own:
            members.setdefault(stratum, []).append(position)
    groups = [torch.tensor(members[stratum]) for stratum in sorted(members, key=lambda k: (k < 0, k))]
    blocks = -(-total // len(groups))
    order = torch.stack([own[permutations(len(own), blocks, generator)] for own in groups], dim=1)
    shuffle = torch.rand(order.shape, generator=generator).argsort(dim=1)
    return order.gather(1, shuffle).flatten()[:total]


def pool_loader(
    dataset: Dataset[Any],
    labels: Labels,
    subset: Subset,
    batch_size: int,
    epoch_length: int,
    seed: int = 0,
    balanced: bool = False,
    foreground: float = 0.33,
    **kwargs: Any,
) -> DataLoader:
    """Return a loader that yields exactly `epoch_length` batches of one side of labels.

    Args:
        dataset: item ``i`` must be sample ``i`` of the labels' datalist. An `ImageDataset` with a `patch_size` gives
            random patches of that size.
        labels: to draw from.
        subset: which side of it.
        batch_size: samples per batch.
        epoch_length: batches per epoch, whatever the size of the subset.
        seed: see `PoolSampler`.
        balanced: see `PoolSampler`.
        foreground: share of the labeled patches around a voxel of foreground, see `PatchDataset`.
        kwargs: passed on to `monai.data.DataLoader`.

    Raises:
        ValueError: if dataset and labels differ in length.
    """
    length = len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not declare it
    if patch_size := getattr(dataset, "patch_size", None):
        if subset == "labeled" and labels.kind.cases is not None:
            raise ValueError(f"{labels.kind.word} are of whole images, and not of patches; set `patch_size` to null.")
        known = labels if subset == "labeled" else None
        dataset = PatchDataset(cast(ImageDataset, dataset), patch_size, known, foreground)
    if length != len(labels):
        raise ValueError(f"the dataset has {length} items, the labels {len(labels)}; both must share one datalist.")
    sampler = PoolSampler(labels, subset, num_samples=batch_size * epoch_length, seed=seed, balanced=balanced)
    return batch_loader(dataset, batch_size=batch_size, sampler=sampler, **kwargs)


def batch_loader(dataset: Dataset[Any], batch_size: int, **kwargs: Any) -> DataLoader:
    """MONAI's loader; a dataset that gathers whole batches itself (``collate`` attribute) is not collated again."""
    collate = getattr(dataset, "collate", None)
    return DataLoader(dataset, batch_size=batch_size, **({"collate_fn": collate} if collate else {}), **kwargs)


class MultiStreamLoader:
    """Read several loaders in step: ``{"labeled": batch, "unlabeled": batch, ...}``.

    It ends with its loaders and is opened anew for every epoch, which is when annotations and seeds take effect.

    Args:
        streams: loaders of equal length, by name; None leaves a stream out.
        seed: with the epoch, seeds random transforms that run in this process (``num_workers=0``).

    Raises:
        ValueError: if the loaders differ in length.
    """

    def __init__(self, streams: Mapping[str, DataLoader | None], seed: int = 0) -> None:
        self.streams = {name: loader for name, loader in streams.items() if loader is not None}
        lengths = {name: len(loader) for name, loader in self.streams.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"streams must have equal lengths, got {lengths}; set `epoch_length` of each alike.")
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(next(iter(self.streams.values())))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentations to produce; `medssl_monai.handlers.EpochSeed` calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for position, loader in enumerate(self.streams.values()):
            if isinstance(loader.sampler, PoolSampler):
                loader.sampler.set_epoch(self.epoch)
            if loader.num_workers == 0:
                set_rnd(loader.dataset, seed_of_epoch(self.seed, self.epoch) * len(self.streams) + position)
        for batches in zip(*self.streams.values(), strict=True):
            yield dict(zip(self.streams, batches, strict=True))
