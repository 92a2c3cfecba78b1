"""Evaluation at a site: a patient marks a bounded number of cells, and only noised counts leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.data.cohort import Patient
from client.engine.clipped import Patients, Tile, outputs, place
from client.training.sampling import pixels_of
from client.training.targets import TARGETS
from client.training.tuning import images_of
from common.devices.devices import DEVICES
from common.errors import Refusal, RefusalCode
from common.figures.release import tally
from common.models.networks import build_model, load_flat
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.privacy.randomness import Stream
from common.process.denormals import flushed
from common.study.study_file import Study
from common.tasks.task import Task


@flushed()
def counted(
    study: Study,
    weights: npt.NDArray[np.float32],
    images: npt.NDArray[Any],
    patients: tuple[Patient, ...],
    *,
    choice: EngineChoice,
    masks: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.int64]:
    """What the patients mark, counted: sensitive until noise is added.

    Args:
        study: task, model, intensity constants and images of a patient.
        weights: flat float32 weights.
        images: (images, channels, height, width) in [0, 1].
        patients: whom to evaluate; sensitive.
        choice: tile and layout.
        masks: (images, height, width), where they are the targets.

    Returns:
        int64, of the shape of the study's release.
    """
    bins, task = study.evaluation.bins, study.task
    each = outputs_of(study, weights, images, patients, choice=choice, masks=masks)
    return tally((_marks(task, *one, bins) for one in each), task.release(bins))


def _marks(
    task: Task, outputs: torch.Tensor, targets: torch.Tensor, bins: int
) -> npt.NDArray[np.int64]:
    """The cells of one patient; none where the task fails on that patient."""
    try:
        return np.asarray(task.marks(outputs, targets, bins))
    except Exception:  # noqa: BLE001 - a silence would tell that this patient is here
        return np.empty((0, 0), dtype=np.int64)


def outputs_of(
    study: Study,
    weights: npt.NDArray[np.float32],
    images: npt.NDArray[Any],
    patients: tuple[Patient, ...],
    *,
    choice: EngineChoice,
    masks: npt.NDArray[Any] | None = None,
    most: int | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What the model gives for each patient's first images, and their targets. Sensitive.

    Which are first follows from their contents, so from that patient alone
    (:class:`client.data.cohort.Patient`).

    Args:
        study: as for :func:`counted`, and so all others.
        weights: as there.
        images: as there.
        patients: as there.
        choice: as there.
        masks: as there.
        most: images of a patient, at most; left out, as many as the study says.

    Yields:
        For each patient in turn outputs (images, ...) and targets (images, ...).
    """
    most = study.evaluation.images_per_patient if most is None else most
    form = TARGETS[study.task.target]
    rows = [np.array(patient.images[:most]) for patient in patients]
    given = outputs_for(study, weights, images, rows, choice=choice)
    for patient, mine, own in zip(patients, rows, given, strict=True):
        yield own, form.of(patient, mine, masks)


def outputs_for(
    study: Study,
    weights: npt.NDArray[np.float32],
    images: npt.NDArray[Any],
    rows: Sequence[npt.NDArray[np.int64]],
    *,
    choice: EngineChoice,
) -> Iterator[torch.Tensor]:
    """What the model gives for the images of each patient in turn, (images, ...). Sensitive.

    A patient's outputs are a function of the weights and of that patient's images, to the last
    bit: images go through the model in the very tiles in which training has it, which is what was
    tried on this machine (:mod:`client.engine.alone`).

    Args:
        study: as for :func:`counted`.
        weights: as there.
        images: as there.
        rows: of each patient's images.
        choice: as there.
    """
    model = place(build_model(study), choice)
    load_flat(model, weights)
    waiting = deque(rows)
    every = [row for mine in rows for row in mine]
    shape = (1, images_of(study), study.data.channels, *study.data.image_size)
    device = DEVICES[choice.device]
    like = Patients(device.move(torch.zeros(shape)), device.move(torch.zeros(1)))
    tile = Tile(like, choice.tile, choice)
    places = tile.patients.inputs.flatten(0, 1)
    found: list[torch.Tensor] = []
    for first in range(0, len(every), len(places)):
        some = every[first : first + len(places)]
        places.zero_()  # nothing of the images before may change a bit of these
        pixels = pixels_of(images, some, device)
        places[: len(some)] = (pixels - study.data.mean) / study.data.std
        found += outputs(model, places, choice.precision)[: len(some)].clone().cpu()
        # A patient whose images lie in two tiles waits for the second.
        while waiting and len(waiting[0]) <= len(found):
            mine = waiting.popleft()
            own = torch.stack(found[: len(mine)])
            del found[: len(mine)]
            yield own


def release(
    counts: npt.NDArray[np.int64],
    mechanism: PatientMechanism | NoMechanism,
    stream: Stream,
) -> npt.NDArray[np.int64]:
    """What may leave of an evaluation: its counts with Gaussian noise, rounded.

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
