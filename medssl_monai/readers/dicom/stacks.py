"""Order, grid and gaps of slices or frames that lie on each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from medssl_monai.readers.dicom.elements import (
    DIFFERENCES,
    directions_in,
    functional_groups,
    numbers_in,
    pixel_spacing,
    positive,
)
from medssl_monai.readers.grids import LPS_TO_RAS, Array, Grid, plane

SAME_PLACE = 1e-3
"""Slices closer than this (mm) lie at one place: far above rounding, far below any slice distance."""
PLACES = 10
"""Gaps of a series that are named, at most."""
NO_DISTANCE = "the distance of slices or frames is unknown; taken as 1 mm"


class Stack(NamedTuple):
    """The order and the grid of planes that lie on each other.

    Attributes:
        order: positions in the given sequence, sorted along the slice normal.
        grid: of the sorted volume.
        problem: why they are no volume.
        notes: what is odd about it.
    """

    order: Array
    grid: Grid
    problem: str | None
    notes: tuple[str, ...] = ()


def stack_of_frames(ds: Dataset, frames: int) -> Stack:
    """Stack frames in patient space if they are slices of one volume, else in the order of the file."""
    groups = [functional_groups(ds, frame) for frame in range(frames)]
    spacing = pixel_spacing(groups[0])
    positions = np.stack([numbers_in(group, "ImagePositionPatient", 3) for group in groups])
    directions = np.stack([directions_in(group) for group in groups])
    known = np.isfinite(positions).all() and np.isfinite(directions).all()
    stack = stack_of_planes(positions, directions, spacing) if known else None
    if stack and not stack.problem:
        return stack
    spacing = np.append(spacing, positive(numbers_in(groups[0], "SpacingBetweenSlices", 1)))
    notes = (NO_DISTANCE,) if np.isnan(spacing[2]) else ()
    return Stack(np.arange(frames), plane(spacing), stack.problem if stack else None, notes)


def stack_of_planes(
    positions: Array, directions: Array, spacing: Array, kinds: Sequence[dict[str, str]] = ()
) -> Stack | None:
    """Sort planes along their common normal.

    Args:
        positions: of the first pixels ``(N, 3)``, in mm, L-P-S as in the file.
        directions: of rows and columns, ``(N, 6)``.
        spacing: of pixels along x and y, in mm.
        kinds: what may tell planes at one position apart.

    Returns:
        None if all planes lie at one place, or no two are parallel.
    """
    orientations: list[Array] = []
    for row in np.unique(directions, axis=0):
        if all(np.abs(row - other).max() > 0.01 for other in orientations):
            orientations.append(row)
    if len(orientations) == len(positions):  # a localizer (scout) of one image for each plane
        return None
    if len(orientations) > 1:
        mixed = (
            f"its {len(positions)} images have {len(orientations)} orientations; are there localizers (scouts) or "
            "several stacks among them? Split the series by orientation"
        )
        return Stack(np.arange(len(positions)), plane(spacing), mixed)
    row, column = np.median(directions, axis=0).reshape(2, 3)  # a mean would depend on the order, in the last digit
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    along = (positions * normal).sum(axis=1)
    if np.ptp(along) <= SAME_PLACE:
        return None
    order, problem = order_along(positions, normal, kinds)
    first, last = positions[order[0]], positions[order[-1]]
    step = (last - first) / (len(order) - 1)
    spacing = np.append(spacing, np.linalg.norm(step))
    affine = np.eye(4)
    affine[:3] = np.column_stack([row, column, step / spacing[2], first])
    affine[:3, :3] *= np.nan_to_num(spacing, nan=1.0)
    tilt = np.degrees(np.arccos(min(1.0, step @ normal / spacing[2])))
    notes = (f"gantry tilted by {tilt:.1f} degrees",) if tilt > 0.5 and not problem else ()
    return Stack(order, (LPS_TO_RAS @ affine, spacing), problem, notes)


def order_along(points: Array, axis: Array, kinds: Sequence[dict[str, str]]) -> tuple[Array, str | None]:
    """Return the order of points ``(N, D)`` along an axis, and what is wrong if they are not evenly spaced on a line.

    Tolerances are shares of the common step: a tenth for points at one place, a half for a gap, a quarter for the
    distance from where a point should be.
    """
    along = (points * axis).sum(axis=1)
    order = np.argsort(along, kind="stable")
    points, along = points[order], along[order]
    gaps = np.diff(along)
    step = np.quantile(gaps[gaps > SAME_PLACE], 0.5, method="lower")
    same, wide, digits = gaps < 0.1 * step, gaps > 1.5 * step, 1 if step >= 1 else 3
    off = np.linalg.norm(points - np.linspace(points[0], points[-1], len(points)), axis=1).max()
    if same.any():
        place = np.append(0, np.cumsum(~same))
        twice = (np.bincount(place) > 1).sum()
        differ = [
            name
            for key, name in DIFFERENCES.items()
            if kinds and len({(p, kinds[o][key]) for p, o in zip(place, order, strict=True)}) > place[-1] + 1
        ]
        return order, (
            f"several images lie at {twice} of its {place[-1] + 1} slice positions"
            + (f" and differ in {' and '.join(differ)}" if differ else "")
            + "; these are probably several echoes, phases or b-values. Split the series by them"
        )
    if wide.any():
        lost = np.rint(gaps[wide] / step).astype(int) - 1
        places = [f"between {along[k]:.{digits}f} and {along[k + 1]:.{digits}f} mm" for k in np.flatnonzero(wide)]
        others = [f"{count} {place}" for count, place in zip(lost[1:], places[1:], strict=True)]
        return order, (
            f"{'a slice is' if lost[0] == 1 else f'{lost[0]} slices are'} missing {places[0]} along the slice axis "
            f"(other steps: {step:.{digits}f} mm)" + (f", and {listed(others)}" if others else "")
        )
    if off > 0.25 * step:
        return order, f"its slices are unevenly spaced: one lies {off:.{digits}f} mm off (steps: {step:.{digits}f} mm)"
    return order, None


def listed(places: Sequence[str]) -> str:
    """Return the first `PLACES` places as a text, and how many more there are."""
    more = [f"at {len(places) - PLACES} further places"] if len(places) > PLACES else []
    return ", ".join([*places[:PLACES], *more])
