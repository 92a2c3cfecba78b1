"""A card that the site file names is looked for before a site serves or an archive is read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from client import device_check
from client.device_check import EXIT_UNUSABLE, look, require_device
from client.sitefile import DeviceSettings
from common.devices.cpu import Cpu
from common.devices.device import Card
from common.devices.devices import DEVICES
from common.errors import SiteError
from tests.client.daemon.process import command
from tests.client.site_fixtures import Hospital

CARD = Card(name="A Card", multiprocessors=4, mig="none", driver="1", cuda="13", cudnn="9")
absent = pytest.mark.skipif(torch.cuda.is_available(), reason="a graphics card is at hand")


class Fake(Cpu):
    """A card of one MiB."""

    def require(self, memory: int) -> None:
        if memory > 2**20:
            raise SiteError("it is too small", where="here", found=1, wanted=2, remedy="lower it")

    def card(self) -> Card:  # type: ignore[override] # the processor has none
        return CARD


def test_without_a_card_in_the_site_file_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_check, "subprocess", None)
    assert require_device(DeviceSettings()) is None


def test_what_is_found_is_said_or_the_error_with_all_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DEVICES, "cuda", Fake())
    assert look(2**20) == (0, str(CARD))
    code, text = look(2**21)
    assert code == EXIT_UNUSABLE
    told = json.loads(text)
    assert told == {
        "what": "it is too small",
        "details": {"where": "here", "found": "1", "wanted": "2", "do": "lower it"},
    }


@absent
def test_another_process_asks_and_its_error_is_raised_here() -> None:
    with pytest.raises(SiteError, match="graphics card") as caught:
        require_device(DeviceSettings(gpu=0))
    assert caught.value.details["where"] == "[device] gpu"
    assert "remove the line gpu" in caught.value.details["do"]


def test_a_process_that_could_not_even_ask_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SiteError, match="could not be asked") as caught:
        require_device(DeviceSettings(gpu=0))
    assert "exit code 1" in caught.value.details["found"]


@absent
@pytest.mark.parametrize("name", ["check", "serve"])
def test_check_and_serve_say_so_with_what_to_write_instead(tmp_path: Path, name: str) -> None:
    hospital = Hospital(tmp_path / "north", device={"gpu": 0}, seed=None)
    hospital.open().close()
    done = command(hospital.folder / "site.toml", name)
    assert done.returncode == 2
    assert "graphics card" in done.stderr
    assert "remove the line gpu" in done.stderr.replace("\n", " ").replace("          ", "")
