"""By how much each site counts in the average, in whole numbers fixed before round one.

A site counts by its declared patients (McMahan et al. 2017), or every site by one. Where a study
caps the share of one site, weights above the cap are lowered to the largest whole number that
keeps it, and no other weight changes: first in the plans, among the sites that have one, and in
each round (:mod:`server.study.aggregation`) among those that have answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from common.study.aggregation import AggregationSettings, share_of
from common.study.study_file import Patients
from common.text import Slug

AgreedPatients = dict[Slug, Patients]
"""What people have agreed each site declares."""


def weigh(settings: AggregationSettings, patients: Mapping[str, int]) -> dict[str, int]:
    """The whole number by which each site counts.

    Args:
        settings: of the study.
        patients: declared, by site; at least ``min_sites`` of them, each at least 1.
    """
    declared = settings.weights == "declared"
    weights = {site: number if declared else 1 for site, number in patients.items()}
    return capped(weights, share_of(settings.max_share))


def capped(weights: Mapping[str, int], share: Fraction) -> dict[str, int]:
    """The weights, none beyond a share of their sum, and as few lowered as can be.

    The cap on a weight is the largest whole number ``c`` with
    ``min(heaviest, c) <= share * sum(min(weight, c))``. The right side less the left is concave
    in c and 0 at 0, so that what holds at some c holds below it too: it is found by halving.
    Fewer than ``1 / share`` sites cannot keep the share: then all count alike.
    """
    # Whole numbers and a Fraction: a float's rounding could let a site above its cap.
    low, high = 1, max(weights.values(), default=1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(weight, middle) for weight in weights.values()):
            low = middle
        else:
            high = middle - 1
    return {site: min(weight, low) for site, weight in weights.items()}


@dataclass(frozen=True)
class Counted:
    """By how much a site counts.

    Attributes:
        patients: declared, or agreed on where nothing is declared yet.
        weight: the whole number that its update is taken times.
        share: of the average, among the sites that were weighed with it.
    """

    patients: int
    weight: int
    share: float


def counted(patients: Mapping[str, int], weights: Mapping[str, int]) -> dict[str, Counted]:
    """By how much each site counts, of those that have a weight."""
    whole = sum(weights.values())
    return {
        site: Counted(patients[site], weight, weight / whole) for site, weight in weights.items()
    }
