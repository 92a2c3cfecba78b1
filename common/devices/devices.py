"""Every device that a plan may name: a closed list."""

from __future__ import annotations

from typing import Final

from common.devices.cpu import CPU
from common.devices.cuda import Cuda
from common.devices.device import Device, DeviceName

DEVICES: Final[dict[DeviceName, Device]] = {"cpu": CPU, "cuda": Cuda()}
