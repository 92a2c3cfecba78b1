"""Logs are events on standard error, and a place stands for an error's text."""

from __future__ import annotations

import json
import subprocess
import sys

from common.logs import form_for, place

TALK = """
import structlog
from common.logs import configure
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
