"""The coordinator's home: ``coordinator.toml``, and the files of its state folder.

::

    coordinator.toml         the settings
    state/ca.pem, ca.key             the certificate authority that sites trust
    state/server.pem, server.key     the gateway's certificate
    state/loopback.pem, loopback.key SuperLink's certificate, for 127.0.0.1
    state/signing.key                Ed25519, signs receipts
    state/guard.secret               lets the daemon and the studies control SuperLink
    state/operators/                 certificates of the admitted operators
    state/control.sock, notices.sock exist while the daemon runs
    state/coordinator.sqlite         the store, unless [store] url names another
    state/studies/                   a folder for each study

Only their owner can read the keys and secrets, and the whole state folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from common.errors import CoordinatorError
from common.settings import Section, load_toml
from common.text import Slug
from common.wire.enrolment import Address, Listen, split_address

FILE: Final = "coordinator.toml"
_SQLITE: Final = "sqlite:///"
_TEMPLATE: Final = """\
# The coordinator's settings. They are read when `consilium-coordinator serve` starts.

[coordinator]
name = "{name}"
# The address under which sites reach the gateway. It is part of every COORDINATOR.json and of the
# server's certificate. If you change it, admit every site again and send it the new
# COORDINATOR.json.
address = "{address}"
# Where the gateway listens: "0.0.0.0" is every IPv4 address of this machine, "[::]" every IPv4 and
# IPv6 address.
listen = "{anywhere}:{port}"
# The port of Flower's SuperLink, on this machine only. Default: any free port. Set it if a firewall
# is to keep other local accounts from it (systemd/consilium-superlink.nft).
# superlink_port = 9093

[store]
# Sites, studies, rounds and events. SQLite in the state folder, or a PostgreSQL server:
#   url = "postgresql+psycopg://consilium@db.example.org/consilium"
# Do not write a password here: PostgreSQL's client reads it from ~/.pgpass or PGPASSFILE.
url = "sqlite:///state/coordinator.sqlite"

[control]
# The socket for the other commands of consilium-coordinator.
socket = "state/control.sock"
# For operators on other machines. Each needs a certificate, which you make with
# `consilium-coordinator operator NAME`:
#   listen = "0.0.0.0:9094"

[metrics]
# For Prometheus. Keep it away from the public network.
listen = "127.0.0.1:9464"

[limits]
# Requests per second of one site, connections of all callers together, connections of one site.
requests_per_second = 50
connections = 512
connections_per_site = 32
"""


class CoordinatorSection(Section):
    """``[coordinator]``: its name and its addresses.

    Attributes:
        name: shown to sites.
        address: ``host:port`` under which sites reach it.
        listen: ``host:port`` of the gateway.
        superlink_port: of the SuperLink on loopback; 0 takes a free one.
    """

    name: Slug
    address: Address
    listen: Listen
    superlink_port: int = Field(default=0, ge=0, le=65535)


class StoreSection(Section):
    """``[store]``: the database of sites and studies."""

    url: str = Field(default="sqlite:///state/coordinator.sqlite", repr=False)


class ControlSection(Section):
    """``[control]``: how operators reach the daemon.

    Attributes:
        socket: a Unix socket, relative to the home.
        listen: for operators on other machines, with mutual TLS.
    """

    socket: Path = Path("state/control.sock")
    listen: Listen | None = None


class MetricsSection(Section):
    """``[metrics]``: the address for Prometheus."""

    listen: Listen = "127.0.0.1:9464"


class LimitsSection(Section):
    """``[limits]``: limits of the gateway.

    Attributes:
        requests_per_second: of one site, on average.
        connections: at once, of all callers together.
        connections_per_site: at once, of one site.
    """

    requests_per_second: float = Field(default=50, ge=1, le=1_000_000)
    connections: int = Field(default=512, ge=1, le=1_000_000)
    # A site's daemon opens at most 16. Twice that, because after a broken line the old connections
    # are held until they time out.
    connections_per_site: int = Field(default=32, ge=16, le=1_000_000)


class CoordinatorFile(Section):
    """A whole ``coordinator.toml``."""

    coordinator: CoordinatorSection
    store: StoreSection = StoreSection()
    control: ControlSection = ControlSection()
    metrics: MetricsSection = MetricsSection()
    limits: LimitsSection = LimitsSection()


class _InState:
    """The path of a file of the state folder, as an attribute of a home."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, home: Home, _owner: type[Home]) -> Path:
        return home.state / self._name


@dataclass(frozen=True)
class Home:
    """A coordinator's folder, its settings, and the paths of its files."""

    folder: Path
    file: CoordinatorFile

    @property
    def state(self) -> Path:
        """The state folder: everything that must outlive the process."""
        return self.folder / "state"

    ca_certificate = _InState("ca.pem")
    """The authority's certificate, PEM."""
    ca_key = _InState("ca.key")
    """The authority's key, PEM; secret."""
    server_certificate = _InState("server.pem")
    """The certificate of the public address, PEM."""
    server_key = _InState("server.key")
    """Its key, PEM; secret."""
    loopback_certificate = _InState("loopback.pem")
    """SuperLink's certificate, for 127.0.0.1 and localhost, PEM."""
    loopback_key = _InState("loopback.key")
    """Its key, PEM; secret."""
    signing_key = _InState("signing.key")
    """Ed25519, 32 bytes; secret."""
    guard_secret = _InState("guard.secret")
    """64 hexadecimal digits that give control of SuperLink; SuperExec's follow them; secret."""
    operators = _InState("operators")
    """Certificates of the admitted operators, one file each."""
    notices_socket = _InState("notices.sock")
    """The socket over which the gateway and the studies' processes notify each other."""
    studies = _InState("studies")
    """A folder for each study."""

    @property
    def control_socket(self) -> Path:
        """The control service's Unix socket."""
        return self.folder / self.file.control.socket

    @property
    def store_url(self) -> str:
        """The store's URL, with a relative SQLite file made absolute. It may contain a password."""
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
    """The settings file that ``init`` writes, with a comment on each.

    Args:
        name: of the coordinator.
        address: under which sites reach it.

    Raises:
        CoordinatorError: one of them cannot be used.
    """
    try:
        # Only to check name and address: the template has the real port.
        section = CoordinatorSection(name=name, address=address, listen="0.0.0.0:0")
    except ValidationError as cause:
        faults = [(each["loc"][0], each["input"], each["msg"]) for each in cause.errors()]
        raise CoordinatorError(
            "this name or address cannot be used for a coordinator",
            found="\n".join(
                f"{name} {value!r} {why.removeprefix('Value error, ')}"
                for name, value, why in faults
            ),
            wanted="a name of lower-case letters, digits and hyphens, and host:port",
            remedy="for example: consilium-coordinator init radiology --address "
            "consilium.example.org:8443",
        ) from cause
    host, port = split_address(section.address)
    # An IPv4 listener would never be reached under an IPv6 address. Not always "[::]": a machine
    # without IPv6 cannot listen there.
    anywhere = "[::]" if ":" in host else "0.0.0.0"  # noqa: S104 - sites are on other machines
    return _TEMPLATE.format(
        name=section.name, address=section.address, port=port, anywhere=anywhere
    )
