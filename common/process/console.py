"""What a command line shows, and what it exits with.

Results go to standard output, everything said on the way to standard error. On a
terminal a job shows a progress bar; in a file or a pipe it writes a few plain lines.

======  ======================================================================
exit    meaning
======  ======================================================================
0       done
1       a bug in Consilium: a traceback, and a line that asks to report it; after an
        audit, a claim that was broken
2       something the person can fix: one screen that says what to do
130     interrupted from the keyboard
======  ======================================================================
"""

from __future__ import annotations

import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import click
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from common.errors import EXIT_CODE, ConsiliumError, is_of_system, of_system
from common.visible import LAYOUT, visible, visible_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import ConsoleOptions, RenderableType

PLAIN_WIDTH: Final = 120
"""Columns of a table that is written to a file or a pipe."""

PLAIN_LINES: Final = 10
"""Lines of progress that a job writes where there is no terminal."""

DEFECT: Final = (
    "This is a bug in Consilium, not your mistake. Please report it with the lines above. "
    "First check that none of them names a patient."
)


def out() -> Console:
    """A console on standard output, for results."""
    return _console(stderr=False)


def err() -> Console:
    """A console on standard error, for messages and progress."""
    return _console(stderr=True)


def show_json(value: Any, *, indent: int | None = 2) -> None:  # noqa: ANN401 - what JSON can hold
    """Write a value to standard output for a program: as JSON, and nothing beside it."""
    typer.echo(visible_json(value, indent=indent))


class Plain(Console):
    """Shows text as it is: markup in it has no effect, and nothing in it controls the terminal.

    All that a console shows comes through here, tables, bars and errors included, so no caller
    can forget it. Styles and the moves of a bar are ours, and are no text.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is shown, piece by piece."""
        for piece in super().render(renderable, options):
            text = piece.text if piece.control else visible(piece.text, keep=LAYOUT)
            yield piece if text == piece.text else Segment(text, piece.style, piece.control)


def _console(*, stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Plain(
        stderr=stderr,
        # A notebook asks every program for colours, but draws no bar over itself.
        force_terminal=terminal,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if terminal else PLAIN_WIDTH,
        # In a file or pipe a line stays whole, so that it can be searched and copied.
        soft_wrap=not terminal,
    )


def run_cli(app: typer.Typer) -> NoReturn:
    """Run a command line to its end; exits with a code of the table above.

    Usage errors are shown by Typer, which exits with 2 as well.
    """
    try:
        # The bare command: ``app()`` would put its own traceback, which may show
        # local variables and so a patient, in place of ours.
        command = typer.main.get_command(app)
        _leave_files_to_commands(command)
        command()
    except ConsiliumError as error:
        show_error(error)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        # Every command meets files, and each could fail at any of them: so it is said here, once.
        if not is_of_system(error):
            _show_defect()
        show_error(of_system(error, ConsiliumError))
        sys.exit(EXIT_CODE)
    except Exception:  # noqa: BLE001 - the last stop: said on standard error, then exit 1
        _show_defect()
    sys.exit(0)


def _leave_files_to_commands(command: click.Command) -> None:
    """Have Typer not look whether a file can be read: it would not say what to do about it."""
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            parameter.type.readable = False
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _leave_files_to_commands(inner)


def _show_defect() -> NoReturn:
    err().print(traceback.format_exc(), soft_wrap=True)
    err().print(DEFECT, style="bold")
    sys.exit(1)


def show_error(error: ConsiliumError) -> None:
    """Write an error to standard error: the sentence, then one aligned line a detail."""
    first, _, details = error.render().partition("\n")
    text = Text.assemble(("error: ", "bold red"), (first, "bold"))
    err().print(text.append(f"\n{details}" if details else ""), soft_wrap=True)


class ProgressJob(Protocol):
    """A long piece of work that tells how far it is."""

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more units as done."""

    def note(self, text: str) -> None:
        """Say something on a line of its own; ``text`` is shown as it is, without markup."""


@contextmanager
def progress(description: str, total: int, *, unit: str = "") -> Iterator[ProgressJob]:
    """Show how far a job is, on standard error.

    Args:
        description: what is being done, without a full stop: ``"reading images"``.
        total: units in all.
        unit: what is counted, in the plural: ``"files"``.

    Yields:
        The job. On a terminal it is a bar; elsewhere about ten plain lines in all.
    """
    console = err()
    if not console.is_terminal:
        yield _Lines(console, description, total, unit)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar, bar.add_task(description, total=total))


class _Bar:
    """A job on a terminal."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def advance(self, n: int = 1) -> None:
        self._bar.advance(self._task, n)

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False)


class _Lines:
    """A job in a file or a pipe: a line whenever another tenth is done."""

    def __init__(self, console: Console, description: str, total: int, unit: str) -> None:
        self._console = console
        self._description = description
        self._total = total
        self._unit = f" {unit}" if unit else ""
        self._done = 0

    def advance(self, n: int = 1) -> None:
        before, self._done = self._tenths(), self._done + n
        if self._tenths() > before:
            percent = 100 * self._done // self._total
            count = f"{self._done}/{self._total}{self._unit}"
            self.note(f"{self._description}: {count} ({percent} %)")

    def note(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _tenths(self) -> int:
        return PLAIN_LINES * self._done // self._total if self._total else 0
