"""What frozen embeddings know: classifiers that are fitted on them and train nothing else.

The baseline to ask any method for that trains an encoder: the same labels, the encoder as it is, and a linear model or
the nearest neighbours on top. A probe is a network like any other, to predict, query and evaluate with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.data.images import ImageDataset
from medssl_monai.engines.evaluate import evaluate
from medssl_monai.kinds import Kind, Threshold
from medssl_monai.locks import holding
from medssl_monai.networks.embedding import EmbeddingClassifier
from medssl_monai.networks.modes import evaluating
from medssl_monai.networks.projection import ProjectionNetwork
from medssl_monai.pool.labels import Labels
from medssl_monai.pool.pool import LabelPool
from medssl_monai.transforms.augment import to_unit
from medssl_monai.unknown import UNKNOWN

logger = logging.getLogger(__name__)
Encoder = EmbeddingClassifier | ProjectionNetwork
NEVER = -1e4
"""Logit of a class that no labeled image has: its probability is exactly 0."""
ProbeKind = Literal["linear", "knn"]


class Probe:
    """A probe as handlers see a method: with a network to measure, once `fit` has been called.

    Args:
        kind: ``linear`` (`linear_probe`) or ``knn`` (`knn_probe`).
        network: encoder, left as it is.
        dataset: item ``i`` is sample ``i`` of `pool`.
        pool: knows the labels to fit on: its first part.
        device: where the network is.
        options: what else the probe of this kind takes: ``inverse_penalty``, or ``neighbours`` and ``temperature``.
        batch_size: images at once.

    Raises:
        ValueError: if `kind` is neither.

    Attributes:
        inference_network: the encoder with the probe on top.
    """

    inference_network: nn.Module

    def __init__(
        self,
        kind: ProbeKind,
        network: Encoder,
        dataset: ImageDataset,
        pool: LabelPool,
        device: torch.device | str,
        options: Mapping[str, float] | None = None,
        batch_size: int = 128,
    ) -> None:
        if kind not in ("linear", "knn"):
            raise ValueError(f"`kind` must be 'linear' or 'knn', got {kind!r}.")
        self.kind, self.network, self.dataset, self.pool = kind, network, dataset, pool
        self.device, self.options, self.batch_size = device, dict(options or {}), batch_size

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """What was fitted, by part; see `medssl_monai.methods.SSLMethod.kinds`."""
        return {self.pool.first.key: self.pool.first.kind}

    def thresholds(self) -> Mapping[str, Threshold]:
        """Nothing: no label is given by the probe itself; see `medssl_monai.methods.SSLMethod.thresholds`."""
        return {}

    def fit(self) -> nn.Module:
        """Fit on the images that are labeled now.

        Raises:
            ValueError: if there are none.
        """
        make: Callable[..., nn.Module] = linear_probe if self.kind == "linear" else knn_probe
        data = self.dataset, self.pool, self.device
        self.inference_network = make(self.network, *data, batch_size=self.batch_size, **self.options)
        return self.inference_network


class ProbeTrainer(Engine):  # type: ignore[misc]
    """Fits a probe in place of training: one epoch of one step, whose handlers write what they write of any training.

    Args:
        method: the probe.
        device: where its network is.
        train_handlers: such as `medssl_monai.handlers.RoundReport`.
        folders: that the handlers write to, see `SSLTrainer`.
    """

    def __init__(
        self,
        method: Probe,
        device: torch.device | str,
        train_handlers: Sequence[Any] = (),
        folders: Sequence[str | Path] = (),
    ) -> None:
        super().__init__(lambda engine, batch: method.fit())
        self.folders = folders
        self.state.device = torch.device(device)
        for handler in train_handlers:
            handler.attach(self)

    def run(self) -> Any:
        """Fit, and let the handlers do their work."""
        with holding(*self.folders):
            return super().run([None], max_epochs=1)


def evaluate_probe(
    kind: ProbeKind,
    network: Encoder,
    dataset: ImageDataset,
    pool: LabelPool,
    validation: ImageDataset,
    validation_pool: LabelPool,
    device: torch.device | str,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Fit a probe on the labeled images and measure it on others.

    Args:
        kind: `linear_probe` or `knn_probe`.
        network: encoder, left as it is.
        dataset: item ``i`` is sample ``i`` of `pool`.
        pool: knows the labels to fit on: its first part.
        validation: images to measure on.
        validation_pool: knows their labels.
        device: where the network is.
        batch_size: images at once.

    Returns:
        As `medssl_monai.engines.evaluate`, and ``probe``: what was fitted, on how many labeled images.

    Raises:
        ValueError: if `kind` is neither, or no image is labeled.
    """
    probe = Probe(kind, network, dataset, pool, device, batch_size=batch_size).fit()
    figures = evaluate(probe, validation, validation_pool, device, batch_size)
    return {**figures, "probe": {"kind": kind, "labeled": len(pool.first.indices("labeled"))}}


def linear_probe(
    network: Encoder,
    dataset: ImageDataset,
    pool: LabelPool,
    device: torch.device | str,
    inverse_penalty: float = 1.0,
    batch_size: int = 128,
) -> EmbeddingClassifier:
    """Return the encoder with logistic regression on its standardised embeddings as the head.

    Scikit-learn's, with all classes weighted alike and nothing chosen on validation images. A finding of which the
    labeled images show one outcome only has the same probability for every image, and is named in the log; a class
    that none of them has is never predicted.

    Args:
        network: encoder, shared and not copied.
        dataset: item ``i`` is sample ``i`` of `pool`.
        pool: knows the labels: its first part.
        device: where the network is.
        inverse_penalty: C of scikit-learn; its default.
        batch_size: images at once.

    Raises:
        ValueError: if no image is labeled, or the labels have neither one case with a logit for each state, nor cases
            of two states with a logit each.
    """
    from sklearn.preprocessing import StandardScaler  # here and below: it takes a second, and few need it

    kind = pool.first.kind
    embedding, target = _labeled(network, dataset, pool.first, device, batch_size)
    scaler = StandardScaler().fit(embedding)
    rows = scaler.transform(embedding)
    if kind.cases == (kind.width,) and kind.states == 2:
        fits = [_fit_case(rows, column, _name(kind, k), inverse_penalty) for k, column in enumerate(target.T)]
        weight, bias = np.stack([w for w, _ in fits]), np.array([b for _, b in fits])
    elif kind.cases == () and kind.width == kind.states:
        weight, bias = _fit_states(rows, target, kind.width or int(target.max()) + 1, inverse_penalty)
    else:
        raise ValueError(
            f"logistic regression has a logit for each state, and {kind.word} have others; take the probe `knn`."
        )
    probe = EmbeddingClassifier(_Embedding(network), weight.shape[1], len(weight)).to(device)
    weight = weight / scaler.scale_  # of embeddings as they are
    with torch.no_grad():
        probe.head.weight.copy_(torch.from_numpy(weight))
        probe.head.bias.copy_(torch.from_numpy(bias - weight @ scaler.mean_))
    return probe


def knn_probe(
    network: Encoder,
    dataset: ImageDataset,
    pool: LabelPool,
    device: torch.device | str,
    neighbours: int = 20,
    temperature: float = 0.07,
    batch_size: int = 128,
) -> NearestNeighbours:
    """Return the encoder with a vote of the labeled images nearest to each image; see `NearestNeighbours`.

    Args:
        network: encoder, shared and not copied.
        dataset: item ``i`` is sample ``i`` of `pool`.
        pool: knows the labels: its first part.
        device: where the network is.
        neighbours: k.
        temperature: T.
        batch_size: images at once.

    Raises:
        ValueError: if no image is labeled, or the kind of labels does not say which logits a share of votes has.
    """
    embedding, target = _labeled(network, dataset, pool.first, device, batch_size)
    kind, states = pool.first.kind, torch.from_numpy(target)
    kind = kind if kind.states else kind.of_size(int(states.max()) + 1)
    probe = NearestNeighbours(network, torch.from_numpy(embedding), kind.one_hot(states), kind, neighbours, temperature)
    return probe.to(device)


class NearestNeighbours(nn.Module):
    """Vote of the k labeled images with the most similar embeddings, each by ``exp(cosine / T)``.

    Wu et al., CVPR 2018, https://arxiv.org/abs/1805.01978, Sec. 3.4; k = 20 is from Caron et al., ICCV 2021. Of a case,
    such as a finding, vote those neighbours of which it is known; if there is none, its states are as frequent as among
    all labeled images.

    Args:
        network: encoder, shared and not copied.
        embedding: of labeled images, ``(N, D)``.
        votes: their states, one-hot, 0 where unknown, ``(N, *cases, S)``.
        kind: of the labels.
        neighbours: k; all labeled images if there are fewer.
        temperature: T, greater than 0.

    Raises:
        ValueError: if a value is out of its range.
    """

    bank: Tensor
    votes: Tensor

    def __init__(
        self,
        network: Encoder,
        embedding: Tensor,
        votes: Tensor,
        kind: Kind,
        neighbours: int = 20,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        if neighbours < 1:
            raise ValueError(f"`neighbours` must be at least 1, got {neighbours}.")
        if temperature <= 0.0:
            raise ValueError(f"`temperature` must be greater than 0, got {temperature}.")
        self.network, self.kind, self.temperature = network, kind, temperature
        self.neighbours = min(neighbours, len(embedding))
        self.register_buffer("bank", F.normalize(embedding.float(), dim=1))
        self.register_buffer("votes", votes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of the share of votes; infinite where it is 0 or 1."""
        similarity = F.normalize(self.network.embed(images).float(), dim=1) @ self.bank.T
        nearest, index = similarity.topk(self.neighbours, dim=1)
        weight = ((nearest - nearest[:, :1]) / self.temperature).exp()  # (B, k); the nearest has 1
        found = torch.einsum("bk,bk...->b...", weight, self.votes[index])  # (B, *cases, S)
        known, usual = found.sum(dim=-1, keepdim=True), self.votes.sum(dim=0) + 0.5
        shares = torch.where(known > 0, found / known, usual / usual.sum(dim=-1, keepdim=True))
        return self.kind.logits(shares)


class _Embedding(nn.Module):
    """An encoder's embedding as what a network returns."""

    def __init__(self, network: Encoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.embed(images).float()


def _labeled(
    network: Encoder, dataset: ImageDataset, labels: Labels, device: torch.device | str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings ``(n, D)`` in float64 and targets ``(n, *cases)`` of the labeled images."""
    index = labels.indices("labeled")
    if len(index) == 0:
        raise ValueError("no image is labeled: there is nothing to fit a probe on; add labels to the datalist.")
    with evaluating(network):
        parts = [network.embed(to_unit(dataset.images[part].to(device))) for part in torch.split(index, batch_size)]
    return torch.cat([part.float().cpu() for part in parts]).double().numpy(), labels.targets(index).numpy()


def _name(kind: Kind, case: int) -> str:
    return kind.case_names[case] if kind.case_names else f"class {case}"


def _fit_states(
    rows: np.ndarray, target: np.ndarray, classes: int, inverse_penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = np.zeros((classes, rows.shape[1])), np.full(classes, NEVER)
    present = np.unique(target)
    bias[present] = 0.0
    if len(present) > 1:
        model = _regression(inverse_penalty).fit(rows, target)
        # of two classes there is one row, the logit of the second
        chosen = present if len(model.coef_) > 1 else present[1:]
        weight[chosen], bias[chosen] = model.coef_, model.intercept_
    return weight, bias


def _fit_case(rows: np.ndarray, label: np.ndarray, name: str, inverse_penalty: float) -> tuple[np.ndarray, float]:
    known = label != UNKNOWN
    present, total = int((label == 1).sum()), int(known.sum())
    if present in (0, total):
        logger.warning(
            f"{name}: {present} of {total} known labels are present, so that the linear probe cannot learn this "
            "finding; it gives every image the same probability."
        )
        return np.zeros(rows.shape[1]), float(np.log((present + 0.5) / (total - present + 0.5)))
    model = _regression(inverse_penalty).fit(rows[known], label[known])
    return model.coef_[0], float(model.intercept_[0])


def _regression(inverse_penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=inverse_penalty, max_iter=5000)
