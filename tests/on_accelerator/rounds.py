"""Rounds of a few patients that exist nowhere, for a device beside the processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from client.data.cohort import Patient
from client.training.sampling import RoundStreams
from common.numerics import EngineChoice
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.study.study_file import Study
from tests.common.studies import DENSE, small_study
from tests.common.studies import study_of as of_kind

MECHANISM = PatientMechanism(
    step=SampledGaussian(sampling_rate=0.75, noise_multiplier=0.5, count=1),
    evaluation=SampledGaussian(sampling_rate=1.0, noise_multiplier=2.0, count=1),
    most_sampled=10**6,
    clip_norm=1.0,
    divisor=9.0,
    cell_noise=2.0,
    epsilon_training=1.0,
    epsilon_evaluation=1.0,
    delta=1e-5,
)
NONE = NoMechanism(sampling_rate=0.75, divisor=9.0)
STREAMS = RoundStreams(bytes(range(32)))
MOVING = {"flip": True, "rotate": 10.0, "crop": 0.1, "zoom": 0.1, "intensity": 0.1, "copies": 2}
STUDIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "augmented": {
        "model": {"widths": [4, 8], "norm": "group", "pooling": "average", "hidden": 6},
        "training": {"images_per_patient": 2, "momentum": 0.5, "augmentation": MOVING},
    },
    "masks": {
        "task": {"kind": "segmentation", "classes": ["lesion"]},
        "model": DENSE,
        "training": {"augmentation": MOVING},
    },
}  # fmt: skip
HERE = EngineChoice(tile=4)
THERE = EngineChoice(tile=4, device="cuda")


def study_of(name: str) -> Study:
    return small_study(**STUDIES[name]) if name in STUDIES else of_kind(name)


def cohort(study: Study) -> tuple[tuple[Patient, ...], npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Nine patients of two images each, as a cache has them, and their masks."""
    draws = np.random.default_rng(3)
    images = draws.random((18, 1, *study.data.image_size)).astype(np.float16)
    masks = draws.integers(0, 2, (18, *study.data.image_size), dtype=np.uint8)
    patients = tuple(
        Patient(f"{place:064x}", place % 2, (2 * place, 2 * place + 1), "0" * 64)
        for place in range(9)
    )
    return patients, images, masks if study.task.target == "mask" else None
