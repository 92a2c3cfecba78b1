"""Evaluation at a site: a patient has one vote, and only a noised histogram leaves."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.data.cohort import Patient
from client.engine.clipped import Patients, Tile, outputs, place
from client.training.tuning import images_of
from common.errors import Refusal, RefusalCode
from common.models.networks import build_model, load_flat
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.privacy.randomness import Stream
from common.process.denormals import flushed
from common.study.study_file import Study


@flushed()
def score(
    study: Study,
    weights: npt.NDArray[np.float32],
    images: npt.NDArray[Any],
    patients: tuple[Patient, ...],
    *,
    choice: EngineChoice,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The class probabilities of each patient, the mean over the patient's first images.

    How many are scored at most is the study's. Which are first follows from their contents, so
    from that patient alone (:class:`client.data.cohort.Patient`).

    A patient's vote is a function of the weights and of that patient's images, to the last bit:
    images go through the model in the very tiles in which training has it, which is what was tried
    on this machine (:mod:`client.engine.alone`).

    Args:
        study: model, intensity constants and images of a patient.
        weights: flat float32 weights.
        images: (images, channels, height, width) in [0, 1].
        patients: whom to score; sensitive.
        choice: tile and layout.

    Returns:
        Probabilities, float64 (patients, classes), and labels, int64 (patients,); sensitive.
    """
    model = place(build_model(study), choice)
    load_flat(model, weights)
    most = study.evaluation.images_per_patient
    rows_of = [patient.images[:most] for patient in patients]
    rows = list(chain.from_iterable(rows_of))
    each = np.empty((len(rows), len(study.task.classes)))
    shape = (1, images_of(study), study.data.channels, *study.data.image_size)
    tile = Tile(Patients(torch.zeros(shape), torch.zeros(1)), choice.tile, choice)
    places = tile.patients.inputs.flatten(0, 1)
    for first in range(0, len(rows), len(places)):
        some = rows[first : first + len(places)]
        places.zero_()  # nothing of the images before may change a bit of these
        pixels = torch.from_numpy(np.asarray(images[some], dtype=np.float32))
        places[: len(some)] = (pixels - study.data.mean) / study.data.std
        found: npt.NDArray[np.float64] = outputs(model, places).double().softmax(dim=1).numpy()
        each[first : first + len(some)] = found[: len(some)]
    # The mean over a patient's images: one vote each, however many images there are.
    votes = np.zeros((len(patients), each.shape[1]))
    end = 0
    for number, mine in enumerate(rows_of):
        begin, end = end, end + len(mine)
        votes[number] = each[begin:end].mean(axis=0)
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
