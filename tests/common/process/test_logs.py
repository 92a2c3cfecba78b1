"""Logs are events on standard error, and a place stands for an error's text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import unicodedata

import pytest

from common.process.logs import form_for, place
from common.visible import UNSEEN

TALK = """
import structlog
from common.process.logs import configure
configure({arguments})
log = structlog.get_logger("test")
log.info("round.started", round=3)
with structlog.contextvars.bound_contextvars(study="small"):
    log.warning("site.absent", site="north")
"""


def talk(arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TALK.format(arguments=arguments)],
        capture_output=True,
        text=True,
        check=True,
    )


def test_json_is_one_event_a_line_with_bound_context() -> None:
    done = talk("'json', 'info'")
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert done.stdout == ""
    assert (first["event"], first["round"], first["level"]) == ("round.started", 3, "info")
    assert (second["study"], second["site"]) == ("small", "north")


FOREIGN = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0)))) + "\u202e\u2066\u2028\udc80"
STRANGER = """
from common.process.logs import configure
configure({form!r}, "info", site={foreign})
import logging
import structlog
import common.wire.flower
log = structlog.get_logger("test")
log.warning({foreign}, path={foreign}, told={{{foreign}: [{foreign}, ({foreign},)]}}, n=3, no=None)
logging.getLogger("flwr").warning("from %s", {foreign})
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_nothing_from_elsewhere_steers_a_terminal_or_begins_a_line(form: str) -> None:
    program = STRANGER.format(form=form, foreign=ascii(FOREIGN))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    ours = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr)  # Flower colours the level
    assert {each for each in ours if unicodedata.category(each) in UNSEEN} == {"\n"}
    lines = ours.splitlines()
    assert len(lines) == 2
    assert lines[0].count("x1b") == 6
    assert lines[1].count("x1b") == 1


def test_what_is_bound_to_the_process_stands_in_every_event() -> None:
    done = talk("'json', 'info', site='south'")
    first = json.loads(done.stderr.splitlines()[0])
    assert (first["event"], first["site"]) == ("round.started", "south")


def test_a_daemon_logs_lines_to_a_terminal_and_json_elsewhere() -> None:
    assert (form_for(True), form_for(False)) == ("console", "json")


def test_only_warnings_are_shown_unless_more_is_asked_for() -> None:
    done = talk("")
    assert done.stdout == ""
    assert "site.absent" in done.stderr
    assert "round.started" not in done.stderr


def test_a_place_is_the_line_that_raised_and_none_of_the_errors_words() -> None:
    def inner() -> None:
        raise KeyError("Doe^Jane")

    try:
        inner()
    except KeyError as error:
        found = place(error)
        line = inner.__code__.co_firstlineno + 1
    assert found == f"test_logs.py:{line}"


def test_an_error_that_was_never_raised_has_no_place() -> None:
    assert place(ValueError("Doe^Jane")) == "unknown"
