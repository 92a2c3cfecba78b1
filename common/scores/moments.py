"""Dense heads in closed form, from noised sums over patients.

What a one-shot study releases (:mod:`common.study.one_shot`) are sums of public features, each
patient's times what is known of the patient, with noise of a variance that is public too. So how
much of a mean is noise is known, and it is left out by shrinking (James and Stein 1961). Features
are taken for uncorrelated and alike in spread within a class: a projection that was whitened on
public images makes them nearly so. Their own second moments would cost more noise than they save.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
LENGTH: Final = 3.0
"""L2 norm of the features of every image. A one stands beside them: longer features would leave
the counts of patients to the noise, and shorter ones would be left to it themselves."""
_DECLARED: Final = 0.1
"""How far the true number of patients is from the declared one, as a share: a guess in advance.
It is no smaller a part of it, either."""
_RAREST: Final = 0.1
"""A class has at least this part of an even share."""
_KEPT: Final = 0.05
"""What is left, at least, of a mean that could be noise alone: its direction may still tell."""
_SPREAD: Final = 0.25
"""What classes leave, at least, of the features' spread."""


def discriminant(sums: Numbers, variance: float) -> Numbers:
    """A linear discriminant (Fisher 1936) of classes with one covariance, a multiple of the unit.

    Args:
        sums: (classes, features + 1), over the declared number of patients: of the features of each
            class, and of the ones beside them.
        variance: of the noise in each entry.

    Returns:
        (classes, features + 1): weights, and the bias last; logits of the classes.
    """
    classes, features = len(sums), sums.shape[1] - 1
    total = _towards(float(sums[:, -1].sum()), classes * variance, 1.0, _DECLARED**2)
    total = max(total, _DECLARED)
    # Shares that are all alike to begin with: their spread is that of uniform ones (Dirichlet).
    even, spread = 1.0 / classes, (classes - 1) / (classes**2 * (classes + 1))
    shares = np.array(
        [_towards(one / total, variance / total**2, even, spread) for one in sums[:, -1]]
    )
    shares = np.maximum(shares, _RAREST * even)
    shares /= shares.sum()
    means = sums[:, :-1] / (total * shares[:, None])
    noise = variance / (total * shares) ** 2
    centre = shares @ means
    apart = means - centre
    found = (apart**2).sum(axis=1)
    apart *= _kept(found, features * noise)[:, None]
    centre *= min(1.0, LENGTH / max(float(np.linalg.norm(centre)), 1e-30))
    # All features have one length: what the centre and the classes explain of it is not spread.
    explained = float((centre**2).sum() + shares @ (apart**2).sum(axis=1))
    within = max(LENGTH**2 - explained, _SPREAD * LENGTH**2) / features
    weights = apart / within
    bias = np.log(shares) - weights @ centre - (apart**2).sum(axis=1) / (2.0 * within)
    return np.column_stack([weights, bias])


def least_squares(sums: Numbers, variance: float) -> Numbers:
    """A straight line through a number in [-1, 1].

    Args:
        sums: (1, features + 1), over the declared number of patients: of the number times the
            features, and of the number.
        variance: of the noise in each entry.

    Returns:
        (1, features + 1): weights, and the bias last.
    """
    features = sums.shape[1] - 1
    together, middle = sums[:, :-1], float(np.clip(sums[0, -1], -1.0, 1.0))
    found = (together**2).sum(axis=1)
    weights = together * _kept(found, np.array([features * variance]))[:, None]
    weights /= LENGTH**2 / features
    # A line explains no more of the number than there is.
    explained = float((weights**2).sum()) * LENGTH**2 / features
    weights *= min(1.0, np.sqrt((1.0 - middle**2) / max(explained, 1e-12)))
    return np.column_stack([weights, [middle]])


def _kept(found: Numbers, noise: Numbers) -> Numbers:
    """What of vectors is kept, given their squared lengths and what noise adds to them."""
    found = np.maximum(found, 1e-30)
    # Longer than any features are, it is noise by so much more.
    least = _KEPT * np.minimum(1.0, LENGTH**2 / found)
    return np.asarray(np.maximum(1.0 - noise / found, least))


def _towards(found: float, noise: float, before: float, spread: float) -> float:
    """What was found, pulled towards what was thought before by as much as it is noise."""
    return (found * spread + before * noise) / (spread + noise)
