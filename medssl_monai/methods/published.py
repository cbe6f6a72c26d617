"""What published code does and papers do not say: kept for parity tests, and off by default where a method offers it.

BoostMIS: https://github.com/wannature/BoostMIS, revision 638debb, whose loss later revisions deleted.
TEAR: https://github.com/CityU-AIM-Group/TEAR, revision 8bf0450, whose training script lacks parts and does not run.
MultiMix: https://github.com/ayaanzhaque/MultiMix, revision af552e4.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl_monai.clustering import cluster_means
from medssl_monai.methods.boostmis import adaptive_threshold


def boostmis_batch_size_threshold(
    batch_size: int, previous_batch_size: int, share: float, alpha: float = 0.9, beta: float = 0.05
) -> Tensor:
    """The threshold of the released BoostMIS loss, a scalar in float64.

    The code overwrites the number of confident samples by the size of the batch, so that the ratio is 1 unless the
    batch shrinks: FixMatch with a constant threshold. It starts with a previous size of 1.
    """
    count, previous = torch.tensor(batch_size, dtype=torch.double), torch.tensor(previous_batch_size)
    return adaptive_threshold(count, previous, share, alpha, beta)


def class_learning_status(selected_label: Tensor, num_classes: int, warmup: bool) -> Tensor:
    """Per class, pseudo-labels so far over those of the most frequent class, ``(K,)`` in float64.

    FlexMatch's status (Zhang et al., NeurIPS 2021, Eq. 5 to 6 and 11), which BoostMIS's code computes and never uses.

    Args:
        selected_label: last accepted pseudo-label of every sample, -1: none yet, ``(N,)``.
        num_classes: K.
        warmup: let the samples without a pseudo-label count as a class of their own, so that the status grows slowly.
    """
    counts = torch.bincount(selected_label + 1, minlength=num_classes + 1).double()
    largest = counts.max() if warmup else counts[1:].max()
    return counts[1:] / largest.clamp_min(1.0)


def class_threshold(status: Tensor, threshold: float, shape: Literal["linear", "lowlimit", "concave"]) -> Tensor:
    """Threshold per class from its `status` ``a`` in [0, 1]; the three lines that BoostMIS's code has commented out.

    ``linear``: ``p (a + 1) / 2``; ``lowlimit``: ``p / (2 - a)``; ``concave``: ``p (ln(a + 1) + 1/2) / (ln 2 + 1/2)``.
    """
    if shape == "linear":
        return threshold * (status + 1.0) / 2.0
    if shape == "lowlimit":
        return threshold / (2.0 - status)
    return threshold * (torch.log(status + 1.0) + 0.5) / (math.log(2.0) + 0.5)


class PublishedPrototypes(NamedTuple):
    """What the prototype block of TEAR's code computes.

    Prototypes and deviations of student and teacher are ``(K, D)``, 0 for a class without rows; `alike` is how
    many classes have deviations alike, a 0-d long tensor; the losses are scalars.
    """

    prototypes: Tensor
    teacher_prototypes: Tensor
    deviation: Tensor
    teacher_deviation: Tensor
    alike: Tensor
    loss: Tensor
    deviation_loss: Tensor


def tear_prototypes(
    embedding: Tensor,
    teacher_embedding: Tensor,
    cluster: Tensor,
    probs: Tensor,
    teacher_probs: Tensor,
    threshold: float = 0.8,
) -> PublishedPrototypes:
    """The IPH block of TEAR's code, with all its quirks.

    Clusters are of the unlabeled rows, but are read as if they were of the first rows of all, so that the student's
    prototypes are shifted by the number of labeled rows. They are numbered by cluster, the teacher's by predicted
    class, and compared number by number. The sum over classes is divided by how many of them have deviations that are
    alike within a factor of 2, whatever the number of terms, and is 0 if none has. A class counts unless the mean of
    the student's prototype is 0; the test of the teacher's looks at all of them at once. The loss of the deviations
    is computed and not used.

    Args:
        embedding: of the student, labeled rows first, then the N unlabeled ones, ``(B + N, D)``; carries the gradient.
        teacher_embedding: of the same images, ``(B + N, D)``.
        cluster: of the unlabeled rows, ``(N,)``, in [0, K).
        probs: student's predictions, ``(B + N, K)``; aligned where alignment is on, as those of the next argument.
        teacher_probs: ``(B + N, K)``.
        threshold: confidence from which on a row counts for the deviations.
    """
    classes = probs.shape[1]
    confidence, teacher_confidence = probs.amax(dim=1), teacher_probs.amax(dim=1)
    shifted = slice(len(cluster))  # of all rows, where the last ones are meant
    prototypes, deviation = _moments(embedding[shifted], cluster, confidence[shifted] >= threshold, classes)
    teacher_prototypes, teacher_deviation = _moments(
        teacher_embedding, teacher_probs.argmax(dim=1), teacher_confidence >= threshold, classes
    )
    used = (prototypes.mean(dim=1) != 0) & (teacher_prototypes.mean() != 0)
    size, teacher_size = deviation.mean(dim=1), teacher_deviation.mean(dim=1)
    alike = used & ~((size > 2 * teacher_size) | (teacher_size > 2 * size))
    count = alike.sum()
    norms = prototypes.norm(dim=1) * teacher_prototypes.norm(dim=1)
    distance = 1.0 - (prototypes * teacher_prototypes).sum(dim=1) / (norms + 1e-4)
    difference = (deviation - teacher_deviation).square().mean(dim=1)
    share = (count > 0) / count.clamp_min(1)
    return PublishedPrototypes(
        prototypes,
        teacher_prototypes,
        deviation,
        teacher_deviation,
        count,
        (distance * used).sum() * share,
        (difference * alike).sum() * share,
    )


def _moments(rows: Tensor, label: Tensor, confident: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Means of all rows of each class, and deviations of its confident rows from them, ``(K, D)`` each."""
    means, count = cluster_means(rows, label, classes)
    member = (label == torch.arange(classes, device=label.device).unsqueeze(1)) & confident  # (K, rows)
    weight = member.to(rows.dtype)
    squared = (rows - means[label]).square()
    variance = weight @ squared / (weight.sum(dim=1, keepdim=True) + 1e-4)
    return means, (variance + 1e-4).sqrt() * (count > 0).unsqueeze(1)


def multimix_consistency(labeled: Tensor, unlabeled: Tensor) -> Tensor:
    """The consistency term of MultiMix's code, a scalar: 0 for masks, whatever they are, and so is its gradient.

    The divergence of two softmaxes over the channels, and its mean over all elements. Masks have one channel there, of
    which a softmax is 1. Of K channels it is a K-th of `medssl_monai.losses.MaskConsistency`'s. The code computes the
    same of class logits, of labeled images and strong views, and leaves it out of the sum.

    Args:
        labeled: logits ``(B, C, ...)``; the one of the foreground, for masks as published.
        unlabeled: likewise, of the same shape; image i is compared with image i.
    """
    log_p, log_q = labeled.log_softmax(dim=1), unlabeled.log_softmax(dim=1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").mean()
