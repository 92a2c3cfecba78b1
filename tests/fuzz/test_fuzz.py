"""Whatever is read ends in a verdict or in one of our errors; no reader hangs, dies or grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import running
from tests.fuzz.running import SEEDS, Turn, fuzz, replay
from tests.fuzz.targets import TARGETS

SEED = "kept"
SECONDS = 4.0
"""Of the processor, for each target."""
PLANTED = {
    "Escape": "Panic",
    "Silent": "nothing to do about",
    "Crash": "died of SIGSEGV",
    "Hang": "takes for ever",
    "Wait": "waits for ever",
    "Growth": "growth of memory",
    "Files": "growth of files",
    "Descriptors": "growth of open files",
}
TIMES = {"Hang": 60.0, **dict.fromkeys(("Growth", "Files", "Descriptors"), 3.0)}
"""Seconds, where one is too few: a second process must hang too, and growth takes its time."""


def found(turn: Turn) -> list[str]:
    """Every fault, with where it is."""
    return [f"{fault}\n{each.report}" for fault, each in turn.findings.items()]


@pytest.mark.matrix(fault=lambda fault: PLANTED[fault].split()[0])
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_seen(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is seen with the input that it comes of, if there is one."""
    monkeypatch.setattr(running, "STUCK", 3.0)
    monkeypatch.setattr(running, "LOOK", 0.2)
    monkeypatch.setattr(running, "MOST", 2)
    name = f"tests.fuzz.planted:{fault}"
    turn = fuzz(name, tmp_path, seed=SEED, seconds=TIMES.get(fault, 1.0), deadline=1)
    (finding,) = turn.findings.values()
    assert PLANTED[fault] in finding.fault
    if "growth" not in finding.fault:
        kept = finding.keep(tmp_path)
        if fault not in ("Hang", "Wait"):
            assert list(replay(tmp_path / "again", [kept]).findings) == [finding.fault]


def test_what_has_no_fault_is_told_no_fault(tmp_path: Path) -> None:
    turn = fuzz("json", tmp_path, seed=SEED, seconds=1)
    assert not found(turn)
    assert turn.verdicts["read"] > 1
    assert turn.verdicts["unreadable"] > 1


def test_an_input_follows_from_its_seed_and_its_number(tmp_path: Path) -> None:
    """So what was found can be found again, and a process goes on where another one died."""
    one = fuzz("tests.fuzz.planted:Crash", tmp_path, seed=SEED, seconds=1)
    two = fuzz("tests.fuzz.planted:Crash", tmp_path, seed=SEED, seconds=1)
    assert [each.data for each in one.findings.values()] == [
        each.data for each in two.findings.values()
    ]


def test_what_was_found_once_ends_in_a_verdict(tmp_path: Path) -> None:
    seeds = sorted(path for path in SEEDS.rglob("*") if path.is_file())
    turn = replay(tmp_path, seeds)
    assert not found(turn)
    assert turn.inputs == len(seeds)


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_ends_in_anything_but_a_verdict(target: str, tmp_path: Path) -> None:
    turn = fuzz(target, tmp_path, seed=SEED, seconds=SECONDS)
    assert not found(turn)
    assert turn.inputs > 0
    assert turn.verdicts
