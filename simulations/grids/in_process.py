"""A Flower grid that lives in this process: every site is a context, every site's code one app.

A request waits, its content shared and not copied, until its reply is pulled; only then does
the site's client run. So at most one reply exists at a time, whatever the number of sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from common.wire.flower import Context, Message
from simulations.grids.nodes import RUN_ID, NodesGrid, answered

if TYPE_CHECKING:
    from simulations.grids.grid import Client


class LocalGrid(NodesGrid):
    """The sites of a simulation, one after the other in this process.

    Args:
        client: what every site runs: a Flower ``ClientApp``.
        sites: for each node id the site's name and its context.
        order: as of :class:`NodesGrid`.
        run_id: likewise.
    """

    def __init__(
        self,
        client: Client,
        sites: Mapping[int, tuple[str, Context]],
        *,
        order: Sequence[str] | None = None,
        run_id: int = RUN_ID,
    ) -> None:
        names = {node: name for node, (name, _) in sites.items()}
        super().__init__(names, order=order, run_id=run_id)
        self._client, self._sites = client, sites

    def _reply(self, message_id: str, request: Message) -> Message:
        name, context = self._sites[request.metadata.dst_node_id]
        return answered(lambda asked: self._client(asked, context), name, request)
