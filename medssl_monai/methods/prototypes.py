"""TEAR's prototypes: clusters of features that should agree over time (`medssl_monai.methods.tear`)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.clustering import cluster_means, initial_centers, kmeans, match, nearest_center, refill
from medssl_monai.distributed import gather
from medssl_monai.losses.pseudo_label import QueueAlignment
from medssl_monai.methods.base import Output
from medssl_monai.methods.estimator import check_choice


def prototype_distance(first: Tensor, second: Tensor, used: Tensor) -> Tensor:
    """Mean of ``1 - cosine`` over the pairs of prototypes ``(C, D)`` that are `used` ``(C,)``; in [0, 2], a scalar."""
    distance = 1.0 - F.cosine_similarity(first, second, dim=1)
    return (distance * used).sum() / used.sum().clamp_min(1)


class IPH(nn.Module):
    """Inter-model prototype agreement: clusters of the student's features should lie where the teacher's do.

    The figure shows prototypes of two models, found without labels and joined by a loss; the released block mixes up
    rows and clusters and divides by an unrelated count (`tear_prototypes`). The repaired
    forms are our proposal. The earlier model is the averaged teacher, in evaluation mode and without gradient.

    k-means runs on the device, on the features of all processes; it starts from the centers of the last step and a
    center that lost its rows restarts far from all others. The released code calls scikit-learn on the CPU.

    Args:
        num_clusters: C; the released code has as many as classes.
        mode: ``shared``: cluster the student's features and average those of both models over the same clusters, which
            needs no matching; ``matched``: cluster each model's by themselves and pair them by the best sum of cosines
            (as in the figure; waits for the device once); ``official``: the released block.
        weight: of the loss (lambda_dist of the released code).
        interval: optimizer steps from one use to the next; the weak views have no gradient in between.
        rows: cluster labeled and unlabeled images (``all``; labels are not used) or ``unlabeled`` ones only. The
            released block clusters the unlabeled ones whatever this says.
        iterations: how often the centers move per step.

    Raises:
        ValueError: if a value is out of its range.
    """

    centers: Tensor

    def __init__(
        self,
        num_clusters: int,
        mode: Literal["shared", "matched", "official"] = "shared",
        weight: float = 0.1,
        interval: int = 1,
        rows: Literal["all", "unlabeled"] = "all",
        iterations: int = 3,
    ) -> None:
        super().__init__()
        check_choice("mode", mode, ("shared", "matched", "official"))
        check_choice("rows", rows, ("all", "unlabeled"))
        for name, value in (("num_clusters", num_clusters), ("interval", interval), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.num_clusters, self.mode, self.weight, self.interval = num_clusters, mode, weight, interval
        self.rows, self.iterations = rows, iterations
        self.teacher_alignment = QueueAlignment((num_clusters,)) if mode == "official" else None
        self.started = False  # whether there are centers; known without asking the device
        self.register_load_state_dict_post_hook(_read_started)  # type: ignore[no-untyped-call]

    def allocate(self, embedding_dim: int) -> None:
        """Make room for the centers of embeddings of D dimensions; `TEAR` does it."""
        models = 2 if self.mode == "matched" else 1
        self.register_buffer("centers", torch.full((models, self.num_clusters, embedding_dim), torch.nan))

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labeled: int = 0,
        probs: Tensor | None = None,
        teacher_probs: Tensor | None = None,
    ) -> Output:
        """Compare the models on images of which the first `labeled` are labeled; changes nothing.

        Args:
            student: features ``(N, D)``, carry the gradient.
            teacher: features of the same images, ``(N, D)``.
            labeled: how many of the N images are labeled.
            probs: student's predictions ``(N, K)``, aligned if there is an alignment; for ``official`` only.
            teacher_probs: teacher's predictions, not aligned, ``(N, K)``; likewise.

        Returns:
            ``prototype``, the loss, a scalar, and what `update` takes.

        Raises:
            ValueError: if there are fewer rows than clusters, or ``official`` lacks the predictions.
        """
        teacher = teacher.detach()
        if self.mode == "official":
            return self._official(student, teacher, labeled, probs, teacher_probs)
        if self.rows == "unlabeled":
            student, teacher = student[labeled:], teacher[labeled:]
        label, centers = self._cluster(student)
        prototypes, count = cluster_means(student, label, self.num_clusters)
        if self.mode == "shared":
            others, _ = cluster_means(teacher, label, self.num_clusters)
            return {"prototype": prototype_distance(prototypes, others, count > 0), "centers": centers.unsqueeze(0)}
        label, teacher_centers = self._cluster(teacher, model=1)
        others, other_count = cluster_means(teacher, label, self.num_clusters)
        pair = match(F.cosine_similarity(prototypes.detach().unsqueeze(1), others.unsqueeze(0), dim=2))
        used = (count > 0) & (other_count[pair] > 0)
        loss = prototype_distance(prototypes, others[pair], used)
        return {"prototype": loss, "centers": torch.stack([centers, teacher_centers])}

    def _official(
        self, student: Tensor, teacher: Tensor, labeled: int, probs: Tensor | None, teacher_probs: Tensor | None
    ) -> Output:
        if self.teacher_alignment is None or probs is None or teacher_probs is None:
            raise ValueError("the released prototype block needs the predictions of both models.")
        aligned, row = self.teacher_alignment(teacher_probs[labeled:])
        label, centers = self._cluster(student[labeled:])
        block = tear_prototypes(student, teacher, label, probs, torch.cat([teacher_probs[:labeled], aligned]))
        return {"prototype": block.loss, "centers": centers.unsqueeze(0), "teacher_mean_probs": row}

    @torch.no_grad()
    def _cluster(self, features: Tensor, model: int = 0) -> tuple[Tensor, Tensor]:
        """Clusters of the features ``(N, D)`` of this process, and the centers that start the next k-means."""
        everywhere = gather(features.detach())
        if len(everywhere) < self.num_clusters:
            raise ValueError(
                f"IPH cannot make {self.num_clusters} clusters of a batch of {len(everywhere)} images (`rows` is "
                f"{self.rows!r}): raise the batch size or lower `num_clusters`."
            )
        start = self.centers[model] if self.started else initial_centers(everywhere, self.num_clusters)
        _, centers = kmeans(everywhere, start, self.iterations)
        return nearest_center(features, centers)[1], refill(everywhere, centers)

    def update(self, output: Output) -> None:
        """Store what `forward` returned."""
        self.centers.copy_(output["centers"])  # equal in all processes
        self.started = True
        if self.teacher_alignment is not None:
            self.teacher_alignment.update(gather(output["teacher_mean_probs"].unsqueeze(0)).mean(dim=0))


def _read_started(iph: IPH, incompatible_keys: Any) -> None:
    iph.started = not bool(iph.centers.isnan().any())


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
    """Return the IPH block of TEAR's code, with all its quirks.

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
