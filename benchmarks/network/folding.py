"""One round as a coordinator runs it: asked together, folded as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from common.wire.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from server.study.aggregation import WeightedSum
from server.superlink.grid import FleetGrid


def fold_round(grid: FleetGrid, update: npt.NDArray[Any]) -> int:
    """Ask every connected site for ``update`` back and add what comes; gives how many came.

    Args:
        grid: how sites are reached.
        update: whole numbers, which the sites echo.
    """
    shared = ArrayRecord({"flat": Array(update)})
    names = {node.node_id: node.name for node in grid.get_nodes()}
    messages = [
        Message(RecordDict({"arrays": shared, "c": ConfigRecord({"site": name})}), node, "train")
        for node, name in names.items()
    ]
    total = WeightedSum(update.size, dict.fromkeys(names.values(), 1))
    ids = list(grid.push_messages(messages))
    waiting = dict(zip(ids, names.values(), strict=True))
    while waiting:
        grid.wait(5.0)
        for message_id in list(waiting):
            for reply in grid.pull_messages([message_id]):
                total.add(waiting.pop(message_id), _update(reply))
    assert int(total.total[0]) == int(update[0]) * len(names)
    return len(total.sites)


def _update(reply: Message) -> npt.NDArray[np.int32]:
    received: npt.NDArray[np.int32] = reply.content.array_records["arrays"]["flat"].numpy()
    return received
