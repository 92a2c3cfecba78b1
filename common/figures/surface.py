"""How far the edges of two masks lie apart, in pixels: for images that a simulation may see.

The edge of a mask is its pixels with a neighbour outside, and a distance is that from one edge's
pixel to the nearest of the other's. The average symmetric surface distance
is the mean over both edges; the 95 % Hausdorff distance is the 95th percentile of the distances
from one edge or from the other, whichever is greater (Reinke and others 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.special import stdtrit

from common.figures.intervals import Estimate, Evidence, absent

NEAR = 1.0
"""Pixels to which a distance is always worth knowing."""


def distances(
    images: Iterable[tuple[NDArray[np.bool_], NDArray[np.bool_]]],
) -> tuple[float, float]:
    """Average symmetric surface distance and 95 % Hausdorff distance of one patient, in pixels.

    Each image is measured by itself, since nothing says how far apart images lie; the distances
    are put together. Only images count in which both masks have pixels.

    Args:
        images: for each, what was found and what is there, (height, width). Sensitive.

    Returns:
        Not a number, twice, if no image counts.
    """
    ways: tuple[list[NDArray[np.float64]], ...] = ([], [])
    for masks in images:
        if all(mask.any() for mask in masks):
            edges = [mask & ~binary_erosion(mask) for mask in masks]
            for way, mine, other in zip(ways, edges, reversed(edges), strict=True):
                way.append(distance_transform_edt(~other)[mine])
    if not ways[0]:
        return np.nan, np.nan
    there_and_back = [np.concatenate(way) for way in ways]
    farthest = max(float(np.percentile(way, 95.0)) for way in there_and_back)
    return float(np.concatenate(there_and_back).mean()), farthest


def lengths(values: NDArray[np.float64], *, of: str) -> Estimate:
    """The mean over patients with Student's 95 % interval.

    Args:
        values: (patients,) in pixels; those that are not a number are left out.
        of: the others, in words.
    """
    known = values[np.isfinite(values)]
    why = Evidence(of, len(known), 0.0).lacking(by_noise=False)
    if len(known) < 2:
        return absent(why)
    value = float(known.mean())
    reach = float(stdtrit(len(known) - 1, 0.975) * known.std(ddof=1) / np.sqrt(len(known)))
    usable = reach <= max(value, NEAR)
    return Estimate(value, max(value - reach, 0.0), value + reach, usable, None if usable else why)


def mean_length(parts: Sequence[Estimate]) -> Estimate:
    """The mean over classes; its interval holds however the classes depend on each other."""
    values = [part.value for part in parts if part.value is not None]
    why = next((part.why for part in parts if part.why is not None), None)
    if len(values) < len(parts):
        return absent(why or "a class has no figure")
    low, high = (
        float(np.mean(ends)) for ends in zip(*((p.low, p.high) for p in parts), strict=True)
    )
    return Estimate(float(np.mean(values)), low, high, why is None, why)
