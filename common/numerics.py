"""The numerics record: everything besides plan, data and keys that decides the last bit.

It is fixed before round one, is part of the plan, and is applied before any gradient, so
that a restart, a replay and a simulation compute the same bits as the first run.

What decides no bit is left out, so that an update of it ends no study: Consilium's own
version, since :data:`ARITHMETIC` counts the versions of what it computes; the accountant's,
since a plan holds the noise itself; the image decoders', since a study keeps what was decoded
for it (:mod:`client.data.cache`). A site writes these versions in its audit log
(:func:`installed`). Numerics that did change are amended by consent of both sides
(:mod:`common.amendment`).

Reading a plan includes reading a record and must not need torch, so torch is imported inside
the functions that use it.
"""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

from pydantic import Field

from common.devices.cpu import CPU
from common.devices.device import Card, DeviceName, Layout, Precision
from common.devices.devices import DEVICES
from common.files import sha256
from common.privacy.randomness import KEY_BYTES, Stream
from common.settings import Section
from common.text import Slug, Words

ARITHMETIC: Final = 1
"""Version of this project's own arithmetic: raised whenever a change of the code changes a bit
of an update or of a histogram, as ``tests/client/training/test_arithmetic.py`` finds out."""

COUNTED: Final = ("torch", "numpy", "monai")
"""Distributions whose version can change a bit of the result."""

LOGGED_VERSIONS: Final = (
    "consilium",
    "opacus",
    "dp-accounting",
    "cryptography",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "pyjpegls",
    "pillow",
    "flwr",
)
"""Distributions whose version decides no bit, and which a reader of a log may ask for."""

DECIDES_NO_BIT: Final = frozenset({"ticks"})
"""Fields that are agreed on and decide no bit: a difference in them is no error."""

LARGEST_TILE: Final = 64
"""Places of the largest tile."""
LONGEST_TICK: Final = 86_400_000
"""A day, in milliseconds."""


class EngineChoice(Section):
    """How clipped gradients are formed: every choice gives the same sum but for rounding.

    Attributes:
        device: where the model is computed; noise and weights are the processor's in any case.
        kernels: by layer, the kernel that forms its patients' norms; the engine's model of
            the cost chooses for a layer that is not named.
        tile: patients whose gradients are worked on at once: always as many places, so that
            what is computed of one does not depend on how many there are.
        memory_format: how images lie in memory.
        precision: of activations and of their gradients, rounded before the norm is taken.
        checkpointing: whether blocks of layers are computed again on the way back instead of kept:
            less memory, more time (Chen et al. 2016, arXiv:1604.06174).
    """

    device: DeviceName = "cpu"
    kernels: dict[str, str] = Field(default_factory=dict)
    memory_format: Layout = "contiguous"
    tile: int = Field(default=16, ge=1, le=LARGEST_TILE)
    # Not written where it is float32: a plan's hash keys its noise, and older ones lack the key.
    precision: Precision = Field(default="float32", exclude_if=lambda given: given == "float32")
    checkpointing: bool = Field(default=False, exclude_if=lambda given: not given)


class Ticks(Section):
    """Time slots (ticks): when the result of work on patients may be seen outside.

    A reply leaves, or the site is silent, one tick after the work on patients began, or after two,
    four, eight ... if it was not done by then. Ticks decide no bit.

    Attributes:
        train: of a round of training, milliseconds; 0 for no waiting.
        evaluate: of an evaluation.
    """

    train: int = Field(default=0, ge=0, le=LONGEST_TICK)
    evaluate: int = Field(default=0, ge=0, le=LONGEST_TICK)

    def of(self, part: Literal["train", "validation"]) -> int:
        """The tick of what is done with a part of the patients."""
        return self.train if part == "train" else self.evaluate


class NumericsRecord(Section):
    """What a site's arithmetic depends on, and how long it is given.

    Attributes:
        arithmetic: :data:`ARITHMETIC` of what is installed.
        threads: intra-operation threads of torch.
        dtype: of weights, and of activations unless the choice says otherwise.
        engine: what forms clipped gradients.
        choice: how the engine forms them.
        cpu_capability: the vector instructions that torch chose, and a hash of known deviates.
        card: that computes, where it is not the processor.
        versions: of the distributions that matter.
        ticks: measured by a site whose key nobody knows; no part of the arithmetic.
    """

    arithmetic: int = Field(default=ARITHMETIC, ge=1)
    threads: int = Field(ge=1)
    dtype: Literal["float32"] = "float32"
    engine: Literal["book-keeping"] = "book-keeping"
    choice: EngineChoice
    cpu_capability: Words
    versions: dict[Slug, Words] = Field(max_length=16)
    ticks: Ticks = Ticks()
    card: Card | None = Field(default=None, exclude_if=lambda given: given is None)


def record(threads: int, choice: EngineChoice, ticks: Ticks = Ticks()) -> NumericsRecord:  # noqa: B008 - it is frozen
    """The record of this process, for a number of threads and a way to form gradients.

    Raises:
        SiteError: the choice names a graphics card, and there is none.
    """
    if DEVICES[choice.device].is_apart:
        return _record(threads, choice, ticks)
    # Nothing that can change: every gate of every round asks for it.
    return _kept_record(threads, choice.model_dump_json(), ticks)


@lru_cache(maxsize=64)
def _kept_record(threads: int, choice: str, ticks: Ticks) -> NumericsRecord:
    return _record(threads, EngineChoice.model_validate_json(choice), ticks)


def _record(threads: int, choice: EngineChoice, ticks: Ticks) -> NumericsRecord:
    return NumericsRecord(
        threads=threads,
        choice=choice,
        cpu_capability=_capability(),
        versions=dict(_versions()),
        ticks=ticks,
        card=DEVICES[choice.device].card(),
    )


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    """What is installed; each look reads a file, and every round looks."""
    return tuple((name, version(name)) for name in COUNTED)


def installed() -> dict[str, str]:
    """Versions of what decides no bit here, for a site's own log: they do not leave it."""
    return {"python": platform.python_version()} | {name: _known(name) for name in LOGGED_VERSIONS}


def _known(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


@lru_cache(maxsize=1)
def _capability() -> str:
    """What the processor says, and what libraries make of known deviates.

    Which instructions a library takes for a logarithm or a cosine, which decide the last bit, it
    does not say. With a graphics card too: noise is the processor's.
    """
    normals = Stream(bytes(KEY_BYTES)).normal(_DEVIATES).tobytes()
    return f"{CPU.capability()}, normals {sha256(normals)[:16]}"


_DEVIATES: Final = 2**14


def differences(ours: NumericsRecord, theirs: NumericsRecord) -> dict[str, tuple[str, str]]:
    """The fields that decide bits and in which two records differ, each with both values."""
    if ours == theirs:
        return {}
    mine, other = decisive(ours), decisive(theirs)
    found = {
        key: (str(mine.get(key)), str(other.get(key)))
        for key in mine | other
        if mine.get(key) != other.get(key)
    }
    if ours.card != theirs.card:
        found["card"] = _computes(ours), _computes(theirs)
    return found


def _computes(numerics: NumericsRecord) -> str:
    """What computes, in words."""
    return "none: the processor computes" if numerics.card is None else str(numerics.card)


def decisive(numerics: NumericsRecord) -> dict[str, Any]:
    """What of a record decides bits."""
    return numerics.model_dump(mode="json", exclude=set(DECIDES_NO_BIT))


def apply(numerics: NumericsRecord) -> None:
    """Make this process compute as the record says.

    Raises:
        SiteError: numbers near zero cannot be made to count as zero here.
    """
    DEVICES[numerics.choice.device].repeat(numerics.threads)
