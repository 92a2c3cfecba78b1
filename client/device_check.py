"""Is the site file's graphics card there, sound and large enough? Asked at ``check`` and ``serve``.

In a process of its own, ``python -m client.device_check MEMORY``: which card a process sees is
settled when it starts, and torch, with a card's context, would stay in the one that asks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Final

from client.process_limits import ProcessLimits
from client.sitefile import LEAST_MEMORY_MIB, DeviceSettings, SiteFile
from common.devices.cuda import CONTEXT, MIB
from common.devices.device import DeviceName
from common.devices.devices import DEVICES
from common.documents import read_json
from common.errors import SiteError
from common.process.console import show_json

EXIT_UNUSABLE: Final = 3
"""Exit code of the process that asks; standard output has the error."""
CARD: Final[DeviceName] = "cuda"
_PATIENCE: Final = 300
"""Seconds for a card to answer: a driver that hangs does not."""


def require_device(file: SiteFile) -> str | None:
    """What the card is, in words; None where the processor computes and nothing is to be asked.

    Args:
        file: the site file.

    Raises:
        SiteError: the card is not there, does not compute, or has less memory than the site file
            needs.
    """
    settings = file.device
    if settings.gpu is None:
        return None
    try:
        asked = subprocess.run(  # noqa: S603 - this interpreter, on a module of ours
            [sys.executable, "-m", __name__, str(settings.memory)],
            env=os.environ | ProcessLimits(gpu=settings.gpu).environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired as cause:
        why = f"the process that asked it had no answer after {_PATIENCE} seconds"
        raise _unasked(settings, why) from cause
    if asked.returncode not in {0, EXIT_UNUSABLE}:
        why = f"the process that asked it ended with exit code {asked.returncode}"
        raise _unasked(settings, why)
    # The last line: a library may print what it likes before.
    told = read_json(asked.stdout.strip().rpartition("\n")[2].encode())
    if asked.returncode == EXIT_UNUSABLE:
        details = told["details"]
        raise SiteError(
            told["what"],
            where=details.get("where"),
            found=details.get("found"),
            wanted=details.get("wanted"),
            remedy=details.get("do"),
        )
    if file.policy.approval == "ask":
        _require_room_for_a_trial(settings, told["memory"])
    return str(told["card"])


def _unasked(settings: DeviceSettings, why: str) -> SiteError:
    return SiteError(
        "the graphics card (GPU) of the site file could not be asked",
        where="[device] gpu",
        found=f"gpu = {settings.gpu}; {why}",
        remedy="see the lines above; run nvidia-smi, and restart the machine or update the "
        "driver where it fails too",
    )


def _require_room_for_a_trial(settings: DeviceSettings, whole: int) -> None:
    """A person's approval tries the study in the daemon, beside the worker that holds its share."""
    most = max(0, whole // 2 - CONTEXT) // MIB
    if settings.memory_mib <= most:
        return
    instead = f"write memory_mib = {most} or less, or " if most >= LEAST_MEMORY_MIB else ""
    raise SiteError(
        "the graphics card (GPU) has too little memory to try a study before it is approved",
        where="[device] memory_mib",
        found=f"memory_mib = {settings.memory_mib} on a card of {whole // MIB} MiB",
        wanted=f"at most {most} MiB, which is half of the card but for the {CONTEXT // MIB} MiB of "
        "CUDA itself: a study is tried in one process while the worker, another, keeps its share",
        remedy=f"{instead}name a card with more memory, or let the policy approve by itself: "
        'approval = "automatic"',
    )


def look(memory: int) -> tuple[int, dict[str, Any]]:
    """The exit code and what to show: the card in words and its memory, or the error."""
    device = DEVICES[CARD]
    try:
        device.require(memory)
        return 0, {"card": str(device.card()), "memory": device.memory()}
    except SiteError as error:
        return EXIT_UNUSABLE, {"what": error.what, "details": error.details}


if __name__ == "__main__":
    code, answer = look(int(sys.argv[1]))
    show_json(answer, indent=None)
    sys.exit(code)
