"""The numerics record: everything besides plan, data and keys that decides the last bit.

It is fixed before round one, stands in the plan, and is applied before any gradient, so
that a restart, a replay and a simulation compute the same bits as the first run did.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Final, Literal

import torch
from numpy.lib.introspect import opt_func_info
from pydantic import Field

from common.settings import Section

COUNTED: Final = (
    "consilium",
    "torch",
    "numpy",
    "opacus",
    "monai",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "pyjpegls",
    "pillow",
)
"""Distributions whose version can change a bit of the result."""

MOST_IMAGES: Final = 256
GRADIENTS_HELD: Final = 2**26
"""Float32 numbers in the per-sample gradients of one micro-batch."""


class NumericsRecord(Section):
    """What a site's arithmetic depends on.

    Attributes:
        threads: intra-operation threads of torch.
        dtype: of weights and activations.
        engine: what forms clipped gradients.
        micro_batch: images whose gradients are held at once.
        device: where it runs.
        cpu_capability: the vector instructions that torch chose, and NumPy for the noise.
        python: interpreter version.
        versions: of the distributions that matter.
    """

    threads: int = Field(ge=1)
    dtype: Literal["float32"] = "float32"
    engine: Literal["opacus-hooks"] = "opacus-hooks"
    micro_batch: int = Field(ge=1)
    device: Literal["cpu"] = "cpu"
    cpu_capability: str
    python: str
    versions: dict[str, str]


def record(threads: int, weights: int) -> NumericsRecord:
    """The record of this process, for a number of threads and of weights in the model.

    The micro-batch keeps the gradients held at once below 256 MiB.
    """
    return NumericsRecord(
        threads=threads,
        micro_batch=max(1, min(MOST_IMAGES, GRADIENTS_HELD // weights)),
        cpu_capability=_vector_instructions(),
        python=platform.python_version(),
        versions={name: version(name) for name in COUNTED},
    )


def _vector_instructions() -> str:
    """What torch chose, and NumPy for each function that deviates and windows are made with."""
    chosen = opt_func_info(func_name="^(cos|exp|log1p|sin)$", signature="float64")
    kernels = [
        f"{name} {kernel['current']}"
        for name, by_type in sorted(chosen.items())
        for kernel in by_type.values()
    ]
    return f"torch {torch.backends.cpu.get_cpu_capability()}, numpy {', '.join(kernels)}"


def differences(ours: NumericsRecord, theirs: NumericsRecord) -> dict[str, tuple[str, str]]:
    """The fields in which two records differ, each with both values."""
    mine, other = ours.model_dump(), theirs.model_dump()
    return {key: (str(mine[key]), str(other[key])) for key in mine if mine[key] != other[key]}


def apply(numerics: NumericsRecord) -> None:
    """Make this process compute as the record says."""
    torch.set_num_threads(numerics.threads)
    torch.use_deterministic_algorithms(mode=True)
