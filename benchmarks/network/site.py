"""Sites in a process of their own that answer at once: ``python -m benchmarks.network.site``.

Each answers a request with its own array, as if it had trained in no time; ``idle`` ones
only wait for work.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Final

from benchmarks.network.coordinator import CARD, key_file
from client.daemon.fleet import Fleet
from client.node_key import load_node_key
from common.errors import LinkError
from common.wire.enrolment import read_coordinator_card
from common.wire.flower import Message, RecordDict

TRIES: Final = 5


def answer(request: Message) -> Message:
    """The request's content, sent back."""
    return Message(RecordDict(dict(request.content)), reply_to=request)


def connect(fleet: Fleet) -> None:
    """Connect, with the patience that a loaded machine needs."""
    for _ in range(TRIES):
        try:
            return fleet.connect()
        except LinkError:
            time.sleep(1)
    return fleet.connect()


def serve(folder: Path, site: int) -> None:
    """Connect, and answer until the line breaks."""
    card = read_coordinator_card(folder / CARD)
    fleet = Fleet(card, load_node_key(key_file(folder, site)))
    connect(fleet)
    print(f"connected {site}\n", end="", flush=True)  # at one go: others write too
    try:
        while True:
            request = fleet.pull()
            if request is not None:
                fleet.push(answer(request))
    except LinkError:
        return  # the benchmark is over


def main(folder: Path, sites: list[int]) -> None:
    """Serve these sites, a thread each."""
    threads = [threading.Thread(target=serve, args=(folder, site)) for site in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(site) for site in sys.argv[2:]])
