"""Evaluation at a site: a patient has one vote, and only a noised histogram leaves."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from client.dataset import Patient
from common.errors import Refusal, RefusalCode
from common.model import build_model, load_flat
from common.privacy import NoMechanism, PatientMechanism
from common.randomness import Stream
from common.study import Study

_IMAGES_AT_ONCE: Final = 256


def score(
    study: Study,
    weights: npt.NDArray[np.float32],
    images: npt.NDArray[Any],
    patients: tuple[Patient, ...],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The class probabilities of each patient, the mean over the patient's images.

    Args:
        study: model and intensity constants.
        weights: flat float32 weights.
        images: (images, channels, height, width) in [0, 1].
        patients: whom to score; sensitive.

    Returns:
        Probabilities, float64 (patients, classes), and labels, int64 (patients,); sensitive.
    """
    model = build_model(study).eval()
    load_flat(model, weights)
    rows = [row for patient in patients for row in patient.images]
    each = np.concatenate(
        [np.empty((0, len(study.task.classes)))]
        + [
            _probabilities(study, model, images[rows[first : first + _IMAGES_AT_ONCE]])
            for first in range(0, len(rows), _IMAGES_AT_ONCE)
        ]
    )
    ends = np.cumsum([len(patient.images) for patient in patients], dtype=np.int64)
    votes = [part.mean(axis=0) for part in np.split(each, ends[:-1])] if len(patients) else []
    labels = np.array([patient.label for patient in patients], dtype=np.int64)
    return np.array(votes).reshape(len(patients), len(study.task.classes)), labels


def release(
    counts: npt.NDArray[np.int64],
    mechanism: PatientMechanism | NoMechanism,
    stream: Stream,
) -> npt.NDArray[np.int64]:
    """What may leave of a histogram: its counts with Gaussian noise, rounded.

    Rounding comes after the noise and costs nothing. Counts may become negative and are
    not clipped: clipping before pooling would bias the pooled figure.

    Raises:
        Refusal: ``wrong-plan``: the plan has no noise for an evaluation.
    """
    if isinstance(mechanism, NoMechanism):
        return counts
    if mechanism.evaluation is None:
        raise Refusal(RefusalCode.WRONG_PLAN, "the plan foresees no evaluation, and no noise")
    noise = mechanism.cell_noise * stream.normal(counts.shape)
    return np.rint(counts + noise).astype(np.int64)


@torch.no_grad()
def _probabilities(
    study: Study, model: torch.nn.Module, images: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    pixels = torch.from_numpy(np.asarray(images, dtype=np.float32))
    logits = model((pixels - study.data.mean) / study.data.std)
    probabilities: npt.NDArray[np.float64] = logits.double().softmax(dim=1).numpy()
    return probabilities
