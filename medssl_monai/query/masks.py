"""Queries for masks: which images, volumes, or slices of volumes to segment by hand next.

A slice is an image like any other where the datalist has an item for it (``slice``). Scores are of whole images, and
padding counts, as the background that it is predicted to be. The images are predicted again, a few at a time, since
nobody keeps the probabilities of every voxel of a pool. Uncertainty means nothing before the network has learned
something: ask for the first masks by `medssl_monai.query.Clusters`, and then change (`AfterColdStart`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from medssl_monai.networks.modes import evaluating
from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.query.base import Query, top_unlabeled
from medssl_monai.query.uncertainty import random, reduced, state_entropy


def foreground_random(outputs: PoolOutputs, budget: int, generator: torch.Generator, share: float = 2 / 3) -> Query:
    """Random samples, but a share of the budget from images in which the network predicts foreground.

    The baseline that few published strategies beat (nnActive, Lüth et al., TMLR 2025). There, a part of the random
    patches must hold foreground by the reference masks; a query reads no mask, so here it is foreground by prediction.
    The rarer the foreground, the more this differs from `random`: not at all if every image has some. Before the first
    label predictions mean nothing, and it is `random`, as `Query.reason` says.

    Args:
        outputs: see `PoolOutputs`.
        budget: how many.
        generator: decides.
        share: of the budget that has predicted foreground, rounded, if there are so many; in [0, 1].

    Raises:
        ValueError: if `share` is not in [0, 1], or labels are of whole images.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"`share` is a part of the budget and must be in [0, 1], got {share}.")
    _need_maps(outputs, "foreground_random", "random")
    shuffled = random(outputs, len(outputs), generator).index
    if not bool(outputs.labeled.any()):
        index = shuffled[:budget]
        return Query(index, ["random: no labels yet"] * len(index))
    found = torch.zeros(len(outputs), dtype=torch.bool)
    if budget > 0:
        for rows, outcomes in outputs.maps(outputs.unlabeled):
            found[rows] = (outputs.kind.decide(outcomes) != 0).flatten(1).any(dim=1).cpu()
    wanted = round(share * budget)
    by_chance, rest = shuffled[: budget - wanted], shuffled[budget - wanted :]  # of all images, foreground or not
    shown = torch.isin(rest, outputs.index[found])
    foreground = rest[shown][:wanted]
    by_chance = torch.cat([by_chance, rest[~shown][: wanted - len(foreground)]])
    why = "random" if bool(found.any()) else "random: no foreground predicted"
    reason = ["foreground"] * len(foreground) + [why] * len(by_chance)
    return Query(torch.cat([foreground, by_chance]), reason)


def mask_entropy(outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
    """Highest mean entropy of the voxels, in nats.

    A mean over all of them: images with much of an uncertain structure come first. `generator` is not used.
    """
    _need_maps(outputs, "mask_entropy", "entropy")
    maps = outputs.maps(outputs.unlabeled)
    return _highest(outputs, budget, "mask_entropy", maps, lambda outcomes: _mean(state_entropy(outcomes)))


def boundary_band(predicted: Tensor, width: int) -> Tensor:
    """Voxels with another class in the box that reaches `width` voxels to every side, bool.

    Args:
        predicted: classes, ``(B, *spatial)``.
        width: at least 1.
    """
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[predicted.ndim - 1]
    classes = predicted.unsqueeze(1).float()
    largest = pool(classes, 2 * width + 1, stride=1, padding=width)
    smallest = -pool(-classes, 2 * width + 1, stride=1, padding=width)
    return torch.ne(largest, smallest).squeeze(1)


def boundary_entropy(outputs: PoolOutputs, budget: int, generator: torch.Generator, width: int = 2) -> Query:
    """Highest mean entropy, in nats, of the voxels about the boundaries between predicted classes.

    The size of a structure counts less than in `mask_entropy`. Where one class is predicted everywhere there is no
    boundary: the score is then the mean over the whole image, so that such images come in the order of their doubt.

    Args:
        outputs: see `PoolOutputs`.
        budget: how many.
        generator: not used.
        width: of the band to each side, in voxels of the network's grid.

    Raises:
        ValueError: if `width` is below 1, or labels are of whole images.
    """
    if width < 1:
        raise ValueError(f"`width` counts voxels and must be at least 1, got {width}.")
    _need_maps(outputs, "boundary_entropy", "entropy")

    def score(outcomes: Tensor) -> Tensor:
        entropy = state_entropy(outcomes).flatten(1)
        band = boundary_band(outputs.kind.decide(outcomes), width).flatten(1)
        band = band | ~band.any(dim=1, keepdim=True)
        return (entropy * band).sum(dim=1) / band.sum(dim=1)

    return _highest(outputs, budget, "boundary_entropy", outputs.maps(outputs.unlabeled), score)


def bald(outputs: PoolOutputs, budget: int, generator: torch.Generator, passes: int = 20, batch_size: int = 4) -> Query:
    """BALD by MC dropout: highest mutual information of prediction and weights, in nats (Gal et al., ICML 2017).

    The entropy of the mean prediction less the mean entropy of the predictions: high where passes with other units
    dropped are each sure, but of different states. Of maps the mean over the voxels, of whole images the sum over their
    cases.

    Args:
        outputs: see `PoolOutputs`.
        budget: how many.
        generator: seeds the dropout.
        passes: T, at least 2.
        batch_size: images at once, see `PoolOutputs.maps`; T times as many predictions are held.

    Raises:
        ValueError: if the network has no dropout, or fewer than two passes are asked for.
    """
    of_image = _mean if outputs.kind.cases is None else reduced

    def information(samples: Tensor) -> Tensor:
        each = torch.stack([state_entropy(sample) for sample in samples]).mean(dim=0)
        return of_image(state_entropy(samples.mean(dim=0)) - each).clamp_min(0.0)

    samples = dropout_samples(outputs, passes, generator, batch_size)
    return _highest(outputs, budget, "bald", samples, information)


def distance_weight(mask: Tensor) -> Tensor:
    """Euclidean distance of each foreground voxel to the background, scaled to [0, 1] by its least and its largest.

    0 in the background, and everywhere without foreground; 1 everywhere without background, to which there is no
    distance then.

    Args:
        mask: of one image, bool, ``spatial``; voxels count as cubes.

    Returns:
        Weights in float64, ``spatial``, on the CPU.
    """
    from scipy.ndimage import distance_transform_edt

    mask = mask.cpu()
    if bool(mask.all()) or not bool(mask.any()):
        return mask.double()
    distance = torch.from_numpy(distance_transform_edt(mask.numpy()))
    return distance / distance.max()  # the least is 0, in the background


def ceal_uncertainty(samples: Tensor, mask: Tensor) -> Tensor:
    """CEAL's uncertainty of one image: variance over the passes, weighted by depth within the mask, summed.

    Args:
        samples: probabilities of the foreground, ``(T, *spatial)``.
        mask: predicted foreground, bool, ``spatial``. Binary: the released code puts probabilities into the distance
            transform, to which nearly all of them are foreground.

    Returns:
        A scalar in float64 on the CPU.
    """
    return (samples.double().var(dim=0, correction=0).cpu() * distance_weight(mask)).sum()


def ceal(outputs: PoolOutputs, budget: int, generator: torch.Generator, passes: int = 20, batch_size: int = 4) -> Query:
    """CEAL for masks (Gorriz et al. 2017, https://arxiv.org/abs/1711.09168): highest `ceal_uncertainty`.

    Its pseudo-labels are left to the learner. The foreground are all classes but 0, predicted by the mean of the
    passes. An image with none has the score 0. A sum over voxels: large structures come first. For the arguments see
    `bald`.

    Raises:
        ValueError: as `bald`; or if labels are of whole images.
    """
    _need_maps(outputs, "ceal", "bald")

    def uncertainty(samples: Tensor) -> Tensor:
        masks = outputs.kind.decide(samples.mean(dim=0)) != 0
        foreground = 1.0 - samples[..., 0]
        return torch.stack([ceal_uncertainty(foreground[:, i], mask) for i, mask in enumerate(masks)])

    samples = dropout_samples(outputs, passes, generator, batch_size)
    return _highest(outputs, budget, "ceal", samples, uncertainty)


def pairwise_dice(masks: Tensor, num_classes: int) -> Tensor:
    """Mean Dice of all pairs of T masks of an image, over the classes but 0; a class that both lack counts as 1.

    Args:
        masks: classes, ``(T, B, *spatial)``, T at least 2.
        num_classes: K.

    Returns:
        ``(B,)``, in [0, 1].
    """
    passes, dice = len(masks), []
    for k in range(1, num_classes):
        member = (masks == k).flatten(2).transpose(0, 1).float()  # (B, T, V)
        size = member.sum(dim=2)
        both, total = member @ member.transpose(1, 2), size.unsqueeze(1) + size.unsqueeze(2)
        of_pairs = torch.where(total > 0, 2.0 * both / total, 1.0)
        dice.append((of_pairs.sum(dim=(1, 2)) - passes) / (passes * (passes - 1)))  # a mask with itself is no pair
    return torch.stack(dice).mean(dim=0)


def dice_disagreement(
    outputs: PoolOutputs, budget: int, generator: torch.Generator, passes: int = 10, batch_size: int = 4
) -> Query:
    """Lowest mean Dice between the masks of several passes with dropout, see `pairwise_dice`.

    A relative measure: a doubtful small structure counts as much as a doubtful large one. Where no pass predicts
    foreground, all agree, and the score is 0. For the arguments see `bald`.

    Raises:
        ValueError: as `bald`; or if labels are of whole images.
    """
    _need_maps(outputs, "dice_disagreement", "bald")

    def disagreement(samples: Tensor) -> Tensor:
        return 1.0 - pairwise_dice(outputs.kind.decide(samples), samples.shape[-1])

    samples = dropout_samples(outputs, passes, generator, batch_size)
    return _highest(outputs, budget, "dice_disagreement", samples, disagreement)


def dropout_samples(
    outputs: PoolOutputs, passes: int, generator: torch.Generator, batch_size: int = 4
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predict the unlabeled images several times with dropout (MC dropout, Gal & Ghahramani, ICML 2016).

    Only the dropout layers are in training mode: BatchNorm takes its running statistics and leaves them. Layers draw
    from PyTorch's own generator, which is seeded here and afterwards as it was.

    Args:
        outputs: see `PoolOutputs`.
        passes: T, at least 2.
        generator: gives the seeds.
        batch_size: images at once, see `PoolOutputs.maps`.

    Yields:
        Rows ``(b,)``, and outcomes ``(T, b, *cases, S)`` on the device of the network.

    Raises:
        ValueError: if the network has no dropout with ``p > 0``, or `passes` is below 2.
    """
    if passes < 2:
        raise ValueError(f"`passes` are compared with each other and must be at least 2, got {passes}.")
    network = outputs.network
    layers = [] if network is None else [m for m in network.modules() if isinstance(m, _DropoutNd) and m.p > 0]
    if network is None or not layers:
        raise ValueError(
            "this strategy compares predictions with dropout, and the network has no dropout layer with p > 0; build "
            "it with `dropout`, or take a strategy such as `medssl_monai.query.mask_entropy`."
        )
    for rows, images in outputs.batches(outputs.unlabeled, batch_size):
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        with torch.random.fork_rng([images.device] if images.is_cuda else []), evaluating(network):
            torch.manual_seed(seed)
            for layer in layers:
                layer.train()
            samples = torch.stack([outputs.kind.outcomes(network(images)) for _ in range(passes)])
        yield rows, samples


def _mean(of_voxels: Tensor) -> Tensor:
    """Mean over the voxels ``(b, *spatial)`` of each image, ``(b,)``."""
    return of_voxels.flatten(1).mean(dim=1)


def _highest(
    outputs: PoolOutputs,
    budget: int,
    name: str,
    predictions: Iterable[tuple[Tensor, Tensor]],
    score: Callable[[Tensor], Tensor],
) -> Query:
    """Return the unlabeled samples whose predictions have the highest score.

    Args:
        outputs: see `PoolOutputs`.
        budget: how many; for 0 nothing is predicted.
        name: of the score.
        predictions: batches of rows ``(b,)`` and what is predicted for them: `PoolOutputs.maps` or `dropout_samples`.
        score: of such a batch, ``(b,)``.
    """
    scores = torch.zeros(len(outputs), dtype=torch.double)
    if budget > 0:
        for rows, predicted in predictions:
            scores[rows] = score(predicted).double().cpu()
    return top_unlabeled(outputs, scores, budget, name)


def _need_maps(outputs: PoolOutputs, name: str, other: str) -> None:
    """Refuse what has the same few cases in every image, and no map of them."""
    if outputs.kind.cases is not None:
        raise ValueError(
            f"`{name}` is for masks, and the labels are {outputs.kind.word}; take `medssl_monai.query.{other}`."
        )
