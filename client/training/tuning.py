"""How a study's gradients are to be formed here, and the check that they are formed rightly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from client.engine.alone import is_alone, settled
from client.engine.choice import example_of, measured
from client.engine.clipped import PLAIN, Loss, Patients, clipped_sum, place
from client.engine.probe import require_sound
from client.training.footprint import COPIES, Room, evaluated, fitting, room_of
from client.training.gradients import summed_loss
from client.training.targets import TARGETS
from common.devices.devices import DEVICES
from common.errors import ModelError
from common.files import canonical_json, sha256, write_atomic
from common.models.networks import seeded_model, sketch, weights_count
from common.numerics import LARGEST_TILE, EngineChoice, NumericsRecord, decisive, record
from common.study.aggregation import AggregationSettings
from common.study.fixed_point import FixedPoint
from common.study.study_file import Augmentation, Evaluation, NoPrivacy, Study, StudyInfo, Training

T = TypeVar("T")
Kernels = Literal["measured", "modelled"]
TIMED_SECONDS: Final = 60.0
REST_SECONDS: Final = 60.0
MOST_KEPT: Final = 32
"""Shapes of study whose choice is kept; of more, the newest."""
PROBED_PATIENTS: Final = 3
CHECKPOINTING: Final = EngineChoice(checkpointing=True)
"""Where one patient takes less memory, and longer."""
_WEIGHT_BYTES: Final = 4
LITTLE_WORK: Final = 2**33
"""Floating-point operations of a step that is tried while the last measurement is not long ago."""


@dataclass
class Choices:
    """What was chosen for each shape of study, kept so that it stays and is measured once.

    A coordinator that asks about shape after shape cannot keep the machine busy or fill the disk:
    the site measures once in :attr:`rest` seconds, and models the choice in between.

    Attributes:
        path: a JSON file, made when there is something to keep.
        rest: seconds from one measurement to the next.
    """

    path: Path
    rest: float = REST_SECONDS
    _rested: float = field(default=-math.inf, init=False, repr=False)

    def of(
        self,
        study: Study,
        *,
        threads: int,
        memory: int,
        kernels: Kernels,
        blank: EngineChoice = PLAIN,
    ) -> NumericsRecord:
        """The numerics record of a study on this machine; torch has that many threads now.

        Args:
            study: as for :func:`choose`.
            threads: of torch within an operation.
            memory: as for :func:`choose`.
            kernels: whether they are to be timed, where that was not done a moment ago.
            blank: as for :func:`choose`.
        """
        if kernels == "modelled":
            return record(threads, modelled(study, memory, blank=blank))
        shape = {
            **network_of(study),
            "images": images_of(study),
            "batch": study.training.batch_size,
            "evaluated": _evaluated(study),
            "memory": memory,
            "on": decisive(record(threads, blank)),  # after an update kernels are timed again
        }
        return record(
            threads,
            remembered(self.path, _KEPT, shape, partial(self._chosen, study, memory, blank)),
        )

    def _chosen(self, study: Study, memory: int, blank: EngineChoice) -> EngineChoice:
        if time.monotonic() < self._rested:
            return modelled(study, memory, work=LITTLE_WORK, blank=blank)
        try:
            return choose(study, memory=memory, blank=blank)
        finally:
            self._rested = time.monotonic() + self.rest


_KEPT: Final = TypeAdapter(dict[str, EngineChoice])


def network_of(study: Study) -> dict[str, Any]:
    """What of a study's shape decides how long its network takes.

    Not what classes are called, or how they weigh: else each name would be measured again.
    """
    return {
        "model": study.model.model_dump(mode="json"),
        "data": [study.data.channels, *study.data.image_size],
        "task": [study.task.kind, *study.task.heads()],
    }


def remembered(
    path: Path, form: TypeAdapter[dict[str, T]], shape: object, measure: Callable[[], T]
) -> T:
    """What was measured for a shape of study; measured now where the file does not have it.

    Args:
        path: a JSON file of the newest :data:`MOST_KEPT` shapes, made when there is something to
            keep.
        form: of the file.
        shape: what the measurement depends on.
        measure: does it.
    """
    key = sha256(canonical_json(shape))
    try:
        kept = form.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):  # a damaged file is measured again
        kept = {}
    if key not in kept:
        kept[key] = measure()
        newest = dict(list(kept.items())[-MOST_KEPT:])  # in the order in which they came
        write_atomic(path, form.dump_json(newest))
    return kept[key]


def choose(study: Study, *, memory: int, blank: EngineChoice = PLAIN) -> EngineChoice:
    """The fastest way to form a study's gradients here, with torch's present threads.

    Args:
        study: model, image size, images of a patient and batch are taken from it.
        memory: bytes that activations and gradients of a tile may take.
        blank: the device, and the precision of activations.

    Raises:
        ModelError: the model cannot be built, not be trained privately, or not in this memory.
    """
    choice = modelled(study, memory, blank=blank)
    # An offer would keep the machine busy, approved by nobody.
    if room(study, choice).work > DEVICES[blank.device].tried_work:
        return choice
    model, loss = _probed(study), summed_loss(study.task, study.training.method)
    example = _example(study, model, choice.tile, blank)
    with _on_a_card_that_is_large_enough(choice):
        found = measured(model, example, loss, choice, seconds=TIMED_SECONDS)
        # Kernels that were timed must compute a patient alone, as the modelled ones were tried to.
        some = example[slice(0, PROBED_PATIENTS)]
        return _passing(place(model, found), some, loss, found) or choice


def room(study: Study, blank: EngineChoice = PLAIN) -> Room:
    """What one patient's share of a step takes, from shapes alone: nothing is built or run.

    Args:
        study: as for :func:`choose`.
        blank: of which only this counts, whether activations are checkpointed.

    Raises:
        ModelError: the model cannot be built, or not be trained privately.
    """
    return _room(_of_any_batch(study), checkpointing=blank.checkpointing)


def modelled(
    study: Study, memory: int, *, work: int | None = None, blank: EngineChoice = PLAIN
) -> EngineChoice:
    """A way to form a study's gradients that follows from shapes alone.

    Where this machine computes a patient otherwise beside others, patients are taken one by one.
    Nothing is built before it is known to fit, and no step is tried that would take long.

    Args:
        study: as for :func:`choose`.
        memory: as there.
        work: floating-point operations that a step may take that is tried; as many as the device
            does in a few seconds where it is left out.
        blank: as there.

    Raises:
        ModelError: as there.
    """
    alike, items, beside = _of_any_batch(study), images_of(study), _evaluated(study)
    blank = _sparing(study, memory, blank)
    single = needed(study, memory, blank)
    if single > memory:
        raise ModelError(
            "one patient's images do not fit into memory at once",
            where="[device] memory_mib; [model], [data] image_size, [training], [evaluation]",
            found=f"{mib(single)} MiB for {items} images of a patient in a step, "
            f"{study.evaluation.images_per_patient} in an evaluation",
            wanted=f"at most {mib(memory)} MiB, since a patient's images are clipped together",
            remedy="raise memory_mib, or use fewer images or copies, a smaller image_size or "
            "another model",
        )
    work = DEVICES[blank.device].tried_work if work is None else work
    fits = _fits(alike, memory - beside, blank.model_dump_json())
    most = min(fits, max(1, work // max(1, room(study, blank).work)))
    tiles = (tile_of(batch, most) for batch in (study.training.batch_size, LARGEST_TILE))
    choices = (blank.model_copy(update={"tile": tile}) for tile in tiles)
    tried = (_settled(alike, each.model_dump_json(), torch.get_num_threads()) for each in choices)
    found = next(filter(None, tried), None)
    if found is not None:
        return EngineChoice.model_validate_json(found)
    return blank.model_copy(update={"tile": 1})


def needed(study: Study, memory: int, blank: EngineChoice = PLAIN) -> int:
    """Bytes that one patient takes in a step and in an evaluation; or weights that are too many.

    Args:
        study: as for :func:`choose`.
        memory: bytes; beyond it weights are too many, and nothing else is counted.
        blank: as for :func:`room`.

    Raises:
        ModelError: as :func:`room`.
    """
    weights = COPIES * _WEIGHT_BYTES * weights_count(study)
    return weights if weights > memory else room(study, blank).bytes + _evaluated(study)


def _evaluated(study: Study) -> int:
    # Counted before a patient is read: else memory would end for a patient of many images alone.
    return evaluated(_shape(study), study.task, items=study.evaluation.images_per_patient)


def least_needed(study: Study, memory: int) -> int:
    """The same, with activations checkpointed where one patient would not fit without.

    Args:
        study: as for :func:`needed`.
        memory: as there.

    Raises:
        ModelError: as :func:`room`.
    """
    return needed(study, memory, _sparing(study, memory, PLAIN))


def _sparing(study: Study, memory: int, blank: EngineChoice) -> EngineChoice:
    """The same choice; with activations checkpointed where one patient would not fit without."""
    if needed(study, memory, blank) <= memory:
        return blank
    return blank.model_copy(update={"checkpointing": True})


@lru_cache(maxsize=64)
def _room(study: Study, *, checkpointing: bool) -> Room:
    items, blank = images_of(study), CHECKPOINTING if checkpointing else PLAIN
    return room_of(sketch(study), _shape(study), study.task, patients=1, items=items, blank=blank)


@lru_cache(maxsize=64)
def _fits(study: Study, memory: int, given: str) -> int:
    items, shape = images_of(study), _shape(study)
    blank = EngineChoice.model_validate_json(given)
    return fitting(sketch(study), shape, study.task, memory, items=items, blank=blank)


@lru_cache(maxsize=64)
def _settled(study: Study, given: str, _threads: int) -> str | None:
    """The choice under which a patient's bits are the same wherever in a tile, as a trial tells."""
    choice = EngineChoice.model_validate_json(given)
    if choice.tile == 1:
        return given  # nobody is beside
    model, loss = _probed(study), summed_loss(study.task, study.training.method)
    example = _example(study, model, min(choice.tile, PROBED_PATIENTS), choice)
    with _on_a_card_that_is_large_enough(choice):
        found = _passing(place(model, choice), example, loss, choice)
    return None if found is None else found.model_dump_json()


def _passing(
    model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice
) -> EngineChoice | None:
    """The choice where it computes a patient alone; on a card, perhaps with other kernels."""
    if DEVICES[choice.device].is_apart:
        return settled(model, example, loss, choice)
    # On the processor a smaller tile follows: what running studies agreed on names no kernels.
    return choice if is_alone(model, example, loss, choice) else None


def mib(size: int) -> int:
    """Bytes in MiB, rounded up."""
    return -(-size // 2**20)


def check(study: Study, choice: EngineChoice) -> None:
    """Hold the engine's sums for a study's model against autograd's, once for these threads.

    Raises:
        ModelError: names the module or parameter at fault.
    """
    _check(_computed(study), choice.model_dump_json(), torch.get_num_threads())


# By threads too: libraries split sums among them, and other splits round otherwise.
@lru_cache(maxsize=64)
def _check(study: Study, choice: str, _threads: int) -> None:
    model, loss = _probed(study), summed_loss(study.task, study.training.method)
    chosen = EngineChoice.model_validate_json(choice)
    example = _example(study, model, PROBED_PATIENTS, chosen)
    with _on_a_card_that_is_large_enough(chosen):
        require_sound(model, example, loss, chosen)
        # Allocates the memory of a step once before any patient is read: where there is too little,
        # the site fails for every sample alike, and its failure tells nothing of who was drawn.
        clipped_sum(place(model, chosen), example, loss, 1.0, chosen)
        DEVICES[chosen.device].finish()


def rehearsed(choice: EngineChoice, work: Callable[[], None]) -> None:
    """Do on made-up patients what a round does, and wait until it is done.

    Args:
        choice: how it is computed.
        work: reads no patient.

    Raises:
        ModelError: the card has too little memory for it.
    """
    with _on_a_card_that_is_large_enough(choice):
        work()
        DEVICES[choice.device].finish()


@contextmanager
def _on_a_card_that_is_large_enough(choice: EngineChoice) -> Iterator[None]:
    """Work on made-up patients; a card's lack of memory is said in words, and nothing tried again.

    Raises:
        ModelError: the card has too little memory for a tile.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        # Else its tensors stay on the card for as long as the error is known.
        DEVICES[choice.device].let_go(error)
        raise ModelError(
            "a step over one tile of patients does not fit into the memory of the graphics card",
            where="[device] memory_mib; [model], [data] image_size",
            found=f"{choice.tile} patients at once, on {DEVICES[choice.device].card()}",
            wanted="memory for as many patients as are worked on at once",
            remedy="lower memory_mib, so that fewer are, and ask the coordinator for a new offer; "
            "or end other programs that use the card",
        ) from error


def _probed(study: Study) -> nn.Module:
    """The study's model with weights that are random and always the same.

    So a coordinator cannot try its luck with the same study under many names.
    """
    return seeded_model(study, 0)


@lru_cache(maxsize=64)
def _of_any_batch(study: Study) -> Study:
    """The same of any expected number of patients: a coordinator may name a million."""
    alike = _computed(study)
    batch = alike.training.model_copy(update={"batch_size": 1})
    return alike.model_copy(update={"training": batch})


@lru_cache(maxsize=64)
def _computed(study: Study) -> Study:
    """The study, all else being as in any other: what decides how gradients are formed."""
    training = study.training
    alike = Training(
        method=training.method,
        batch_size=training.batch_size,
        images_per_patient=training.images_per_patient,
        augmentation=Augmentation(copies=training.augmentation.copies),
    )
    return study.model_copy(
        update={
            "study": StudyInfo(name="any", title="any"),
            "training": alike,
            "privacy": NoPrivacy(mode="none"),
            "evaluation": Evaluation(),
            "aggregation": AggregationSettings(),
            "fixed_point": FixedPoint(),
        }
    )


def tile_of(batch: int, fits: int) -> int:
    """Places of a tile: the largest power of two that an expected batch fills and memory holds.

    Threads and vectors divide a power of two evenly, so that no patient lies across a border.

    Args:
        batch: expected number of patients in a step.
        fits: patients of whom activations and gradients fit into memory, at least one.
    """
    return int(2 ** (min(LARGEST_TILE, batch, fits).bit_length() - 1))


def images_of(study: Study) -> int:
    """Images of a patient in a step: those that are drawn, each as often as it is augmented."""
    return study.training.images_per_patient * study.training.augmentation.copies


def _example(study: Study, model: nn.Module, patients: int, choice: EngineChoice) -> Patients:
    """Random input on the choice's device, with targets of all kinds in turn."""
    items, task, there = images_of(study), study.task, DEVICES[choice.device]
    found = example_of(_shape(study), patients, items, model)
    targets = TARGETS[task.target].made_up(task, patients, items, study.data.image_size)
    return Patients(there.move(found.inputs), there.move(targets))


def _shape(study: Study) -> tuple[int, int, int]:
    return study.data.channels, *study.data.image_size
