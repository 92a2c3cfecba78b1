"""The coordinator's home: ``coordinator.toml``, and where everything lies in the state folder.

::

    coordinator.toml         what a person sets
    state/ca.pem, ca.key             the authority that both sides trust
    state/server.pem, server.key     the gateway's certificate
    state/loopback.pem, loopback.key SuperLink's certificate, for 127.0.0.1
    state/signing.key                Ed25519, signs receipts
    state/guard.secret               with it SuperLink is controlled and a study takes its task
    state/operators/                 certificates of the operators that are let in
    state/control.sock, notices.sock while the daemon runs
    state/coordinator.sqlite         the store, unless it is elsewhere
    state/studies/                   a folder for each study

Keys and secrets are readable by their owner alone, and so is the whole state folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from common.errors import CoordinatorError
from common.settings import Section, load_toml
from common.study.study_file import Slug
from common.wire.enrolment import Address, split_address

FILE: Final = "coordinator.toml"
_SQLITE: Final = "sqlite:///"
_TEMPLATE: Final = """\
# The coordinator's settings. They are read when `consilium-coordinator serve` starts.

[coordinator]
name = "{name}"
# Under this address sites reach the gateway. It stands in every COORDINATOR.json and in the
# server's certificate: who changes it must admit the sites again and mail them the new card.
address = "{address}"
# Where the gateway listens: all interfaces of this machine.
listen = "0.0.0.0:{port}"
# Where Flower's SuperLink listens on this machine alone; left out, at any free port. A firewall
# that keeps other local accounts from it (systemd/consilium-superlink.nft) wants a fixed one.
# superlink_port = 9093

[store]
# Sites, studies, rounds and events. SQLite beside this file, or a PostgreSQL server:
#   url = "postgresql+psycopg://consilium@db.example.org/consilium"
# Leave a password out of it: PostgreSQL's client reads one from ~/.pgpass or PGPASSFILE.
url = "sqlite:///state/coordinator.sqlite"

[control]
# The socket that consilium-coordinator's other commands talk to.
socket = "state/control.sock"
# For operators on other machines, who show a certificate that
# `consilium-coordinator operator NAME` made:
#   listen = "0.0.0.0:9094"

[metrics]
# Prometheus reads these; others on the network should not.
listen = "127.0.0.1:9464"

[limits]
# What the gateway takes from one site, how many connections it holds in all, and of one site.
requests_per_second = 50
connections = 512
connections_per_site = 32
"""


def _listen(text: str) -> str:
    split_address(text)
    return text


Listen = Annotated[str, AfterValidator(_listen)]
"""``host:port`` to listen at; port 0 takes a free one."""


class CoordinatorSection(Section):
    """``[coordinator]``: what the coordinator is called and where it is.

    Attributes:
        name: shown to sites.
        address: under which sites reach it.
        listen: where the gateway listens.
        superlink_port: of the SuperLink on loopback; 0 takes a free one.
    """

    name: Slug
    address: Address
    listen: Listen
    superlink_port: int = Field(default=0, ge=0, le=65535)


class StoreSection(Section):
    """``[store]``: where the truth about sites and studies is kept."""

    url: str = Field(default="sqlite:///state/coordinator.sqlite", repr=False)


class ControlSection(Section):
    """``[control]``: how the daemon is asked.

    Attributes:
        socket: a Unix socket, relative to the home.
        listen: for operators on other machines, with mutual TLS.
    """

    socket: Path = Path("state/control.sock")
    listen: Listen | None = None


class MetricsSection(Section):
    """``[metrics]``: where Prometheus reads."""

    listen: Listen = "127.0.0.1:9464"


class LimitsSection(Section):
    """``[limits]``: what the gateway takes.

    Attributes:
        requests_per_second: from one site, on average.
        connections: held at once, of all sites together.
        connections_per_site: held at once, of one site; its daemon opens at most 16.
    """

    requests_per_second: float = Field(default=50, gt=0)
    connections: int = Field(default=512, ge=1)
    connections_per_site: int = Field(default=32, ge=16)


class CoordinatorFile(Section):
    """A whole ``coordinator.toml``."""

    coordinator: CoordinatorSection
    store: StoreSection = StoreSection()
    control: ControlSection = ControlSection()
    metrics: MetricsSection = MetricsSection()
    limits: LimitsSection = LimitsSection()


@dataclass(frozen=True)
class Home:
    """A coordinator's folder, its settings, and where everything lies."""

    folder: Path
    file: CoordinatorFile

    @property
    def state(self) -> Path:
        """What must outlive the process."""
        return self.folder / "state"

    @property
    def ca_certificate(self) -> Path:
        """The authority's certificate, PEM."""
        return self.state / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The authority's key, PEM; secret."""
        return self.state / "ca.key"

    @property
    def server_certificate(self) -> Path:
        """The certificate of the public address, PEM."""
        return self.state / "server.pem"

    @property
    def server_key(self) -> Path:
        """Its key, PEM; secret."""
        return self.state / "server.key"

    @property
    def loopback_certificate(self) -> Path:
        """SuperLink's certificate, for 127.0.0.1 and localhost, PEM."""
        return self.state / "loopback.pem"

    @property
    def loopback_key(self) -> Path:
        """Its key, PEM; secret."""
        return self.state / "loopback.key"

    @property
    def signing_key(self) -> Path:
        """Ed25519, 32 bytes; secret."""
        return self.state / "signing.key"

    @property
    def guard_secret(self) -> Path:
        """64 hexadecimal digits: who controls SuperLink shows them, SuperExec's follow; secret."""
        return self.state / "guard.secret"

    @property
    def operators(self) -> Path:
        """Certificates of the operators that are let in, one file each."""
        return self.state / "operators"

    @property
    def control_socket(self) -> Path:
        """Where the daemon is asked."""
        return self.folder / self.file.control.socket

    @property
    def notices_socket(self) -> Path:
        """Where the gateway and the studies' processes tell each other of work."""
        return self.state / "notices.sock"

    @property
    def studies(self) -> Path:
        """A folder for each study."""
        return self.state / "studies"

    @property
    def store_url(self) -> str:
        """The store's URL, a relative SQLite file made absolute. It may hold a password."""
        url = self.file.store.url
        if not url.startswith(_SQLITE):
            return url
        return _SQLITE + str(self.folder / url.removeprefix(_SQLITE))


def load_home(path: Path) -> Home:
    """Read a coordinator's home.

    Raises:
        CoordinatorError: there is none, or its settings cannot be used.
    """
    folder = path.resolve()
    if not (folder / FILE).is_file():
        raise CoordinatorError(
            "there is no coordinator here",
            where=folder,
            wanted=f"a folder with {FILE}",
            remedy="pass --home FOLDER, or make one: consilium-coordinator init NAME --address …",
        )
    return Home(folder, load_toml(folder / FILE, CoordinatorFile, CoordinatorError))


def new_file(name: str, address: str) -> str:
    """What ``init`` writes: the settings with what each is for.

    Args:
        name: of the coordinator.
        address: under which sites reach it.

    Raises:
        CoordinatorError: one of them cannot be used.
    """
    try:
        section = CoordinatorSection(name=name, address=address, listen="0.0.0.0:0")
    except ValueError as cause:
        raise CoordinatorError(
            "a coordinator cannot be made of this name and address",
            found=f"{name!r} at {address!r}",
            wanted="a name of lower-case letters, digits and hyphens, and host:port",
            remedy="consilium-coordinator init radiology --address consilium.example.org:8443",
        ) from cause
    port = split_address(section.address)[1]
    return _TEMPLATE.format(name=section.name, address=section.address, port=port)
