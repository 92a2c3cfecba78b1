"""What a site computes in a round: where a study trains the head alone, a linear probe on features.

The features of an image are a function of the frozen weights and of that image, to the last bit:
images go through the network one by one, so nothing of another is beside. Then a study of the head
is a study like any other, whose images are features of one pixel: sampling, clipping, noise, ticks
and evaluation are the same code. Where images are augmented, each step sees others, and the whole
network is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from client.data.cache_index import FEATURES
from client.engine.clipped import outputs, place
from client.training import tuning
from client.training.footprint import COPIES, looked_at
from client.training.linear_probe import LinearProbeSpec, features_count, without_head
from client.training.local import Probed, require_probed
from client.training.rehearsal import require_rehearsed
from client.training.sampling import pixels_of
from client.training.ticks import rounded, took
from common.devices.devices import DEVICES
from common.models.networks import (
    build_model,
    initial_weights,
    load_flat,
    sketch,
    split,
    weights_count,
)
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.process.denormals import flushed
from common.study.study_file import Study

Features = npt.NDArray[np.float32]
IMAGES_EACH: Final = 2
"""Images of a patient that are allowed for while features are computed."""


def in_rounds(study: Study) -> Study:
    """The study that a site computes in rounds: of the head on features, or the study itself.

    It follows from the study alone, so every site and every simulation computes the same.

    Raises:
        ModelError: the model cannot be built.
    """
    count = 0 if study.training.augmentation.active else features_count(study)
    if not count:
        return study
    alike = {"channels": count, "image_size": (1, 1), "spacing": None, "mean": 0.0, "std": 1.0}
    data = study.data.model_copy(update=alike)
    return study.model_copy(update={"data": data, "model": LinearProbeSpec()})


def least_needed(study: Study, memory: int) -> int:
    """As :func:`client.training.tuning.least_needed`, with what one image's features take.

    Raises:
        ModelError: as there.
    """
    probe = in_rounds(study)
    needed = tuning.least_needed(probe, memory)
    if probe is study:
        return needed
    # Beside the one that computes: as they came, as numbers, and of a made-up network.
    copies = (COPIES - 1) * FEATURES.itemsize * weights_count(study)
    return max(needed, copies + looked_at(without_head(sketch(study)), study.shape, 1))


def bytes_beside(study: Study) -> int:
    """Of the features of one image, on disk; 0 where the study trains on images.

    Raises:
        ModelError: the model cannot be built.
    """
    probe = in_rounds(study)
    return 0 if probe is study else probe.data.channels * FEATURES.itemsize


def require_ready(
    study: Study, mechanism: PatientMechanism | NoMechanism, choice: EngineChoice
) -> Probed:
    """What a site computes of a study, found sound and to fit, before a patient is read or charged.

    Raises:
        ModelError: the model cannot be trained privately, or the card has too little memory.
    """
    probed = require_probed(in_rounds(study), mechanism, choice)
    require_rehearsed(probed)
    if probed.study is not study and DEVICES[choice.device].is_apart:
        _rehearse(study, choice.model_dump_json())
    return probed


@lru_cache(maxsize=64)
def _rehearse(study: Study, choice: str) -> None:
    chosen = EngineChoice.model_validate_json(choice)
    tuning.rehearsed(chosen, _made_up(study, chosen))


def _made_up(study: Study, choice: EngineChoice) -> Callable[[], None]:
    """What computes the features of a patient who does not exist, of one image."""
    whole = initial_weights(study, 0)
    stem = Stem(study, split(study, whole)[1], choice)
    image = np.random.default_rng(0).random((1, *study.shape), dtype=np.float32)

    def work() -> None:
        stem.of(image.astype(np.float16), (0,))

    return work


def time_of(study: Study, choice: EngineChoice, patients: int) -> int:
    """Milliseconds that the features of so many patients are given, measured on a made-up one.

    Args:
        study: of a linear probe.
        choice: how it is computed.
        patients: whom there may be, of :data:`IMAGES_EACH` images.
    """
    each = max(took(_made_up(study, choice)))
    return rounded(each * IMAGES_EACH * patients)


class Stem:
    """The frozen half of a study's network, on the device that computes.

    Args:
        study: as it was approved.
        frozen: its flat frozen weights.
        choice: device, precision and layout.
    """

    def __init__(self, study: Study, frozen: npt.NDArray[np.float32], choice: EngineChoice) -> None:
        self._data, self._choice = study.data, choice
        self._device = DEVICES[choice.device]
        model = without_head(build_model(study))
        load_flat(model, frozen)
        self._model = place(model, choice)

    @flushed()
    def of(self, images: npt.NDArray[np.float16], rows: tuple[int, ...]) -> Features:
        """The features of some images of one patient, one by one. Sensitive.

        Args:
            images: (images, channels, height, width) in [0, 1].
            rows: which.

        Returns:
            (rows, features, 1, 1), in their order: images of one pixel.
        """
        found = []
        for row in rows:
            pixels = (pixels_of(images, [row], self._device) - self._data.mean) / self._data.std
            given = outputs(self._model, pixels, self._choice.precision)
            found.append(given.detach().cpu())
        return torch.cat(found)[:, :, None, None].numpy()
