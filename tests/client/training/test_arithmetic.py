"""What leaves a site for known input: where it changes, ``common.numerics.ARITHMETIC`` is raised.

A study that runs is gone on with by whatever version of Consilium is installed, as long as
``ARITHMETIC`` is the same: so a change of the code that moves a single bit must raise it. On
the machines that are named here, bits are compared; on every other one, numbers, to what
rounding may do. Expected values are what the code gave when the version was raised: they tell
that something changed, not that it was right.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from client.data.cohort import Patient
from client.training.evaluation import counted, release
from client.training.local import local_change, require_probed
from client.training.sampling import RoundStreams
from common.files import sha256
from common.models.networks import initial_weights
from common.numerics import ARITHMETIC, COUNTED, EngineChoice, record
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import PatientMechanism
from common.privacy.randomness import Stream
from common.study.study_file import Study
from tests.common.studies import small_study

IMAGES, PATIENTS = 24, 12
STUDIES = {
    "plain": small_study(),
    "all at once": small_study(
        task={"class_weights": [1.0, 2.0]},
        model={"widths": [4, 8], "norm": "group", "pooling": "average", "hidden": 6},
        training={
            "momentum": 0.5,
            "weight_decay": 0.01,
            "schedule": "cosine",
            "images_per_patient": 2,
            "augmentation": {
                "flip": True,
                "rotate": 10.0,
                "crop": 0.1,
                "zoom": 0.1,
                "intensity": 0.1,
                "copies": 2,
            },
        },
        aggregation={"strategy": "fedprox", "options": {"proximal_mu": 0.1}},
    ),
    "scattering": small_study(
        model={"name": "scattering"},
        data={"image_size": [16, 16]},
    ),
    "three classes": small_study(
        task={"classes": ["normal", "bacterial", "viral"]},
        model={"name": "resnet18"},
        data={"image_size": [16, 16]},
        fixed_point={"dtype": "int64", "fraction_bits": 30},
    ),
}
STREAMS = RoundStreams(bytes(range(32)))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def released(study: Study) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The update of a round and the histogram of an evaluation, as they would leave."""
    event = SampledGaussian(sampling_rate=0.75, noise_multiplier=0.5, count=1)
    mechanism = PatientMechanism(
        step=event,
        evaluation=event,
        most_sampled=10**6,
        clip_norm=1.0,
        divisor=9.0,
        cell_noise=2.0,
        epsilon_training=1.0,
        epsilon_evaluation=1.0,
        delta=1e-5,
    )
    shape = (IMAGES, 1, *study.data.image_size)
    pixels = Stream(bytes(32)).uniform(int(np.prod(shape))).reshape(shape).astype(np.float16)
    classes = len(study.task.classes)
    patients = tuple(
        Patient(sha256(bytes([place])), place % classes, (2 * place, 2 * place + 1), "0" * 64)
        for place in range(PATIENTS)
    )
    weights, choice = initial_weights(study, 1), EngineChoice(tile=4)
    probed = require_probed(study, mechanism, choice)
    change = local_change(probed, weights, pixels, patients, round_number=2, streams=STREAMS)
    counts = counted(study, weights, pixels, patients, choice=choice)
    noisy = release(counts, mechanism, STREAMS.stream("evaluation"))
    return study.fixed_point.encode(change).astype(np.int64), noisy.reshape(-1)


def machine() -> str:
    """What else decides the bits: another one has others."""
    versions = ", ".join(f"{name} {version(name)}" for name in COUNTED)
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    model = next((line for line in lines if line.startswith("model name")), "").partition(": ")[2]
    return f"{model}, {record(1, EngineChoice()).cpu_capability}, {versions}"


def told(update: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Some numbers of an update, and what all come to."""
    return (*map(int, update[:: max(1, update.size // 5)][:5]), int(np.abs(update).sum()))


KNOWN: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "plain": (
        (251411, 1390867, 333389, 152167, -1273651, 101046569),
        (-3, 5, 4, 0, -1, 1, 6, 1),
    ),
    "all at once": (
        (-24251, 81062, -504920, 1064480, -156817, 203230010),
        (-3, 7, 2, 0, -1, 2, 5, 1),
    ),
    "scattering": (
        (242522, -232254, 233477, 1422462, 261975, 285592426),
        (-3, 4, 5, 0, -1, 0, 7, 1),
    ),
    "three classes": (
        (-12120008, -41764696, 26347450, 64391144, 28287372, 376293203892224),
        (
            *(-3, -3, 3, -1, 0, 8, 2, 1, 0, 6, 1, 2, -3, -2, 3, 0, 0, 2),
            *(-1, 0, 1, 4, 1, 3, 1, 2, 3, 0, 1, 6, 0, -2, -1, 3, 2, -2),
        ),
    ),
}
BITS: dict[str, dict[str, str]] = {
    "AMD EPYC, torch AVX512, normals 35bec7feff671a7e, "
    "torch 2.13.0+cpu, numpy 2.4.6, monai 1.6.1": {
        "plain": "6f4b55d76e1e7bb1935ac70d82dec2f3c05fc9ed2743a3786a3edf6d5e36d5a9",
        "all at once": "183ddbf333d56751fec29f17ec08c67de3aede3cd2b28bf24a2cd61769418fa2",
        "scattering": "21c07baca1566ffeadf02f71e1c0b1b1018ce98756ad03c3e1ef4b5b69a9b64e",
        "three classes": "ec7badfabddf6f6c8ddce2150bb376b9a8c2bfc0b973656a12281416d3f2a137",
    },
}


@pytest.mark.parametrize("name", STUDIES)
def test_what_leaves_is_what_left_before_or_arithmetic_is_raised(name: str) -> None:
    assert ARITHMETIC == 1, "write down anew what KNOWN and BITS hold"
    update, counts = released(STUDIES[name])
    numbers, cells = KNOWN[name]
    assert np.allclose(told(update), numbers, rtol=1e-5, atol=2**24 * 1e-5)
    assert tuple(counts) == cells
    bits = sha256(update.astype("<i8").tobytes())
    assert bits == BITS.get(machine(), {}).get(name, bits), "raise common.numerics.ARITHMETIC"
