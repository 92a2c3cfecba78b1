"""A card that the site file names is looked for before a site serves or an archive is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from client import device_check
from client.device_check import EXIT_UNUSABLE, look, require_device
from client.sitefile import SiteFile, load_site_file
from common.devices.cpu import Cpu
from common.devices.device import Card
from common.devices.devices import DEVICES
from common.errors import SiteError
from tests.client.daemon.process import command
from tests.client.site_fixtures import Hospital

CARD = Card(name="A Card", multiprocessors=4, mig="none", driver="1", cuda="13", cudnn="9")
absent = pytest.mark.skipif(torch.cuda.is_available(), reason="a graphics card is at hand")


def site_file(tmp_path: Path, **device: object) -> SiteFile:
    hospital = Hospital(tmp_path / "north", device=device, patients={"P00": 1})
    hospital.open().close()
    return load_site_file(hospital.folder / "site.toml")


class Fake(Cpu):
    """A card of one MiB."""

    def require(self, memory: int) -> None:
        if memory > 2**20:
            raise SiteError("it is too small", where="here", found=1, wanted=2, remedy="lower it")

    def memory(self) -> int:  # type: ignore[override] # as below
        return 2**20

    def card(self) -> Card:  # type: ignore[override] # the processor has none
        return CARD


def test_without_a_card_in_the_site_file_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_check, "subprocess", None)
    assert require_device(site_file(tmp_path)) is None


def test_what_is_found_is_said_or_the_error_with_all_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DEVICES, "cuda", Fake())
    assert look(2**20) == (0, {"card": str(CARD), "memory": 2**20})
    code, told = look(2**21)
    assert code == EXIT_UNUSABLE
    assert told == {
        "what": "it is too small",
        "details": {"where": "here", "found": "1", "wanted": "2", "do": "lower it"},
    }


@absent
def test_another_process_asks_and_its_error_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="graphics card") as caught:
        require_device(site_file(tmp_path, gpu=0))
    assert caught.value.details["where"] == "[device] gpu"
    assert "remove the line gpu" in caught.value.details["do"]


@pytest.mark.parametrize("approval", ["ask", "automatic"])
def test_a_person_s_approval_needs_the_memory_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, approval: str
) -> None:
    """The worker keeps its share while the study is tried beside it."""
    whole = json.dumps({"card": "A Card", "memory": 5000 * 2**20})
    done = subprocess.CompletedProcess([], 0, whole)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    file = site_file(tmp_path, gpu=0, memory_mib=1477)
    policy = file.policy.model_copy(update={"approval": approval})
    file = file.model_copy(update={"policy": policy})
    if approval == "automatic":
        assert require_device(file) == "A Card"
        return
    with pytest.raises(SiteError, match="too little memory to try a study") as caught:
        require_device(file)
    assert caught.value.details["found"] == "memory_mib = 1477 on a card of 5000 MiB"
    assert caught.value.details["wanted"].startswith("at most 1476 MiB, which is half of the card")
    assert caught.value.details["do"].startswith("write memory_mib = 1476 or less, or ")
    enough = file.device.model_copy(update={"memory_mib": 1476})
    assert require_device(file.model_copy(update={"device": enough})) == "A Card"


def test_on_a_card_that_has_no_room_for_two_no_number_is_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.dumps({"card": "A Card", "memory": 2000 * 2**20})
    done = subprocess.CompletedProcess([], 0, told)
    file = site_file(tmp_path, gpu=0, memory_mib=16)
    asks = file.policy.model_copy(update={"approval": "ask"})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SiteError, match="too little memory to try a study") as caught:
        require_device(file.model_copy(update={"policy": asks}))
    assert caught.value.details["do"].startswith("name a card with more memory, or let the policy")


def test_a_process_that_could_not_even_ask_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = site_file(tmp_path, gpu=0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SiteError, match="could not be asked") as caught:
        require_device(file)
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
