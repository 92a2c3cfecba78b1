"""Hospitals whose scanners differ: the same patients everywhere, more noise at each next hospital.

The noise-based feature shift of Li et al. (2022, arXiv:2102.02079, section 4.2): hospital i of n
adds Gaussian noise of standard deviation ``noise * i / (n - 1)`` to its images.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from simulations.partitions.iid import Iid

_WHITE = 255.0


class Noisy(Iid):
    """Equal hospitals; the last one's images have the most noise.

    Attributes:
        noise: standard deviation at the last hospital, as a share of the whole grey scale.
    """

    kind: ClassVar[str] = "noisy"

    noise: float = Field(default=0.2, ge=0, le=1)

    def changed(
        self, images: npt.NDArray[np.uint8], site: int, sites: int, rng: np.random.Generator
    ) -> npt.NDArray[np.uint8]:
        """See :meth:`simulations.partitions.partition.Partitioning.changed`."""
        deviation = self.noise * _WHITE * site / max(1, sites - 1)
        noised = images + rng.normal(0.0, deviation, images.shape)
        return np.clip(np.rint(noised), 0, _WHITE).astype(np.uint8)
