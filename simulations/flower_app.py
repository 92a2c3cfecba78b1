"""A study as an app of Flower's own simulation: ``flwr run`` ends in the bits of ``consilium-sim``.

Flower's engine gives a site's message to any of its processes, so each site's records are on disk,
as at a hospital. Run it in a folder whose ``pyproject.toml`` names these two apps
(docs/researcher.md); its run configuration has ``study``, ``hospitals``, ``out`` and ``seed``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

import client.app
import server.app
from client.site import Site
from common.files import canonical_json, write_atomic
from common.study.study_file import load_study
from common.wire.flower import ClientApp, ConfigRecord, Context, Message, RecordDict
from server.app import read_run_config
from simulations.archives.manifest import Hospitals, read_hospitals
from simulations.archives.roster import roster
from simulations.grids.grid import SiteDescription
from simulations.grids.nodes import PassingGrid
from simulations.runs.federation import ROSTER
from simulations.runs.preflight import check_study

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp

_NAME: Final = "name"


class NamedGrid(PassingGrid):
    """Flower's grid, whose nodes have the names of their sites: they are asked for them."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        asked = [
            Message(RecordDict({"asked": ConfigRecord({"what": _NAME})}), node, "query.name")
            for node in grid.get_node_ids()
        ]
        replies = grid.send_and_receive(asked)
        self._nodes = {
            str(reply.content[_NAME][_NAME]): reply.metadata.src_node_id for reply in replies
        }

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes, by their sites' names."""
        return [
            NodeInfo(node_id=node, name=name, status="online")
            for name, node in sorted(self._nodes.items())
        ]


def _hospitals(context: Context) -> tuple[Hospitals, Path, int]:
    """The hospitals, the folder of the run, and its seed."""
    config = context.run_config
    folder, out = Path(str(config["hospitals"])), Path(str(config["out"]))
    return _read(folder.absolute()), out.absolute(), int(config.get("seed", 0))


@cache
def _read(folder: Path) -> Hospitals:
    """The manifest, once a process: each message names it."""
    return read_hospitals(folder)


def _site_name(context: Context) -> str:
    hospitals, _, _ = _hospitals(context)
    return hospitals.sites[int(context.node_config["partition-id"])]


class _Sites:
    """Sites of this process, each opened once."""

    def __init__(self) -> None:
        self._open: dict[Path, Site] = {}

    def __call__(self, context: Context) -> Site:
        hospitals, out, seed = _hospitals(context)
        name = _site_name(context)
        state = out / "sites" / name
        if state not in self._open:
            self._open[state] = SiteDescription(
                name,
                hospitals.site_file(name),
                state,
                seed,
                workers=1,
                rows=hospitals.part(name),
                keeps_records=True,
            ).open()
        return self._open[state]


def _client() -> ClientApp:
    app = client.app.build(site_of=_Sites())

    @app.query(_NAME)
    def name(message: Message, context: Context) -> Message:
        content = RecordDict({_NAME: ConfigRecord({_NAME: _site_name(context)})})
        return Message(content, reply_to=message)

    return app


client_app = _client()
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study to its end; the coordinator's folder in ``out`` has what it came to."""
    config = context.run_config
    hospitals, out, seed = _hospitals(context)
    check_study(load_study(Path(str(config["study"]))), hospitals)
    known = out / ROSTER
    write_atomic(known, canonical_json(roster(hospitals, seed).document))
    asked = {"study": config["study"], "run": str(out), "roster": str(known), "seed": seed}
    server.app.run_study(NamedGrid(grid), read_run_config(asked))
