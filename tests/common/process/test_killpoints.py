"""A process dies where a test says, and nowhere else."""

from __future__ import annotations

import signal

import pytest

from common.process.killpoints import VARIABLE, reach
from tests.common.studies import exit_code


def test_the_named_point_kills_as_a_power_cut_would() -> None:
    assert (
        exit_code(lambda: reach("training.step", 3), kill_at="training.step:3") == -signal.SIGKILL
    )


@pytest.mark.parametrize("kill_at", [None, "training.step:2", "reply.stored:3", "training.step"])
def test_any_other_point_does_nothing(kill_at: str | None) -> None:
    assert exit_code(lambda: reach("training.step", 3), kill_at=kill_at) == 0


def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    reach("training.step", 3)
