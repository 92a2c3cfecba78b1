"""A coordinator's home: its settings, and where everything lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import CoordinatorError
from server.daemon.settings import FILE, CoordinatorFile, Home, load_home, new_file

SHORT = '[coordinator]\nname = "c"\naddress = "example.org:8443"\nlisten = "127.0.0.1:0"\n'


def home(folder: Path, text: str) -> Home:
    (folder / FILE).write_text(text)
    return load_home(folder)


def test_what_init_writes_can_be_read_and_says_the_defaults(tmp_path: Path) -> None:
    written = home(tmp_path, new_file("radiology", "Consilium.example.org:8443")).file

    assert written.coordinator.name == "radiology"
    assert written.coordinator.address == "consilium.example.org:8443"
    assert written.coordinator.listen == "0.0.0.0:8443"
    assert written == CoordinatorFile(coordinator=written.coordinator)


@pytest.mark.parametrize(
    ("name", "address"), [("Radiology!", "a.org:1"), ("r", "a.org"), ("r", "a.org:0"), ("r", "")]
)
def test_a_name_or_address_that_cannot_be_used_is_refused(name: str, address: str) -> None:
    with pytest.raises(CoordinatorError, match="host:port"):
        new_file(name, address)


def test_a_folder_without_a_coordinator_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CoordinatorError, match="consilium-coordinator init"):
        load_home(tmp_path)


@pytest.mark.parametrize(
    ("address", "says"),
    [("0.0.0.0:1", "one machine"), ("::1:1", "in brackets"), ("my host:1", "letters, digits")],
)
def test_init_says_what_is_wrong_with_an_address(address: str, says: str) -> None:
    with pytest.raises(CoordinatorError) as caught:
        new_file("r", address)
    assert says in caught.value.details["found"]


def test_a_coordinator_with_an_ipv6_address_listens_for_ipv6(tmp_path: Path) -> None:
    written = home(tmp_path, new_file("radiology", "[2001:DB8::7]:8443")).file.coordinator

    assert (written.address, written.listen) == ("[2001:db8::7]:8443", "[::]:8443")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("[limit]\n", "did you mean limits?"),
        ("[limits]\nconnections = 0\n", "limits.connections = 0"),
        ('[control]\nlisten = "9094"\n', "control.listen = '9094'"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, more: str, says: str) -> None:
    with pytest.raises(CoordinatorError) as caught:
        home(tmp_path, SHORT + more)
    assert says in caught.value.details["found"]


def test_paths_start_at_the_home_wherever_the_process_stands(tmp_path: Path) -> None:
    found = home(tmp_path, SHORT)

    assert found.control_socket == tmp_path / "state" / "control.sock"
    assert found.studies == tmp_path / "state" / "studies"
    assert found.store_url == f"sqlite:///{tmp_path}/state/coordinator.sqlite"


@pytest.mark.parametrize("url", ["sqlite:////data/store.sqlite", "postgresql+psycopg://u@h/db"])
def test_an_absolute_store_stays_where_it_is(tmp_path: Path, url: str) -> None:
    assert home(tmp_path, f'{SHORT}[store]\nurl = "{url}"\n').store_url == url


def test_a_password_in_the_url_is_not_shown(tmp_path: Path) -> None:
    url = "postgresql+psycopg://consilium:hidden@db/consilium"
    assert "hidden" not in repr(home(tmp_path, f'{SHORT}[store]\nurl = "{url}"\n'))
