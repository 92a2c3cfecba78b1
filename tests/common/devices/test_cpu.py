"""The processor as a device: what it places stays what it was, and its bits repeat."""

from __future__ import annotations

from typing import get_args

import torch
from torch import nn

from common.devices.cpu import CPU
from common.devices.device import DeviceName, Layout
from common.devices.devices import DEVICES


def test_every_device_that_a_plan_may_name_is_there() -> None:
    assert set(DEVICES) == set(get_args(DeviceName))
    for device in DEVICES.values():
        assert set(device.layouts) <= set(get_args(Layout))


def test_placing_a_model_changes_its_order_in_memory_and_no_number() -> None:
    for layout in CPU.layouts:
        model = nn.Conv2d(3, 4, 3)
        before = model.weight.clone()
        placed = CPU.place(model, layout)
        assert placed is model
        assert torch.equal(model.weight, before)
        last = model.weight.is_contiguous(memory_format=torch.channels_last)
        assert last == (layout == "channels_last")


def test_a_tensor_that_is_there_is_not_copied() -> None:
    tensor = torch.ones(2)
    assert CPU.move(tensor) is tensor


def test_it_says_which_instructions_it_has() -> None:
    assert CPU.capability() == f"torch {torch.backends.cpu.get_cpu_capability()}"
