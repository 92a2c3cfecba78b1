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

from common.memory import keep_freed
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


class EngineChoice(Section):
    """How clipped gradients are formed: every choice gives the same sum but for rounding.

    Attributes:
        kernels: by layer, the kernel that forms its patients' norms; the engine's model of
            the cost chooses for a layer that is not named.
        micro_batch: images whose gradients are worked on at once.
        memory_format: how images lie in memory.
    """

    kernels: dict[str, str] = Field(default_factory=dict)
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    micro_batch: int = Field(default=MOST_IMAGES, ge=1)


class NumericsRecord(Section):
    """What a site's arithmetic depends on.

    Attributes:
        threads: intra-operation threads of torch.
        dtype: of weights and activations.
        engine: what forms clipped gradients.
        choice: how the engine forms them.
        device: where it runs.
        cpu_capability: the vector instructions that torch chose, and NumPy for the noise.
        python: interpreter version.
        versions: of the distributions that matter.
    """

    threads: int = Field(ge=1)
    dtype: Literal["float32"] = "float32"
    engine: Literal["book-keeping"] = "book-keeping"
    choice: EngineChoice
    device: Literal["cpu"] = "cpu"
    cpu_capability: str
    python: str
    versions: dict[str, str]


def record(threads: int, choice: EngineChoice) -> NumericsRecord:
    """The record of this process, for a number of threads and a way to form gradients."""
    return NumericsRecord(
        threads=threads,
        choice=choice,
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
    keep_freed()
    torch.set_num_threads(numerics.threads)
    torch.use_deterministic_algorithms(mode=True)
