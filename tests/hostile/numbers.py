"""Hostile numbers: a program can read each of them, and no one could honestly want it.

Most were found by searching for what breaks arithmetic at the limits of float32.
"""

from __future__ import annotations

from typing import Any, Final

from tests.client.site_fixtures import Hospital
from tests.hostile.case import Case, planned
from tests.hostile.sound import sent

VANISHES: Final = "squares that are zero: a norm that is too small, and no clipping"
OVERFLOWS: Final = "a sum that overflows before its noise, or does not, by one patient"
ROUNDS: Final = "a factor that is rounded up, and a patient who counts twice"
DROWNS: Final = "replies that are noise alone, forever"


def _number(name: str, gain: str, *changes: tuple[str, Any]) -> Case:
    return planned(name, "malformed", gain, *changes)


def _clip_norm(value: float) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("study.privacy.clip_norm", value), ("mechanism.clip_norm", value)


def _ranges(**ranges: list[float]) -> Any:  # noqa: ANN401 - a change of a hospital
    def narrow(hospital: Hospital) -> None:
        hospital.policy = hospital.policy | {"ranges": ranges}

    return narrow


NUMBERS: Final = (
    _number("a clip norm whose square is zero", VANISHES, *_clip_norm(1e-30)),
    _number("a clip norm near the largest float", OVERFLOWS, *_clip_norm(1.6e36)),
    _number("a clip norm whose factors are subnormal", ROUNDS, *_clip_norm(7.4e-27)),
    _number("pixels blown up", OVERFLOWS, ("study.data.std", 5e-19)),
    _number("pixels moved by more than they hold", OVERFLOWS, ("study.data.mean", -1.0)),
    _number(
        "weights of classes whose square overflows",
        OVERFLOWS,
        ("study.task.class_weights", [2.4e19, 2.4e19]),
    ),
    _number("a subnormal learning rate", OVERFLOWS, ("study.training.learning_rate", 1e-38)),
    _number("a huge learning rate", VANISHES, ("study.training.learning_rate", 2e25)),
    _number(
        "a step that forgets more than all",
        "weights that grow with every step until they overflow",
        ("study.training.learning_rate", 3.0),
        ("study.training.weight_decay", 0.5),
    ),
    _number("noise that drowns everything", DROWNS, ("mechanism.step.noise_multiplier", 5000.0)),
    Case(
        "a round under a range that has become narrower",
        "an approval that outlives the policy under which it was given",
        lambda s: sent(s.train()),
        "policy",
        hospital=_ranges(clip_norm=[0.01, 0.5]),
    ),
)
