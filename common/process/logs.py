"""Logs are events with bound context, on standard error, and name nobody."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import structlog

from common.visible import visible, visible_in

Form = Literal["console", "json"]


def form_for(terminal: bool) -> Form:
    """How a daemon logs: lines where a person reads along, else JSON."""
    return "console" if terminal else "json"


def configure(form: Form = "console", level: str = "warning", **bound: str) -> None:
    """Send events to standard error.

    Args:
        form: lines for people, or one JSON object a line.
        level: the least severe level shown.
        bound: what every event of this process says, such as ``site``.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.contextvars.bind_contextvars(**bound)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _harmless,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Standard output is for results, which a program may read.
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def _harmless(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The one place where logs lose what would steer a terminal or begin a line of its own."""
    return {visible(name): visible_in(value) for name, value in event.items()}


def place(error: BaseException) -> str:
    """File and line that raised: the text of an error may hold what must not be logged."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
