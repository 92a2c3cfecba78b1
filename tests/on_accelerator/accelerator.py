"""An accelerator that is not the processor: computes on it, and refuses to meet its tensors.

torch lets a device be registered in Python. Its tensors hold one of the processor's, which nothing
else can reach: an operation on tensors of both kinds is an error, as on a graphics card. As there,
a number without dimensions may come from the processor; ``copy_`` and ``to`` take tensors across.

In tests it is the device ``cuda`` (fixture ``accelerator``), so that a site file names it with
``gpu`` and a plan by ``cuda``. Registering a device cannot be undone, comes before autograd's first
pass, and makes a process unfit to be forked: so these tests have processes of their own
(``tests/test_on_accelerator.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils import _pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from common.devices.cpu import CPU
from common.devices.device import Card, Device, Layout, order_of
from common.errors import SiteError

NAME = "testcard"
"""torch's name of it."""
_setup_privateuseone_for_python_backend(NAME)
# Checkpointing asks which types autocast, which nobody uses here, could have.
vars(getattr(torch, NAME))["get_amp_supported_dtype"] = lambda: [torch.bfloat16]
# Else a module that is moved keeps its tensors and changes what torch knows of them, not ``held``.
torch.__future__.set_overwrite_module_params_on_conversion(True)
HERE = torch.device(NAME, 0)
HOST = torch.device("cpu")
MIB = 2**20
FAULTS: dict[Any, Callable[..., Any]] = {}
"""What an operation does on the accelerator instead of what torch does: by operation, empty but in
a test of a card that computes wrongly."""
_ACROSS = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class MixedDevicesError(RuntimeError):
    """An operation on tensors of the processor and of the accelerator."""


class Resident(torch.Tensor):
    """A tensor on the accelerator.

    Attributes:
        held: the same numbers, where the processor can compute with them.
    """

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment] # torch's own way

    @staticmethod
    def __new__(cls: type[Resident], held: torch.Tensor) -> Resident:
        found: Resident = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=HERE,
        )
        found.held = held
        return found

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __deepcopy__(self, memo: dict[int, object]) -> torch.Tensor:
        found = Resident(self.held.clone())
        copied = (
            nn.Parameter(found, self.requires_grad) if isinstance(self, nn.Parameter) else found
        )
        memo[id(self)] = copied
        return copied

    def __repr__(self, **_: object) -> str:  # type: ignore[override] # torch's takes contents
        return f"Resident({self.held!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override] # torch's type is of an instance's method
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation gives, back on the device that it should be on."""
    leaves, form = _pytree.tree_flatten((args, kwargs))
    wrapped = {id(each.held): each for each in leaves if isinstance(each, Resident)}

    def held(value: Any) -> Any:
        if isinstance(value, Resident):
            return value.held
        if isinstance(value, torch.Tensor) and value.dim() and func not in _ACROSS:
            raise MixedDevicesError(f"{func} meets a tensor of the processor, {tuple(value.shape)}")
        return HOST if isinstance(value, torch.device) else value

    places, named = _pytree.tree_unflatten([held(each) for each in leaves], form)
    to_host = kwargs.get("device") == HOST
    if to_host or (func is _ACROSS[0] and not isinstance(args[0], Resident)):
        # To the processor: never the very tensor that is held, which would be a way around.
        found = func(*places, **named)
        return found.clone() if to_host and id(found) in wrapped else found
    found = FAULTS.get(func, func)(
        *places, **named | ({"pin_memory": False} if "pin_memory" in named else {})
    )

    def back(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return wrapped[id(value)] if id(value) in wrapped else Resident(value)

    return _pytree.tree_map(back, found)


def _empty(
    size: list[int],
    *,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
    **_: object,
) -> torch.Tensor:
    order = memory_format or torch.contiguous_format
    return Resident(torch.empty(size, dtype=dtype, memory_format=order))


def _empty_strided(
    size: list[int], stride: list[int], *, dtype: torch.dtype | None = None, **_: object
) -> torch.Tensor:
    return Resident(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(
    source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False
) -> torch.Tensor:
    """How ``torch.tensor`` with a device takes its numbers across."""
    del non_blocking
    ours, theirs = (each.held if isinstance(each, Resident) else each for each in (target, source))
    ours.copy_(theirs)
    return target


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


class Accelerator(Device):
    """The accelerator as a device of a plan.

    Args:
        memory: in bytes, of which nobody else takes any.
        name: of the card, in the numerics record.

    Attributes:
        done: how often it was asked for what.
    """

    layouts: ClassVar[tuple[Layout, ...]] = ("contiguous", "channels_last")
    tried_work: ClassVar[int] = 2**41
    is_apart: ClassVar[bool] = True

    def __init__(self, memory: int = 2**34, name: str = "Test Card") -> None:
        self.size, self.name = memory, name
        self.done: Counter[str] = Counter()

    def card(self) -> Card:
        return Card(
            name=self.name,
            multiprocessors=4,
            mig="none",
            driver="1.2",
            cuda="13.0",
            cudnn="91900",
        )

    def require(self, memory: int) -> None:
        if memory > self.size:
            raise SiteError(
                "the graphics card (GPU) has less memory than the site file says",
                where="[device] memory_mib",
                found=f"{self.size // MIB} MiB in all",
                wanted=f"{memory // MIB} MiB",
            )
        self.require_computing()

    def memory(self) -> int:
        return self.size

    def release(self) -> None:
        self.done["release"] += 1

    def hold(self, memory: int) -> None:
        self.require(memory)
        self.done["hold"] += 1

    def set_threads(self, threads: int) -> None:
        CPU.set_threads(threads)

    def repeat(self, threads: int) -> None:
        CPU.repeat(threads)
        self.done["repeat"] += 1

    def place(self, model: nn.Module, layout: Layout) -> nn.Module:
        self.done["place"] += 1
        placed: nn.Module = model.to(device=HERE, memory_format=order_of(layout))  # type: ignore[call-overload] # typed for 4-D tensors alone
        return placed

    def move(self, tensor: torch.Tensor) -> torch.Tensor:
        self.done["move"] += 1
        return tensor.to(HERE)

    def finish(self) -> None:
        self.done["finish"] += 1
