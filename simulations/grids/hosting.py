"""The open sites of a simulation in one process, and what answers for them.

A site is opened when it is first asked. Where the process that had it open ended, another opens it
again and brings it to where it was: its plan is proposed again, its ledger goes on where the
coordinator has seen it, and everything else follows from its keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Final

import client.app
from client.site import Site
from common.errors import Refusal
from common.wire.flower import Message, context
from common.wire.messages import Request, request_from_record
from simulations.grids.grid import Client, Earlier, SiteDescription
from simulations.grids.nodes import RUN_ID

KEPT: Final = ("query.propose", "query.amend", "query.provide")
"""Types of the messages that make a site ready for its rounds."""


class OpenSites:
    """Sites that are opened when they are asked; close them.

    Args:
        described: what to open.
    """

    def __init__(self, described: Sequence[SiteDescription]) -> None:
        self._described = {each.name: each for each in described}
        self._open: dict[str, Site] = {}
        self._closing = ExitStack()
        self.client: Client = client.app.build(
            site_of=lambda asked: self.site(str(asked.node_config["site"]))
        )

    def site(self, name: str) -> Site:
        """The open site of a name.

        Raises:
            SiteError: its file or its state cannot be used.
        """
        if name not in self._open:
            self._open[name] = self._closing.enter_context(self._described[name].open())
        return self._open[name]

    def answer(self, name: str, message: Message) -> Message:
        """A site's reply."""
        return self.client(message, context(RUN_ID, 0, node={"site": name}, run={}))

    def recover(self, name: str, before: Sequence[Message], pending: Message) -> None:
        """Bring a site to where it was when the process that had it open ended.

        Args:
            name: of the site.
            before: the messages that made it ready, oldest first.
            pending: what it is asked now.
        """
        for message in before:
            self.answer(name, message)
        with suppress(Refusal):  # then it is a message that the site refuses in any case
            request = request_from_record(pending.content)
            site = self.site(name)
            approval = site.approvals.find(request.plan_hash)
            on_disk = self._described[name].keeps_records  # then nothing was lost
            if approval is not None and request.ledger.length and not on_disk:
                study = approval.plan.study
                trained, evaluated = _done(request, study.evaluation_rounds)
                Earlier(approval.plan, request.ledger, trained, evaluated).bring(site)

    def close(self) -> None:
        """Close them all."""
        self._open.clear()
        self._closing.close()


def _done(request: Request, evaluations: Sequence[int]) -> tuple[int, int]:
    """The rounds of training and of evaluation that were over when something was asked."""
    before = request.round - 1 if request.purpose == "train" else request.round
    late = request.purpose == "evaluate"
    done = [each for each in evaluations if each < request.round or (each == before and not late)]
    return before, max(done, default=-1)
