"""What a daemon serves: a site file, its state folder, and the coordinator that it has joined."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.sitefile import SiteFile, load_site_file
from common.wire.enrolment import COORDINATOR_CARD, CoordinatorCard, read_coordinator_card


@dataclass(frozen=True)
class Place:
    """What is served.

    Attributes:
        path: the site file.
        file: its content.
        state: the state folder.
        known_seed: where the site's keys follow from a seed.
        card: of the coordinator; None where the site has joined none.
    """

    path: Path
    file: SiteFile
    state: Path
    known_seed: int | None = None
    card: CoordinatorCard | None = None


@dataclass(frozen=True)
class Programs:
    """The modules that the two processes run."""

    connection: str = "client.daemon.connection"
    worker: str = "client.daemon.worker"


def place_of(path: Path, known_seed: int | None = None) -> Place:
    """What a site file says is to be served.

    Raises:
        SiteError: the site file or the coordinator's card cannot be used.
    """
    file = load_site_file(path)
    state = path.absolute().parent / file.site.state
    return Place(path.absolute(), file, state, known_seed, known_coordinator(state))


def known_coordinator(state: Path) -> CoordinatorCard | None:
    """The coordinator that a site has joined."""
    path = state / COORDINATOR_CARD
    return read_coordinator_card(path) if path.exists() else None
