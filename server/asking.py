"""Asking sites and hearing them one by one.

All requests of a round are pushed at once, sharing the one copy of the weights; then one
reply at a time is pulled and handed on, so that it can be folded and forgotten. Flower
never repeats a request: after a crash the coordinator asks again with a new message whose
content, and so whose identity, is the same. A pull destroys what it hands out.

Over HTTP a pull may block until all parts of a reply have arrived, so that a slow site
delays the others of the sweep: a daemon that minds gives each site a thread.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from common.errors import Refusal
from common.flower import ErrorCode, Message, RecordDict
from common.messages import Purpose, Reply, Request, reply_from_record, request_to_record
from common.study import seconds

# isort: split
# Only after common.flower, which tells Flower to stay off the network.
from flwr.serverapp import Grid

MESSAGE_TYPES: Final[dict[Purpose, str]] = {
    "offer": "query.offer",
    "propose": "query.propose",
    "train": "train",
    "evaluate": "evaluate",
    "close": "query.close",
}
POLL_SECONDS: Final = 0.25
"""How long to wait after a sweep in which nobody had answered."""
TTL_SECONDS: Final = 30 * 86400.0
"""How long Flower keeps a message; the round's own time-out is the shorter one."""
_ERRORS: Final = {
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "its client failed; its own log says why",
    ErrorCode.CLIENT_APP_CRASHED: "its client crashed",
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "its client could not be loaded",
    ErrorCode.NODE_UNAVAILABLE: "offline",
    ErrorCode.MESSAGE_UNAVAILABLE: "the request expired before it was answered",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its reply was lost on the way",
}


@dataclass(frozen=True)
class Absence:
    """A site that did not answer, and why."""

    reason: str


def nodes_of(grid: Grid, roster: Iterable[str]) -> dict[str, int]:
    """The node of each site of the roster that is connected, in the grid's order."""
    known = set(roster)
    return {node.name: node.node_id for node in grid.get_nodes() if node.name in known}


def ask(
    grid: Grid,
    requests: Mapping[str, Request],
    *,
    timeout: str,
    most_weights: int,
    poll_seconds: float = POLL_SECONDS,
) -> Iterator[tuple[str, Reply | Absence]]:
    """Ask sites and yield what they answer, as it comes.

    Args:
        grid: how sites are reached.
        requests: what each site is asked; all carry the same array, or none.
        timeout: how long to wait for replies, as ``30m``.
        most_weights: the longest array that a reply may carry.
        poll_seconds: pause after a sweep without an answer.

    Yields:
        Each site of ``requests`` once, with its reply or the reason for its absence. A
        reply is well formed, and not verified.
    """
    nodes = nodes_of(grid, requests)
    for site in requests.keys() - nodes.keys():
        yield site, Absence("not connected")
    deadline = time.monotonic() + seconds(timeout)
    sites = list(nodes)
    ids = grid.push_messages(_messages(requests, nodes))
    pushed = zip(ids, sites, strict=False)  # Flower gives fewer, or None, for what it refused
    waiting = {message_id: site for message_id, site in pushed if message_id}
    for site in set(sites) - set(waiting.values()):
        yield site, Absence("the request could not be handed to Flower")
    while waiting:
        last = time.monotonic() >= deadline
        heard = yield from _sweep(grid, waiting, most_weights)
        if last:
            break
        if waiting and not heard:
            time.sleep(max(0.0, min(poll_seconds, deadline - time.monotonic())))
    for site in waiting.values():
        yield site, Absence(f"no reply in {timeout}")


def _sweep(
    grid: Grid, waiting: dict[str, str], most_weights: int
) -> Generator[tuple[str, Reply | Absence], None, bool]:
    """Pull each outstanding reply once; tells whether anyone had answered."""
    heard = False
    for message_id in list(waiting):
        for message in grid.pull_messages([message_id]):
            if message_id in waiting:
                heard = True
                yield waiting.pop(message_id), _read(message, most_weights)
    return heard


def _messages(requests: Mapping[str, Request], nodes: Mapping[str, int]) -> list[Message]:
    """One message for each node; the array is converted once and shared."""
    shared = RecordDict()
    messages = []
    for site, node_id in nodes.items():
        request = requests[site]
        if request.arrays is not None and not shared:
            shared["arrays"] = request_to_record(request)["arrays"]
        content = request_to_record(replace(request, arrays=None))
        content.update(shared)
        kind = MESSAGE_TYPES[request.purpose]
        group = str(request.round)
        messages.append(Message(content, node_id, kind, ttl=TTL_SECONDS, group_id=group))
    return messages


def _read(message: Message, most_weights: int) -> Reply | Absence:
    if message.has_error():
        code = message.error.code
        return Absence(_ERRORS.get(code, f"Flower's error {code}"))
    try:
        return reply_from_record(message.content, most_weights)
    except Refusal:
        return Absence("sent something that is not a reply")
