"""Who takes part in a round follows from the seed; who does not looks offline."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import StudyError
from common.study.study_file import load_study
from common.wire.flower import ConfigRecord, Context, ErrorCode, Message, RecordDict, context
from simulations.grids.in_process import LocalGrid
from simulations.grids.participation import PartialGrid, Participation, load_participation
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings
from tests.simulations.squares import square_hospitals, square_study

NAMES = [f"site-{number}" for number in range(20)]


def test_a_share_is_drawn_anew_in_each_round_and_the_same_from_the_same_seed() -> None:
    half = Participation(share=0.5)
    rounds = [half.present(NAMES, 3, number) for number in range(1, 30)]
    assert {len(each) for each in rounds} == {10}
    assert len(set(rounds)) > 20
    assert frozenset().union(*rounds) == frozenset(NAMES)
    assert rounds == [half.present(list(reversed(NAMES)), 3, number) for number in range(1, 30)]
    assert rounds != [half.present(NAMES, 4, number) for number in range(1, 30)]


def test_dropouts_are_as_frequent_as_said() -> None:
    rare = Participation(dropout=0.1)
    found = [len(rare.present(NAMES, 0, number)) for number in range(500)]
    assert 0.08 < 1 - sum(found) / (500 * len(NAMES)) < 0.12


def test_a_schedule_says_who_is_there() -> None:
    some = Participation(schedule={"site-0": ("1-3", "7"), "site-1": ()})
    there = [number for number in range(1, 10) if "site-0" in some.present(NAMES, 0, number)]
    assert there == [1, 2, 3, 7]
    assert not any("site-1" in some.present(NAMES, 0, number) for number in range(1, 10))
    assert all("site-2" in some.present(NAMES, 0, number) for number in range(1, 10))


def test_a_file_and_a_trace_are_read_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('share = 0.25\n[schedule]\nnorth = ["2-4"]\n')
    (tmp_path / "a.csv").write_text("site,round\nnorth,2\nnorth,4\n")
    assert load_participation(tmp_path / "a.toml").schedule == {"north": ("2-4",)}
    assert load_participation(tmp_path / "a.csv") == Participation(schedule={"north": ("2", "4")})
    (tmp_path / "b.toml").write_text('[schedule]\nnorth = ["4-2"]\n')
    (tmp_path / "b.csv").write_text("hospital,round\nnorth,2\n")
    for name in ("b.toml", "b.csv", "none.csv"):
        with pytest.raises(StudyError):
            load_participation(tmp_path / name)


def test_who_is_away_is_not_asked_and_looks_offline() -> None:
    ran: list[str] = []

    def client(message: Message, site: Context) -> Message:
        ran.append(str(site.node_config["site"]))
        return Message(RecordDict(), reply_to=message)

    sites = {
        number: (name, context(1, number, node={"site": name}, run={}))
        for number, name in enumerate(NAMES, start=1)
    }
    some = Participation(share=0.5)
    grid = PartialGrid(LocalGrid(client, sites), some, 0)

    def asked(kind: str, number: int) -> list[Message]:
        body = RecordDict({"body": ConfigRecord({"n": 1})})
        return [Message(body, node, kind, group_id=str(number)) for node in sites]

    list(grid.send_and_receive(asked("query.propose", 0)))
    assert ran == NAMES  # a plan is for everybody
    ran.clear()
    replies = list(grid.send_and_receive(asked("train", 2)))
    here = some.present(NAMES, 0, 2)
    assert set(ran) == here
    offline = [each for each in replies if each.has_error()]
    assert len(offline) == 10
    assert {each.error.code for each in offline} == {ErrorCode.NODE_UNAVAILABLE}


def test_a_run_with_a_share_says_so_and_can_be_repeated(tmp_path: Path) -> None:
    square_hospitals(tmp_path / "hospitals", sites=5)
    study = square_study(tmp_path / "study.toml", evaluation={"rounds": "none"})
    some = Participation(share=0.6)

    def run(name: str, part: Participation | None) -> str:
        result = run_study(
            RunSettings(
                study, tmp_path / "hospitals", tmp_path / name, baselines=False, participation=part
            )
        )
        said = [
            each
            for each in result.warnings
            if each.startswith("PARTICIPATION: 60 %".replace(" %", "%"))
        ]
        assert bool(said) == (part is not None)
        assert not any("was missing" in each for each in result.warnings)
        return result.final_weights_sha256

    assert run("one", some) == run("again", some) != run("all", None)


def test_what_no_run_could_finish_is_refused_before_it_begins(tmp_path: Path) -> None:
    square_hospitals(tmp_path / "hospitals", sites=3)
    study = square_study(tmp_path / "study.toml", aggregation={"min_sites": 2})
    rounds = load_study(study).training.rounds
    away = Participation(schedule={"site-000": ("1",), "site-001": (f"1-{rounds - 1}",)})
    unknown = Participation(schedule={"nowhere": ("1",)})
    found = {}
    for name, part in (("away", away), ("unknown", unknown)):
        settings = RunSettings(
            study, tmp_path / "hospitals", tmp_path / name, baselines=False, participation=part
        )
        with pytest.raises(StudyError) as caught:
            run_study(settings)
        found[name] = caught.value
        assert not (tmp_path / name).exists()
    assert found["away"].details["where"] == f"--participation, round {rounds}"
    assert str(found["away"].details["found"]).startswith("1 of 3 hospitals")
    assert found["unknown"].details["found"] == "nowhere"
    away.require_enough({"site-000", "site-001", "site-002"}, 0, rounds, 1)
