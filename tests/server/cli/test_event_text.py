"""Every event of a study is a line that a person can read."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from common.control import coordinator_pb2 as pb
from common.figures.intervals import Estimate
from server.cli.event_text import (
    absences_in_words,
    as_document,
    day_line,
    failure,
    figure,
    is_repeated,
    line,
    remarks,
    sites_table,
    studies_table,
    twins_of,
)
from server.study.pooling import shown
from tests.common.studies import classification

AT = "2026-11-20T21:00:00+00:00"
HASH = "0123456789abcdef" * 4


def event(kind: str, *, round: int = 0, site: str = "", **fields: object) -> pb.Event:
    texts = {name: json.dumps(value) for name, value in fields.items()}
    return pb.Event(id=5, at=AT, kind=kind, round=round, site=site, fields=texts)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (event("study.offered", sites=["a", "b"], by="ada"), "offered to a, b by ada"),
        (
            event("approval.waiting", site="a", plan=HASH),
            "a: waiting for a person to approve or deny plan 0123456789ab",
        ),
        (event("approval.given", site="a", plan=HASH), "a: approved plan 0123456789ab"),
        (event("approval.refused", site="a", reason="refused: no"), "a: no"),
        (
            event("site.absent", round=2, site="a", purpose="train", reason="offline"),
            "a: missing from training: offline",
        ),
        (
            event("site.absent", site="a", purpose="offer", reason="refused: no (policy)"),
            "21:00:00  a: no (policy)",
        ),
        (
            event("site.absent", round=2, site="a", purpose="train", reason="offline", do="call"),
            "21:00:00  a: missing from training: offline\n          do: call",
        ),
        (event("approval.refused", site="a", reason="refused: no", do="call"), "do: call"),
        (
            event("weights.settled", shares={"a": {"patients": 30, "weight": 10, "share": 0.25}}),
            "a: 30 patients, weight 10, 25.0 % of the average",
        ),
        (
            event("study.started", sites=["a"], shares={}, left_out={"b": "declares more"}),
            "b is left out: declares more",
        ),
        (event("site.awaited", round=2, site="a", purpose="train"), "a: not connected"),
        (event("round.started", round=2, rounds=9, sites=1), "round 2 of 9: 1 site asked"),
        (event("reply.folded", round=2, site="a"), "round 2: a has answered"),
        (event("study.stopped", by="ada"), "stopped by ada"),
        (event("study.resumed", by="ada"), "resumed by ada"),
        (event("study.interrupted", code=-9), "restarted"),
        (event("study.completed", final_weights_sha256=HASH), HASH),
        (event("study.failed", what="too few", do="wait"), "failed: too few"),
        (event("something.new", site="a", n=1), "something.new a n=1"),
        (
            event("round.completed", round=2, sites=["a"], seconds=1.0, absences={"b": "offline"}),
            "round 2 completed in 1.0 s with 1 site; b is missing: offline",
        ),
    ],
)
def test_an_event_in_words(told: pb.Event, words: str) -> None:
    assert line(told).startswith("21:00:00  ")
    assert words in line(told)


@pytest.mark.parametrize(
    ("purpose", "reason", "repeated"),
    [
        ("propose", "refused: denied the plan (denied)", True),
        ("propose", "offline", False),
        ("amend", "offline", True),
        ("offer", "refused: its policy does not allow the plan (policy)", False),
    ],
)
def test_what_the_next_event_says_too_is_shown_once(
    purpose: str, reason: str, repeated: bool
) -> None:
    assert is_repeated(event("site.absent", site="a", purpose=purpose, reason=reason)) == repeated
    assert not is_repeated(event("approval.refused", site="a", reason=reason))


@pytest.mark.parametrize(
    ("auc", "chance"),
    [
        ({"value": 0.8, "low": 0.7, "high": 0.9}, False),
        ({"value": 0.55, "low": 0.45, "high": 0.65}, True),
        ({"value": 0.1, "low": 0.0, "high": 0.2}, True),
        ({"value": 0.5, "low": 0.0, "high": 1.0, "meaningful": False, "why": "noise"}, False),
        ({"value": None, "why": "noise"}, False),
    ],
)
def test_a_model_that_knows_nothing_is_named(auc: dict[str, Any], *, chance: bool) -> None:
    counts = np.zeros((2, 1, 4), dtype=np.int64)
    task = classification()
    empty = task.figures(counts, noise_variance=1.0)
    found = Estimate(**({"low": 0.0, "high": 1.0} | auc))
    figures = replace(empty, values={**empty.values, "auc": found})
    told = line(event("evaluation.completed", round=2, metrics=shown(figures, task)))
    assert ("NOT SHOWN TO BE BETTER THAN CHANCE" in told) == chance


def test_a_day_is_written_out() -> None:
    assert day_line("2026-11-06") == "-- 6 November 2026, UTC --"


def test_what_is_not_private_is_said_first() -> None:
    started = event("study.started", round=0, sites=["a"], warnings=["NOT PRIVATE: KNOWN KEY"])
    assert line(started).startswith("21:00:00  NOT PRIVATE: KNOWN KEY")


def test_an_event_for_a_script() -> None:
    told = as_document(event("round.started", round=2, rounds=9, sites=3))
    assert told == {
        "id": 5,
        "at": "2026-11-20T21:00:00+00:00",
        "kind": "round.started",
        "round": 2,
        "fields": {"rounds": 9, "sites": 3},
    }


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        ({"value": 0.9, "low": 0.85, "high": 0.95}, "0.900 (0.850 to 0.950)"),
        ({"value": 0.9, "low": None, "high": None}, "0.900"),
        ({"value": None, "why": "no patient"}, "unknown (no patient)"),
        (
            {"value": 0.9, "low": 0.0, "high": 1.0, "meaningful": False, "why": "too noisy"},
            "0.900 (0.000 to 1.000), not usable: too noisy",
        ),
    ],
)
def test_a_figure_has_its_interval(estimate: dict[str, object], text: str) -> None:
    assert figure(estimate) == text


def test_who_was_left_out_of_what_is_a_line_for_each_reason() -> None:
    def absence(number: int, purpose: str, site: str, reason: str) -> dict[str, object]:
        return {"round": number, "purpose": purpose, "site": site, "reason": reason}

    outcome = {
        "left_out": {"d": "declares more"},
        "absences": [
            *(absence(number, "train", "d", "declares more") for number in (1, 2, 3)),
            *(absence(number, "train", "b", "offline") for number in (1, 3)),
            absence(3, "evaluate", "c", "a histogram that cannot be"),
        ],
    }
    assert absences_in_words(outcome) == [
        "d is missing from the study: declares more",
        "b is missing from training 2 times in rounds 1 to 3: offline",
        "c is missing from the evaluation in round 3: a histogram that cannot be",
    ]


def test_how_a_study_stands_says_who_counts_by_how_much_and_who_was_left_out() -> None:
    row = pb.StudyRow(
        name="small",
        state="running",
        shares=[pb.Share(site="a", patients=30, weight=10, share=0.25)],
        left_out=[
            pb.LeftOut(site="b", of="the evaluation after round 2", reason="it cannot be"),
            pb.LeftOut(site="c", of="round 2", reason="offline", remedy="call"),
        ],
    )
    assert [str(note) for note in remarks(row)] == [
        "small: a: 30 patients, weight 10, 25.0 % of the average",
        "small: b is missing from the evaluation after round 2: it cannot be",
        "small: c is missing from round 2: offline\n  do: call",
    ]


def test_two_machines_under_one_name_are_told_with_what_to_do() -> None:
    rows = [pb.SiteRow(name="a"), pb.SiteRow(name="b", twins=AT)]
    (told,) = map(str, twins_of(rows))
    assert told.startswith(f"b: two machines are connected as this site since {AT}\n  do: ")


def test_a_row_is_one_line_however_long_its_names() -> None:
    sites = [f"hospital-number-{number}" for number in range(20)]
    row = pb.StudyRow(name="study-" * 12, state="completed", rounds=9, sites=sites, started=AT)
    console = Console(width=100, file=io.StringIO())
    console.print(studies_table([row]))
    console.print(
        sites_table([pb.SiteRow(name="s" * 99, state="admitted", fingerprint="K7QM" * 5)])
    )
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 4
    assert AT in lines[1]
    assert "…" in lines[1]
    assert "K7QM" * 5 in lines[3]


def test_why_a_study_failed_is_an_error_again() -> None:
    why = json.dumps({"what": "too few", "where": "round 1", "do": "wait"})
    assert failure(why).render() == "too few\n  where:  round 1\n  do:     wait"
    row = pb.StudyRow(name="small", state="failed", why=why, warnings=["NOT PRIVATE"])
    notes = [str(note) for note in remarks(row)]
    assert notes[0] == "small: NOT PRIVATE"
    first = "small: too few; details: consilium-coordinator watch small"
    assert notes[1:] == [first, "  do: wait"]


def test_of_a_failure_an_event_names_no_more_than_what_it_is() -> None:
    told = event("study.failed", what="too few", where="round 1", found="a: away", do="wait")
    assert line(told) == "21:00:00  failed: too few"
