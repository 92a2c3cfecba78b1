"""Command lines are run as processes of their own: exit codes and streams are what is tested."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from common.visible import UNSEEN

FOREIGN = (
    "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0))))
    + "\u202e\u2066\u2028\u200b\ufeff\U000e0041\udc80[bold]markup[/bold]:smile:[link=http://x]y[/]"
)
"""Every control, marks that turn the way of reading, a byte of a path that is no UTF-8, markup."""

PROGRAM = """
from __future__ import annotations

import time

import os

import typer

from common.process.console import out, progress, run_cli
from common.errors import StudyError

app = typer.Typer()


@app.command()
def fine() -> None:
    out().print("result", style="bold")


@app.command()
def mistake() -> None:
    raise StudyError("unknown key [data]", where="a.toml", found="colour", remedy="remove it")


@app.command()
def defect() -> None:
    secret = "PATIENT-7"
    raise ZeroDivisionError("division")


@app.command()
def refused(number: int) -> None:
    raise OSError(number, os.strerror(number), "/srv/labels.csv")


@app.command()
def shown(json: bool = False) -> None:
    from rich.table import Table
    from rich.text import Text

    from common.process.console import err, show_json

    foreign = {FOREIGN!r}
    if json:
        show_json({"name": foreign})
        return
    table = Table(foreign, title=foreign)
    table.add_row(foreign)
    table.add_row(Text(foreign, style="bold"))
    for console in (out(), err()):
        console.print(foreign)
        console.print(Text(foreign, style="bold red"), foreign)
        console.print(table)
    with progress(foreign, 1, unit=foreign) as reading:
        reading.advance()
        reading.note(foreign)
    raise StudyError(foreign, where=foreign, found=foreign, wanted=foreign, remedy=foreign)


@app.command()
def bursts() -> None:
    raise ValueError({FOREIGN!r})


@app.command()
def leave(code: int) -> None:
    raise typer.Exit(code)


@app.command()
def wait() -> None:
    out().print("waiting")
    time.sleep(3600)


@app.command()
def job(total: int, step: int = 1) -> None:
    with progress("reading [images]", total, unit="files") as reading:
        for _ in range(total // step):
            reading.advance(step)
        reading.note("2 files [left] out")


run_cli(app)
""".replace("{FOREIGN!r}", ascii(FOREIGN))


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return [sys.executable, str(program)]


@pytest.fixture
def environment(root: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR"}}
    return plain | {"PYTHONPATH": str(root), "TERM": "xterm", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def run(command: list[str], environment: dict[str, str]) -> Run:
    return Run(command, environment)


class Run:
    """Runs the program above with its output in pipes."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.command = command
        self.environment = environment

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


def on_a_terminal(run: Run, *arguments: str) -> str:
    """Everything the program writes to a terminal of 80 columns."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*run.command, *arguments],
        env=run.environment | {"COLUMNS": "80"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    ):
        os.close(slave)
        written = b""
        while chunk := _read(master):
            written += chunk
    os.close(master)
    return written.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux's way of saying that the other end is closed
        return b""


def test_success_exits_with_0_and_writes_to_standard_output_only(run: Run) -> None:
    result = run("fine")

    assert (result.returncode, result.stdout, result.stderr) == (0, "result\n", "")


def test_a_persons_mistake_exits_with_2_and_says_what_to_do(run: Run) -> None:
    result = run("mistake")

    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "error: unknown key [data]\n"
        "  where:  a.toml\n"
        "  found:  colour\n"
        "  do:     remove it\n"
    )  # fmt: skip


def test_a_mistake_is_red_on_a_terminal(run: Run) -> None:
    assert "\x1b[1;31merror: " in on_a_terminal(run, "mistake")


@pytest.mark.parametrize("arguments", [["nothing-like-this"], ["leave"], ["fine", "--loud"]])
def test_a_usage_error_exits_with_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.returncode == 2
    assert "Usage:" in result.stderr


def test_help_exits_with_0(run: Run) -> None:
    assert run("--help").returncode == 0


def test_a_commands_own_exit_code_is_kept(run: Run) -> None:
    assert run("leave", "7").returncode == 7


def test_a_defect_keeps_its_traceback_without_variables_and_asks_to_be_reported(run: Run) -> None:
    result = run("defect")

    assert result.returncode == 1
    assert "in defect\n" in result.stderr
    assert "ZeroDivisionError: division\n" in result.stderr
    assert "names a patient" in result.stderr.splitlines()[-1]
    assert "PATIENT-7" not in result.stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.ENOTDIR])
def test_a_file_that_the_system_refuses_is_a_mistake_wherever_it_is_met(
    run: Run, number: int
) -> None:
    result = run("refused", str(number))

    assert result.returncode == 2
    assert "/srv/labels.csv" in result.stderr
    assert os.strerror(number) in result.stderr
    assert "  do: " in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_of_the_system_that_is_not_about_files_is_a_defect(run: Run) -> None:
    assert run("refused", str(errno.EBADF)).returncode == 1


def test_an_interrupt_exits_with_130_and_no_traceback(run: Run) -> None:
    # What a shell starts in the background is told to ignore interrupts, and so are its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*run.command, "wait"],
        env=run.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    signal.signal(signal.SIGINT, before)

    assert process.returncode == 130
    assert "Traceback" not in said


def test_a_job_in_a_pipe_writes_a_line_for_every_tenth(run: Run) -> None:
    lines = run("job", "1000").stderr.splitlines()

    assert lines[0] == "reading [images]: 100/1000 files (10 %)"
    assert lines[9] == "reading [images]: 1000/1000 files (100 %)"
    assert lines[10:] == ["2 files [left] out"]


def test_a_pipe_that_asks_for_colours_is_no_terminal(run: Run) -> None:
    run.environment |= {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
    result = run("job", "1000")

    assert result.stderr.splitlines()[0] == "reading [images]: 100/1000 files (10 %)"
    assert "\x1b" not in result.stderr + run("mistake").stderr


def test_a_short_job_in_a_pipe_writes_no_more_lines_than_it_has_units(run: Run) -> None:
    assert run("job", "4", "--step", "2").stderr.splitlines() == [
        "reading [images]: 2/4 files (50 %)",
        "reading [images]: 4/4 files (100 %)",
        "2 files [left] out",
    ]


def test_a_job_with_nothing_to_do_writes_only_its_notes(run: Run) -> None:
    assert run("job", "0").stderr == "2 files [left] out\n"


def test_a_job_on_a_terminal_is_a_bar(run: Run) -> None:
    written = on_a_terminal(run, "job", "3")

    assert "reading [images]" in written
    assert "━" in written
    assert "3/3" in written
    assert "(100 %)" not in written
    assert "2 files [left] out" in written


def unharmed(text: str) -> str:
    """Text that steers no terminal: nothing unseen in it but the ends of its lines."""
    unseen = {each for each in text if unicodedata.category(each) in UNSEEN} - set("\n\t")
    assert not unseen, ascii(unseen)
    return text


@pytest.mark.parametrize("arguments", [["shown"], ["shown", "--json"], ["bursts"]])
def test_nothing_from_elsewhere_steers_a_terminal_or_is_markup(
    run: Run, arguments: list[str]
) -> None:
    done = run(*arguments)
    written = unharmed(done.stdout) + unharmed(done.stderr)
    assert r"\x1b" in written or r"\u001b" in written
    assert "[bold]markup[/bold]:smile:" in written
    assert "markup:smile" not in written
    assert "\U0001f604" not in written


def test_on_a_terminal_what_steers_it_is_ours_alone(run: Run) -> None:
    written = on_a_terminal(run, "shown")
    ours = re.compile(r"\x1b\[[0-9;]*[mAK]|\x1b\[\?25[lh]|\r")
    assert ours.search(written)
    assert r"\x1b" in unharmed(ours.sub("", written))
    assert "\x1b]" not in written  # no link, no title


def test_json_for_a_program_still_says_what_it_said(run: Run) -> None:
    assert json.loads(run("shown", "--json").stdout) == {"name": FOREIGN}
