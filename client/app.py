"""Flower's ``ClientApp`` for a site: it reads a message and answers it, and runs no sent code.

``Context.node_config`` names the site: ``site`` (path of the site file), ``state`` (folder
of what must outlive the process; by default what the site file names) and, in simulations
alone, ``known-seed``.

Where the site is silent, the reply is Flower's own for a node that is offline; a daemon does not
send even that. The same holds for every message that the gates cannot answer, such as one of an
unknown type: nothing of it was signed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from client.requests import journal
from client.requests.handler import answer_record
from client.site import Site, open_site
from common.errors import ConsiliumError
from common.process.logs import place
from common.wire.flower import ClientApp, Context, Error, ErrorCode, Message, RecordDict
from common.wire.messages import Purpose

SiteOf = Callable[[Context], Site]

log = structlog.get_logger(__name__)


class SiteApp(ClientApp):
    """A client app that is silent where it has no answer.

    Args:
        site_of: the open site of a context.
    """

    def __init__(self, site_of: SiteOf) -> None:
        super().__init__()
        self._site_of = site_of

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message; see :func:`client.requests.handler.answer_record`."""
        try:
            return super().__call__(message, context)
        except ConsiliumError as error:
            log.error("site.unusable", error=type(error).__name__, why=error.what)
            why = type(error).__name__
        except Exception as error:  # noqa: BLE001 - Flower would send the exception's text
            log.error("request.unanswered", error=type(error).__name__, at=place(error))
            why = type(error).__name__
        with suppress(Exception):  # a site that cannot be opened has no audit log either
            content = RecordDict() if message.has_error() else message.content
            journal.unanswered(self._site_of(context), content, why)
        return _silence(message)


def build(opened: dict[str, Site] | None = None, *, site_of: SiteOf | None = None) -> ClientApp:
    """The client app.

    Args:
        opened: sites that are open already, by the path of their file; more are added.
        site_of: the open site of a context, in place of the one that the context names; a
            simulation's.
    """
    site_of = site_of or _Opened({} if opened is None else opened)

    def replying(purpose: Purpose) -> Callable[[Message, Context], Message]:
        def reply(message: Message, context: Context) -> Message:
            content = answer_record(site_of(context), message.content, purpose)
            return _silence(message) if content is None else Message(content, reply_to=message)

        return reply

    app = SiteApp(site_of)
    asked: tuple[Purpose, ...] = ("offer", "propose", "amend", "provide", "close")
    for purpose in asked:
        app.query(purpose)(replying(purpose))
    app.train()(replying("train"))
    app.evaluate()(replying("evaluate"))
    return app


def _silence(message: Message) -> Message:
    """To the coordinator, the site looks offline."""
    # Flower's own error for a node that is gone, with no text: a text would tell why.
    return Message(Error(ErrorCode.NODE_UNAVAILABLE, ""), reply_to=message)


class _Opened:
    """Sites by the path of their file, opened once: they keep their cohorts and kernels."""

    def __init__(self, sites: dict[str, Site]) -> None:
        self._sites = sites

    def __call__(self, context: Context) -> Site:
        path = str(context.node_config["site"])
        if path not in self._sites:
            seed = context.node_config.get("known-seed")
            state = context.node_config.get("state")
            self._sites[path] = open_site(
                Path(path),
                None if state is None else Path(str(state)),
                None if seed is None else int(seed),
                serves=True,
            )
        return self._sites[path]


app = build()
