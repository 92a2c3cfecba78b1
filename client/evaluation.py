"""Evaluation at a site: a patient has one vote, and only a noised histogram leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.dataset import Patient
from client.engine.clipped import outputs
from common.errors import Refusal, RefusalCode
from common.model import build_model, load_flat
from common.privacy import NoMechanism, PatientMechanism
from common.randomness import Stream
from common.study import Study


def score(
    study: Study,
    weights: npt.NDArray[np.float32],
    images: npt.NDArray[Any],
    patients: tuple[Patient, ...],
    *,
    tile: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The class probabilities of each patient, the mean over the patient's images.

    A patient's vote is a function of the weights and of that patient's images, to the last bit:
    images go through the model in tiles, as many places each time (:mod:`client.engine.clipped`
    says why).

    Args:
        study: model and intensity constants.
        weights: flat float32 weights.
        images: (images, channels, height, width) in [0, 1].
        patients: whom to score; sensitive.
        tile: images that go through the model at once.

    Returns:
        Probabilities, float64 (patients, classes), and labels, int64 (patients,); sensitive.
    """
    model = build_model(study).eval()
    load_flat(model, weights)
    rows = [row for patient in patients for row in patient.images]
    each = np.empty((len(rows), len(study.task.classes)))
    places = torch.zeros(tile, study.data.channels, *study.data.image_size)
    for first in range(0, len(rows), tile):
        some = rows[first : first + tile]
        places.zero_()
        places[: len(some)] = torch.from_numpy(np.asarray(images[some], dtype=np.float32))
        found = _probabilities(study, model, places)
        each[first : first + tile] = found[: len(some)]
    votes = np.zeros((len(patients), each.shape[1]))
    end = 0
    for place, patient in enumerate(patients):
        begin, end = end, end + len(patient.images)
        votes[place] = each[begin:end].mean(axis=0)
    return votes, np.array([patient.label for patient in patients], dtype=np.int64)


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


def _probabilities(
    study: Study, model: torch.nn.Module, pixels: torch.Tensor
) -> npt.NDArray[np.float64]:
    logits = outputs(model, (pixels - study.data.mean) / study.data.std)
    probabilities: npt.NDArray[np.float64] = logits.double().softmax(dim=1).numpy()
    return probabilities
