"""How a study's gradients are to be formed here, and the check that they are formed rightly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from client.engine.choice import example_of, fitting, measured
from client.engine.clipped import Patients
from client.engine.probe import require_sound
from client.gradients import summed_loss
from common.files import canonical_json, sha256, write_atomic
from common.model import build_model
from common.numerics import EngineChoice, NumericsRecord, record
from common.study import Study

Kernels = Literal["measured", "modelled"]
TIMED_PATIENTS: Final = 16
"""Patients in the batch that kernels are timed on, at most."""
TIMED_SECONDS: Final = 60.0
PROBED_PATIENTS: Final = 3


@dataclass(frozen=True)
class Choices:
    """What was measured for each shape of study, kept so that it is measured once.

    Attributes:
        path: a JSON file, made when there is something to keep.
    """

    path: Path

    def of(self, study: Study, *, threads: int, memory: int, kernels: Kernels) -> NumericsRecord:
        """The numerics record of a study on this machine; torch has that many threads now.

        Args:
            study: as for :func:`choose`.
            threads: of torch within an operation.
            memory: as for :func:`choose`.
            kernels: whether they are to be timed.
        """
        if kernels == "modelled":
            return record(threads, choose(study, memory=memory, measure=False))
        blank = record(threads, EngineChoice())
        shape = {
            "model": study.model.model_dump(mode="json"),
            "data": [study.data.channels, *study.data.image_size],
            "classes": len(study.task.classes),
            "images": _images(study),
            "batch": study.training.batch_size,
            "memory": memory,
            "on": blank.model_dump(mode="json"),
        }
        key, kept = sha256(canonical_json(shape)), self._kept()
        if key not in kept:
            found = choose(study, memory=memory, measure=True)
            kept |= {key: found.model_dump(mode="json")}
            write_atomic(self.path, canonical_json(kept))
        return record(threads, EngineChoice.model_validate(kept[key]))

    def _kept(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@lru_cache(maxsize=64)
def choose(study: Study, *, memory: int, measure: bool) -> EngineChoice:
    """How to form a study's gradients on this machine, with torch's present threads.

    Args:
        study: model, image size, images of a patient and batch are taken from it.
        memory: bytes that activations and gradients of a micro-batch may take.
        measure: time the kernels; else each layer's kernel follows from its shape.

    Raises:
        ModelError: the model cannot be built, or not be trained privately.
    """
    model, loss = build_model(study), summed_loss(study.training.class_weights)
    micro_batch = fitting(model, _example(study, 2), loss, memory)
    choice = EngineChoice(micro_batch=micro_batch)
    if not measure:
        return choice
    held = max(1, micro_batch // _images(study))
    patients = min(TIMED_PATIENTS, study.training.batch_size, held)
    return measured(model, _example(study, patients), loss, choice, seconds=TIMED_SECONDS)


def check(study: Study, choice: EngineChoice) -> None:
    """Hold the engine's sums for a study's model against autograd's, once in this process.

    Raises:
        ModelError: names the module or parameter at fault.
    """
    _check(study, choice.model_dump_json())


@lru_cache(maxsize=64)
def _check(study: Study, choice: str) -> None:
    require_sound(
        build_model(study),
        _example(study, PROBED_PATIENTS),
        summed_loss(study.training.class_weights),
        EngineChoice.model_validate_json(choice),
    )


def _example(study: Study, patients: int) -> Patients:
    data = study.data
    shape = (data.channels, *data.image_size)
    return example_of(shape, patients, _images(study), build_model(study))


def _images(study: Study) -> int:
    """Images of a patient in a step."""
    return study.training.images_per_patient * study.training.augmentation.copies
