"""TEAR (Yang, Liu, Chen, Ibragimov & Yuan, MICCAI 2022, LNCS 13438, chapter 12, doi 10.1007/978-3-031-16452-1_12).

What the authors released (https://github.com/CityU-AIM-Group/TEAR, revision 8bf0450) lacks the estimator that the
method is about and does not run; the paper's formulas are not known to us. `TEAR` says what is theirs and what is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.clustering import cluster_means, initial_centers, kmeans, match, nearest_center, refill
from medssl_monai.distributed import gather
from medssl_monai.losses.multilabel import from_outcomes, outcomes
from medssl_monai.losses.pseudo_label import (
    QueueAlignment,
    checked_threshold,
    confidence_of,
    confident,
    pseudo_label_loss,
)
from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.methods.published import tear_prototypes
from medssl_monai.networks.ema import EMATeacher
from medssl_monai.networks.embedding import EmbeddingClassifier
from medssl_monai.schedules import constant, linear_rampup
from medssl_monai.task import TASKS, Task

Discrepancy = Literal["l2", "tv", "kl", "logits"]
Relaxation = Literal["exp", "sigmoid", "none"]
Previous = Literal["ema", "snapshot", "bank"]


def discrepancy(probs: Tensor, previous: Tensor, kind: Discrepancy = "l2") -> Tensor:
    """How far two predictions of one image are apart, ``(B,)``; in [0, 1] but for ``logits``.

    ``l2``: ``||q - q'|| / sqrt(2)``, the root of the score of Temporal Output Discrepancy (Huang et al., ICCV 2021);
    ``tv``: half the sum of absolute differences; ``kl``: ``min(1, sqrt(KL(q' || q) / 2))``, a bound of ``tv``
    (Pinsker); ``logits``: ``||z - z'|| / sqrt(2)`` of the logits less their mean.

    Args:
        probs: of the present model (q), ``(B, K)``; for ``(B, K, 2)``, see `outcomes`, the result is ``(B, K)``.
        previous: of the earlier model (q'), likewise.
        kind: see above. The "emd" of the released code needs an order of the classes, and is left out.
    """
    if kind == "tv":
        return 0.5 * (probs - previous).abs().sum(dim=-1)
    if kind == "kl":
        tiny = torch.finfo(probs.dtype).tiny
        divergence = (torch.xlogy(previous, previous) - previous * probs.clamp_min(tiny).log()).sum(dim=-1)
        return (divergence.clamp_min(0.0) / 2.0).sqrt().clamp_max(1.0)
    if kind == "logits":
        probs, previous = (_centered_logits(part) for part in (probs, previous))
    return (probs - previous).norm(dim=-1) / math.sqrt(2.0)


def _centered_logits(probs: Tensor) -> Tensor:
    logits = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
    return logits - logits.mean(dim=-1, keepdim=True)


def estimate_loss(score: Tensor, gamma: float | Tensor = 1.0, delta: float = 1e-6) -> Tensor:
    """``-ln(1 - s)`` with ``s = min(1 - delta, gamma * score)``: an estimate of the unknown cross-entropy, ``(B,)``.

    Ours. One SGD step of rate ``eta`` on an image of class y moves its logits by ``eta * K (1_y - p)``, with K the
    tangent kernel; so ``||dz|| <= kappa (1 - p_y)`` with ``kappa = sqrt(2) * eta * ||K||``, and the loss ``-ln p_y`` is
    at least ``-ln(1 - ||dz|| / kappa)``; equal for a linear model of two classes. For a deep network kappa is not
    known, hence probabilities, whose distance is bounded, and a free `gamma`.

    Args:
        score: `discrepancy`, ``(B,)``.
        gamma: with ``logits``, ``sqrt(2) / kappa``.
        delta: keeps the estimate finite.
    """
    return -torch.log1p(-(gamma * score).clamp_max(1.0 - delta))


def label_weight(loss: Tensor, relaxation: Relaxation, minimum: float, gamma: float = 1.0) -> Tensor:
    """Probability that the target leaves to the pseudo-label, in [`minimum`, 1], ``(B,)``.

    Ours; the figure only shows that it falls, and that all other classes gain alike. ``exp``: ``exp(-loss)``, the
    probability of the true class of which `loss` is the cross-entropy; ``sigmoid``: ``2 / (1 + exp(gamma * loss))``,
    after a helper that the released code defines and does not use; ``none``: 1, hard pseudo-labels.

    Args:
        loss: `estimate_loss`, ``(B,)``.
        relaxation: see above.
        minimum: lower bound.
        gamma: of the sigmoid.
    """
    if relaxation == "none":
        return torch.ones_like(loss)
    weight = torch.exp(-loss) if relaxation == "exp" else 2.0 * torch.sigmoid(-gamma * loss)
    return weight.clamp(minimum, 1.0)


def relaxed_targets(pseudo_label: Tensor, weight: Tensor, num_classes: int) -> Tensor:
    """Targets ``(..., K)``: `weight` ``(...)`` on the pseudo-label ``(...)``, the rest in equal parts on the others."""
    rest = ((1.0 - weight) / (num_classes - 1)).unsqueeze(-1).expand(*weight.shape, num_classes)
    return rest.scatter(-1, pseudo_label.unsqueeze(-1), weight.unsqueeze(-1))


class AdaPL(nn.Module):
    """Adaptive pseudo-labels: the more a prediction has moved in training, the softer its pseudo-label.

    Of this the released code has only options: a discrepancy (default squared difference), a minimum weight of 0.5, a
    gamma from 1 to 4 and the EMA teacher as the earlier model. Estimate and relaxation are our proposal: see
    `estimate_loss` and `label_weight`.

    Predictions are compared as they are, not after distribution alignment, and in evaluation mode on both sides:
    BatchNorm over a batch, or dropout, would make equal weights disagree. An index that is drawn twice in a batch keeps
    the larger estimate, and in the bank the larger probability of each class, normalised.

    Of findings, each has an estimate and a weight of its own, as one of two classes, absent and present. ``l2`` and
    ``tv`` are then the same, ``|q - q'|``, and with ``exp`` a pseudo-label keeps ``1 - gamma |q - q'|``.

    Args:
        num_samples: length of the datalist, N.
        num_classes: K, at least 2; of findings at least 1.
        discrepancy: see the function. ``logits`` needs `gamma` to be one over learning rate times kernel norm.
        relaxation: see `label_weight`.
        previous: ``ema``: the averaged teacher, which with a decay of 0.999 is some 1000 steps old (released code);
            ``snapshot``: the parameters of one step before with the present BatchNorm statistics, as the paper's
            theta_(t-1) read literally, whose distance is of the order of the learning rate, so that it needs a large
            `gamma`; ``bank``: the student's last prediction of the same sample, which was of another random view.
        gamma: factor of the score; for ``sigmoid``, of the estimate instead.
        minimum_weight: least probability that a target leaves to the pseudo-label (w_min), greater than ``1 / K``, so
            that it stays the most probable class; the default does not do for two classes, nor for findings.
        history_decay: share of the old estimate kept in the running mean of a sample's estimates; 0: the last one.
        task: what is predicted.

    Raises:
        ValueError: if a value is out of its range.
    """

    estimate: Tensor
    bank: Tensor

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        discrepancy: Discrepancy = "l2",
        relaxation: Relaxation = "exp",
        previous: Previous = "ema",
        gamma: float = 1.0,
        minimum_weight: float = 0.5,
        history_decay: float = 0.0,
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        _check_choice("task", task, TASKS)
        _check_choice("discrepancy", discrepancy, ("l2", "tv", "kl", "logits"))
        _check_choice("relaxation", relaxation, ("exp", "sigmoid", "none"))
        _check_choice("previous", previous, ("ema", "snapshot", "bank"))
        if task == "multiclass" and num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2, got {num_classes}: a target gives to other classes.")
        if gamma <= 0.0:
            raise ValueError(f"`gamma` must be greater than 0, got {gamma}.")
        sample = outcomes(torch.full((num_classes,), torch.nan), task)  # nan: never seen
        if not 1.0 / sample.shape[-1] < minimum_weight <= 1.0:
            raise ValueError(
                f"`minimum_weight` must be greater than 1 / K = {1 / sample.shape[-1]:.3g} and at most 1, got "
                f"{minimum_weight}: else a target can become uniform; for two classes take 0.75, say, and so for "
                "findings, which are absent or present."
            )
        if not 0.0 <= history_decay < 1.0:
            raise ValueError(
                f"`history_decay` is the share of the old mean and must be in [0, 1), got {history_decay}."
            )
        self.num_classes, self.task = num_classes, task
        self.discrepancy, self.relaxation, self.previous = discrepancy, relaxation, previous
        self.gamma, self.minimum_weight, self.history_decay = gamma, minimum_weight, history_decay
        self.register_buffer("estimate", sample[..., 0].expand(num_samples, *sample.shape[:-1]).clone())
        rows = num_samples if previous == "bank" else 0
        self.register_buffer("bank", sample.expand(rows, *sample.shape).clone())  # row = batch["index"], of both

    def forward(self, probs: Tensor, index: Tensor, previous: Tensor | None = None) -> Tensor:
        """Estimated loss of each sample, ``(B,)`` or of findings ``(B, K)``; changes nothing.

        It is nan where nothing is known yet.

        Args:
            probs: of the student in evaluation mode, ``(B, K)``.
            index: samples, ``(B,)``; -1 for one that is not in the datalist and has no history.
            previous: of the earlier model, ``(B, K)``; None: from the bank.
        """
        known = index >= 0
        rows = index.clamp_min(0)
        if previous is None:
            earlier = F.normalize(self.bank[rows], p=1.0, dim=-1)
            earlier = torch.where(_per_row(known, earlier), earlier, torch.nan)
        else:
            earlier = outcomes(previous, self.task)
        score = discrepancy(outcomes(probs, self.task), earlier, self.discrepancy)
        estimate = estimate_loss(score, 1.0 if self.relaxation == "sigmoid" else self.gamma)
        mean = torch.lerp(estimate, self.estimate[rows].to(estimate.dtype), self.history_decay)
        return torch.where(_per_row(known, mean) & ~mean.isnan(), mean, estimate)

    def weight(self, estimate: Tensor) -> Tensor:
        """Probability of the pseudo-label for an `estimate`, shaped as that; 1 where nothing is known."""
        return label_weight(estimate.nan_to_num(nan=0.0), self.relaxation, self.minimum_weight, self.gamma)

    def update(self, index: Tensor, estimate: Tensor, probs: Tensor) -> None:
        """Store what `forward` returned and was given, for samples `index` ``(B,)`` of all processes."""
        memories = [(self.estimate, estimate)]
        if self.previous == "bank":
            memories.append((self.bank, outcomes(probs, self.task)))
        for memory, new in memories:
            rows = _per_row(index, new).expand_as(new)
            memory.scatter_reduce_(0, rows, new.to(memory.dtype), "amax", include_self=False)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """`values` ``(B,)`` as ``(B, 1, ...)``, with as many dimensions as `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def prototype_distance(first: Tensor, second: Tensor, used: Tensor) -> Tensor:
    """Mean of ``1 - cosine`` over the pairs of prototypes ``(C, D)`` that are `used` ``(C,)``; in [0, 2], a scalar."""
    distance = 1.0 - F.cosine_similarity(first, second, dim=1)
    return (distance * used).sum() / used.sum().clamp_min(1)


class IPH(nn.Module):
    """Inter-model prototype agreement: clusters of the student's features should lie where the teacher's do.

    The figure shows prototypes of two models, found without labels and joined by a loss; the released block mixes up
    rows and clusters and divides by an unrelated count (`medssl_monai.methods.published.tear_prototypes`). The repaired
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
        _check_choice("mode", mode, ("shared", "matched", "official"))
        _check_choice("rows", rows, ("all", "unlabeled"))
        for name, value in (("num_clusters", num_clusters), ("interval", interval), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.num_clusters, self.mode, self.weight, self.interval = num_clusters, mode, weight, interval
        self.rows, self.iterations = rows, iterations
        self.teacher_alignment = QueueAlignment(num_clusters) if mode == "official" else None
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


class Targets(NamedTuple):
    """What `TEAR` would teach for some images; of findings, what is ``(B,)`` here is ``(B, K)``.

    Attributes:
        probs: student's prediction, ``(B, K)``.
        pseudo_label: class ``(B,)``; of findings 1, present, or 0.
        targets: ``(B, K)``.
        mask: whether the image would be learnt from, ``(B,)`` bool.
        estimated_loss: ``(B,)``; 0 where nothing is known, or without `AdaPL`.
    """

    probs: Tensor
    pseudo_label: Tensor
    targets: Tensor
    mask: Tensor
    estimated_loss: Tensor


class TEAR(SSLMethod):
    """FixMatch with targets as soft as their estimated loss (`AdaPL`) and prototypes that agree over time (`IPH`).

    From the released code: the labeled loss, confident pseudo-labels of weak views, aligned by a queue of 32 batches,
    the mean over all unlabeled images and not over the selected ones, the averaged teacher (0.999), weights 1 and 0.1.
    From the figure: predictions and features of an earlier model on weak views, a target whose peak is lowered while
    all other classes gain alike, prototypes of both models that need no labels. Ours, since neither code nor formulas
    are known: the estimate of the loss, how it relaxes the target, that the mask stays, how prototypes are paired, and
    the ramp. The figure draws a second random view for the earlier model; code and this class give both models the same
    one, so that they differ by time alone. Without `adapl`, `iph` and `ramp_steps` this is FixMatch.

    BatchNorm: weak views have a pass of their own, labeled and strong views share one, as in
    `medssl_monai.methods.FixMatch` (one pass for all three in the released code); the features of `IPH` are from these.
    Only steps with `IPH` keep the weak views' gradient. Teacher and earlier model are always in evaluation mode; the
    teacher's running statistics are averaged (copied in the released code, see `medssl_monai.networks.EMATeacher`).
    `AdaPL` costs a further pass of the student over the weak views, in evaluation mode, without gradient and before
    the others move the running statistics: models of equal weights and statistics have a discrepancy of exactly 0,
    without the noise of batch statistics and dropout. Pseudo-label and mask are FixMatch's, in training mode, dropout
    included.

    Findings are learnt as in `medssl_monai.methods.FixMatch`, whose words on rare findings hold here, with a relaxed
    target for each finding of each image. `IPH` compares features, so that nothing changes.

    Args:
        network: classifier with ``embed`` and ``head``.
        threshold: confidence that a pseudo-label must reach to count, in [0, 1] (tau; code 0.95); of findings a number,
            or one for each.
        weight: weight of the unlabeled loss (lambda_u; code 1).
        alignment: of the weak predictions before they are pseudo-labels; the code has it on, with its defaults.
        adapl: relaxes targets; None: hard pseudo-labels.
        iph: prototype loss; None: none.
        decay: see `SSLMethod`.
        ramp_steps: steps in which the unlabeled and the prototype loss rise from 0 to their weights; 0: at once. Our
            proposal is a tenth of the run.
        criterion: see `SSLMethod`.
        task: see `SSLMethod`.
        absence_threshold: see `medssl_monai.methods.FixMatch`.

    Raises:
        ValueError: if a value is out of its range, a part is for another task, or the released prototype block has not
            one cluster per class, or findings instead of classes.
    """

    network: EmbeddingClassifier
    teacher: EMATeacher
    threshold: float | Tensor

    def __init__(
        self,
        network: EmbeddingClassifier,
        threshold: float | Sequence[float] = 0.95,
        weight: float = 1.0,
        alignment: QueueAlignment | None = None,
        adapl: AdaPL | None = None,
        iph: IPH | None = None,
        decay: float = 0.999,
        ramp_steps: int = 0,
        criterion: nn.Module | None = None,
        task: Task = "multiclass",
        absence_threshold: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, task)
        self._check_task(alignment=alignment, adapl=adapl)
        self.threshold = checked_threshold(threshold, absence_threshold, task)
        if ramp_steps < 0:
            raise ValueError(f"`ramp_steps` counts optimizer steps and must not be negative, got {ramp_steps}.")
        self.weight, self.alignment = weight, alignment
        self.adapl, self.iph = adapl, iph
        self.ramp = linear_rampup(1.0, ramp_steps) if ramp_steps else constant()
        if iph is not None:
            if iph.mode == "official" and task == "multilabel":
                raise ValueError(
                    "the released prototype block compares clusters with classes, and findings are none: take the mode "
                    "'shared' or 'matched'."
                )
            if iph.mode == "official" and iph.num_clusters != network.head.out_features:
                raise ValueError(
                    f"the released prototype block compares clusters with classes: `num_clusters` must be "
                    f"{network.head.out_features}, got {iph.num_clusters}."
                )
            iph.allocate(network.head.in_features)
        self.snapshot = EMATeacher(network, decay=0.0) if self.previous == "snapshot" else None

    @property
    def previous(self) -> Previous | None:
        """Which earlier model the estimate is from, see `AdaPL`; None: there is no estimate."""
        return None if self.adapl is None else self.adapl.previous

    @property
    def confidence_threshold(self) -> float | list[Any]:
        return self.threshold.tolist() if isinstance(self.threshold, Tensor) else self.threshold

    def on_start(self) -> None:
        super().on_start()
        if self.snapshot is not None:
            self.snapshot.reset(self.network)

    def forward(self, batch: Batch) -> Output:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        weak, count = unlabeled["weak"], len(labeled["image"])
        iph = self.iph if self.iph is not None and self.steps_done % self.iph.interval == 0 else None
        output: Output = {}
        estimate: Tensor | None = None
        with torch.no_grad():  # before the student's running statistics move
            if iph is not None:
                teacher = cast(EmbeddingClassifier, self.teacher.network)
                teacher_embedding = teacher.embed(torch.cat([labeled["image"], weak]))
                teacher_probs = self.probabilities(teacher.head(teacher_embedding))
            if self.adapl is not None:
                known = iph is not None and self.previous == "ema"  # no second pass of the teacher
                earlier = teacher_probs[count:] if known else self._earlier(weak)
                output["probs"] = self._present(weak)
                output["estimate"] = estimate = self.adapl(output["probs"], unlabeled["index"], earlier)
                output["estimated_loss"] = estimate.nan_to_num(nan=0.0).mean()
        with torch.set_grad_enabled(iph is not None and torch.is_grad_enabled()):
            weak_embedding = self.network.embed(weak)
        embedding = self.network.embed(torch.cat([labeled["image"], unlabeled["strong"]]))
        logits, logits_strong = self.network.head(embedding).float().split([count, len(unlabeled["strong"])])
        supervised = self.criterion(logits, labeled["label"])
        with torch.no_grad():
            probs = self.probabilities(self.network.head(weak_embedding))
            labeled_probs = self.probabilities(logits)
            if self.alignment is not None:
                probs, output["mean_probs"] = self.alignment(probs, labeled_probs)
        targets = None if estimate is None else self._relax(probs, estimate)
        # as in the code, a mean over all unlabeled images; `probs` select
        unsupervised, mask = pseudo_label_loss(logits_strong, probs, self.threshold, targets=targets, task=self.task)
        terms = self.weight * unsupervised
        if iph is not None:
            both = torch.cat([embedding[:count], weak_embedding]).float()
            with torch.autocast(both.device.type, enabled=False):
                output |= iph(both, teacher_embedding.float(), count, torch.cat([labeled_probs, probs]), teacher_probs)
            terms = terms + iph.weight * output["prototype"]
        if self.snapshot is not None:
            output["parameters"] = torch.cat([p.detach().flatten() for p in self.network.parameters()])
        return {
            "loss": supervised + self.ramp(self.steps_done) * terms,
            "supervised": supervised,
            "unsupervised": unsupervised,
            "mask_rate": mask.mean(),
            "confidence": confidence_of(probs, self.task),
            **output,
        }

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        if self.alignment is not None:
            self.alignment.update(gather(output["mean_probs"].unsqueeze(0)).mean(dim=0))
        if self.adapl is not None:
            index = gather(batch["unlabeled"]["index"])
            self.adapl.update(index, gather(output["estimate"]), gather(output["probs"]))
        if self.iph is not None and "centers" in output:
            self.iph.update(output)
        if self.snapshot is not None:
            # the parameters from before the optimizer step, with the present BatchNorm statistics
            _restore(self.snapshot.network, output["parameters"], self.network.buffers())
        super().after_step(batch, output)

    @torch.no_grad()
    def targets(self, images: Tensor, index: Tensor) -> Targets:
        """What these images would be taught as pseudo-labels now; all models in evaluation mode, no state changes.

        The alignment is by the batches of training alone. The estimate leans on the history that training stored for
        `index`, if there is any.

        Args:
            images: ``(B, C, *spatial)``.
            index: which samples they are, ``(B,)``; -1: none of the datalist, without history.
        """
        probs = self._present(images)
        aligned = probs if self.alignment is None else self.alignment.align(probs)
        pseudo_label = outcomes(aligned, self.task).argmax(dim=-1)
        estimate = torch.zeros_like(pseudo_label, dtype=aligned.dtype)
        if self.adapl is not None:
            estimate = self.adapl(probs, index.to(probs.device), self._earlier(images))
        return Targets(
            probs,
            pseudo_label,
            self._relax(aligned, estimate),
            confident(aligned, self.threshold, self.task),
            estimate.nan_to_num(nan=0.0),
        )

    def _relax(self, probs: Tensor, estimate: Tensor) -> Tensor:
        weight = torch.ones_like(estimate) if self.adapl is None else self.adapl.weight(estimate)
        both = outcomes(probs, self.task)
        return from_outcomes(relaxed_targets(both.argmax(dim=-1), weight, both.shape[-1]), self.task)

    def _present(self, images: Tensor) -> Tensor:
        """Student's prediction in evaluation mode, ``(B, K)``."""
        with _evaluating(self.network):
            return self.probabilities(self.network(images))

    def _earlier(self, images: Tensor) -> Tensor | None:
        """Prediction of the earlier model ``(B, K)``; None if it is in the bank."""
        if self.previous == "bank":
            return None
        model = self.teacher if self.snapshot is None else self.snapshot
        return self.probabilities(model(images))


def _restore(network: nn.Module, parameters: Tensor, buffers: Iterable[Tensor]) -> None:
    """Copy parameters, flat and one after the other, and buffers into `network`."""
    kept: list[Tensor] = [*network.parameters()]
    parts = torch.split(parameters, [p.numel() for p in kept])
    torch._foreach_copy_(kept, [part.view_as(p) for part, p in zip(parts, kept, strict=True)])
    for mine, new in zip(network.buffers(), buffers, strict=True):
        mine.copy_(new)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in its own mode again, frozen ones too."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")
