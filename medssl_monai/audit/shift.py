"""Shifts between sections: labels and grey values that differ by more than chance explains."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.data.datalist import Item
from medssl_monai.kinds import Kind, Label

Array = NDArray[Any]

PERMUTATIONS = 999
SIGNIFICANT = 0.01  # p value
NOTABLE = 0.2  # standardised difference (a small one, after Cohen)


def label_shift(sections: Mapping[str, Sequence[Item]], kind: Kind) -> list[dict[str, Any]]:
    """Compare the shares of the classes, or of each finding where it is known, between sections.

    The chi-square statistic of sections against answers is compared with those of random orders of the groups: images
    of one patient are no independent observations, and rare classes have no chi-square distribution. The effect is
    Cramer's V, 0 for equal shares, at most 1. With several findings, p is compared with the level over their number
    (Bonferroni).

    Args:
        sections: items by section; those without a label are left out.
        kind: of the labels.

    Returns:
        One entry for the class, or one for each finding: ``question``, ``shares`` by section and answer,
        ``chi_square``, ``p``, ``cramers_v``, ``shifted`` and a ``statement``. Empty for masks, and where fewer than two
        sections or answers occur.
    """
    labeled = [(s, item) for s, items in sections.items() for item in items if item.get("label") is not None]
    questions = _questions([Label(item["label"]) for _, item in labeled], kind)
    units: dict[tuple[str, str], int] = {}
    rows = [units.setdefault((section, item["group"]), len(units)) for section, item in labeled]
    names = [section for section in sections if any(section == unit for unit, _ in units)]
    if not questions or len(names) < 2:
        return []
    counts = [np.zeros((len(units), len(texts))) for _, texts, _ in questions]
    for table, (_, _, answers) in zip(counts, questions, strict=True):
        known = answers >= 0
        np.add.at(table, (np.array(rows)[known], answers[known]), 1)
    member = np.eye(len(names))[[names.index(section) for section, _ in units]]
    permutations = max(PERMUTATIONS, 200 * len(questions))
    statistics = np.array([_chi_square(member.T @ table) for table in counts])
    merged, ends = np.concatenate(counts, axis=1), np.cumsum([table.shape[1] for table in counts])[:-1]
    rng, as_large = np.random.default_rng(0), np.zeros(len(questions))
    for _ in range(permutations):
        tables = np.split(member[rng.permutation(len(member))].T @ merged, ends, axis=1)
        as_large += np.array([_chi_square(table) for table in tables]) >= statistics - 1e-9
    ps = (1 + as_large) / (1 + permutations)
    return [
        _describe_shares(name, texts, names, member.T @ table, float(p), len(questions), bool(kind.case_names))
        for (name, texts, _), table, p in zip(questions, counts, ps, strict=True)
        if (table.sum(axis=0) > 0).sum() > 1 and (member.T @ table).sum(axis=1).all()
    ]


def intensity_shift(images: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> dict[str, Any]:
    """Compare grey values as stored, averaged by group, between each two sections.

    A shift is a difference of at least `NOTABLE` standard deviations of the groups, with p below `SIGNIFICANT` in a
    two-sample Kolmogorov-Smirnov test of the means (brightness) or standard deviations (contrast) of the pixels.

    Args:
        images: by section and group, of each image the mean, standard deviation and percentiles 1 and 99.

    Returns:
        ``sections``: averages; ``comparisons``: ``sections`` (two), ``of``, ``standardised_difference``, ``p``,
        ``shifted`` and a ``statement``.
    """
    from scipy.stats import ks_2samp

    columns = ("mean", "std", "p1", "p99")
    groups = {
        section: np.array([np.mean(rows, axis=0) for rows in by_group.values()])
        for section, by_group in images.items()
        if by_group
    }
    averages = {
        section: {name: float(f"{value:.5g}") for name, value in zip(columns, rows.mean(axis=0), strict=True)}
        for section, rows in groups.items()
    }
    comparisons = []
    for (first, a), (second, b) in itertools.combinations(groups.items(), 2):
        if min(len(a), len(b)) < 2:
            continue
        for column, (noun, more, less) in enumerate(
            [("brightness", "brighter", "darker"), ("contrast", "of higher contrast", "of lower contrast")]
        ):
            x, y = a[:, column], b[:, column]
            spread = float(np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2))
            difference = float(y.mean() - x.mean()) / spread if spread > 0 else 0.0
            p = float(ks_2samp(x, y, method="asymp").pvalue)
            shifted = p < SIGNIFICANT and abs(difference) >= NOTABLE
            words = f"images of {second} are {more if difference > 0 else less} than those of {first}"
            text = words if shifted else f"{first} and {second} do not differ notably in {noun}"
            comparisons.append(
                {
                    "sections": [first, second],
                    "of": columns[column],
                    "standardised_difference": round(difference, 4),
                    "p": float(f"{p:.3g}"),
                    "shifted": shifted,
                    "statement": f"{text} ({difference:+.2f} standard deviations, Kolmogorov-Smirnov p = {p:.2g}).",
                }
            )
    return {"sections": averages, "comparisons": comparisons}


def _questions(labels: Sequence[Label], kind: Kind) -> list[tuple[str, tuple[str, ...], Array]]:
    """Return each question's name, the texts of its answers, and each label's answer as an index (-1: not known)."""
    if not labels or kind.cases is None:
        return []
    states = kind.targets(dict(enumerate(labels)), range(len(labels))).numpy().reshape(len(labels), -1)
    kind = kind if kind.states else kind.of_size(int(states.max()) + 1)
    questions = kind.case_names or (kind.noun,)
    return [(question, kind.state_names, states[:, k]) for k, question in enumerate(questions)]


def _chi_square(table: Array) -> float:
    """Return Pearson's statistic of a table of counts; empty rows and columns add nothing."""
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / max(table.sum(), 1)
    return float(((table - expected) ** 2 / np.where(expected > 0, expected, 1)).sum())


def _describe_shares(
    question: str, texts: Sequence[str], names: Sequence[str], table: Array, p: float, questions: int, named: bool
) -> dict[str, Any]:
    shares = table / table.sum(axis=1, keepdims=True)
    statistic, freedom = _chi_square(table), min(len(names), (table.sum(axis=0) > 0).sum()) - 1
    effect, shifted = float(np.sqrt(statistic / table.sum() / freedom)), p * questions <= SIGNIFICANT
    answer = len(texts) - 1 if named else int(np.ptp(shares, axis=0).argmax())
    listed = ", ".join(f"{share:.1%} of {section}" for section, share in zip(names, shares[:, answer], strict=True))
    judged = "more than chance explains" if shifted else "no more than chance explains"
    return {
        "question": question,
        "shares": {
            section: {text: round(float(share), 4) for text, share in zip(texts, row, strict=True)}
            for section, row in zip(names, shares, strict=True)
        },
        "chi_square": round(statistic, 3),
        "p": round(p, 4),
        "cramers_v": round(effect, 4),
        "shifted": shifted,
        "statement": (
            f"{question if named else texts[answer]} is {listed}: {judged} "
            f"(permutation test by group, p = {p:.3f}; Cramer's V {effect:.2f})."
        ),
    }
