"""A graphics card of NVIDIA's, by CUDA.

The process sees the card that the site file names and no other (``CUDA_VISIBLE_DEVICES``,
:mod:`client.process_limits`), so that here it is always the first one.

*The same bits each time.* Algorithms are pinned: none that adds in whatever order threads arrive
(``use_deterministic_algorithms``), none that is chosen by timing (cuDNN's benchmark), the workspace
of cuBLAS fixed (https://docs.nvidia.com/cuda/cublas/, "Results reproducibility"). Float32 is
multiplied as float32: TF32 keeps 10 bits of 23, and sums of bfloat16 products stay float32. Another
card may choose other kernels, so the card is part of the record.

*Memory is fixed before a round.* :meth:`Cuda.hold` takes all that the site file gives, and torch
may take no more. Copies to the card (:class:`Staging`) are asked for on the stream that computes:
torch keeps free memory for each stream by itself, so a stream of their own would take memory beside
what is held, and more of it the farther the processor is ahead. On one stream, memory is free again
for the next tile in the order of the stream. A copy then does not run beside a kernel, which costs
little: a tile's pixels are some MiB. What takes long, reading the next tile's pixels on the
processor, still runs while the card computes. The pinned memory is a ring of :data:`SLOTS` buffers
as large as the largest tensor. Before one is used again its last copy is waited for, which keeps
the processor from running more than two tiles ahead. None of it depends on how many patients are
drawn.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

from common.devices.cpu import CPU
from common.devices.device import Card, Device, Layout, failed, order_of
from common.errors import SiteError

if TYPE_CHECKING:
    from torch import Tensor, nn

HERE: Final = "cuda:0"
MIB: Final = 2**20
ENVIRONMENT: Final = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "CUBLAS_EMULATE_DOUBLE_PRECISION": "0",
    "CUBLAS_EMULATE_SINGLE_PRECISION": "0",
    "NVIDIA_TF32_OVERRIDE": "0",
}
"""Read by NVIDIA's libraries when they are first used: one workspace for cuBLAS, no float64 or
float32 that is put together from shorter numbers, and TF32 nowhere, also where a library asks."""
CONTEXT: Final = 1024 * MIB
"""Of the card, at most, that CUDA and its libraries take for themselves in each process."""
SLOTS: Final = 4
"""Pinned buffers: one more than the tensors of a tile (targets, pixels, draws), so that a tile
waits for none of its own copies."""
_SEGMENT: Final = 2 * MIB
_LEAST: Final = 32 * MIB
_SMALL: Final = 16
"""torch takes memory for tensors of up to 1 MiB in segments of 2 MiB, and keeps it apart from that
for larger ones, in multiples of 2 MiB. One part in so many of what is held is for them."""
NVML: Final = "libnvidia-ml.so.1"
_INSTEAD: Final = (
    "write the number or the UUID of a card that nvidia-smi -L lists, for example gpu = 0, or "
    "remove the line gpu to compute on the processor"
)


class Cuda(Device):
    """The card that this process was given."""

    layouts: ClassVar[tuple[Layout, ...]] = ("contiguous", "channels_last")
    tried_work: ClassVar[int] = 2**41
    is_apart: ClassVar[bool] = True

    def card(self) -> Card:
        """What of it decides bits."""
        _require_there()
        return described()

    def require(self, memory: int) -> None:
        """The card is there and computes, and has that much memory in all, whoever uses it now."""
        _require_there()
        with _in_words():
            whole = self.memory()
            if memory > whole:
                raise _too_small("in all", memory, whole)
            self.require_computing()
            import torch

            # A MiB more: the bound is a share of the card, which is rounded.
            torch.cuda.set_per_process_memory_fraction(min(1.0, (memory + MIB) / whole), 0)

    def memory(self) -> int:
        """Of the card, or of the slice of one."""
        _require_there()
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory)

    def release(self) -> None:
        """To the driver, where another process finds it; CUDA's own share stays until the end."""
        torch = sys.modules.get("torch")  # a process that has not loaded it took nothing
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def hold(self, memory: int) -> None:
        """Take the memory from the driver and keep it for torch: so a round finds it free."""
        self.require(memory)
        import torch

        _pin()
        # With what this process took before: a second study needs no second share.
        missing = memory - torch.cuda.memory_reserved(0)
        missing -= missing % _SEGMENT
        if missing < _LEAST:
            return
        small = missing // _SMALL
        small -= small % _SEGMENT
        pieces = [missing - small, *[MIB] * (small // MIB)]
        free = 0
        try:
            with _in_words():
                free, _ = torch.cuda.mem_get_info(0)
                # Freed at once: torch keeps the memory, and hands parts of it to what comes next.
                _ = [torch.empty(each, dtype=torch.uint8, device=HERE) for each in pieces]
        except torch.OutOfMemoryError as error:
            raise _too_small("free", memory, memory - missing + free) from error

    def is_lost(self) -> bool:
        """Never before this process has used it: else the question would take memory of it."""
        torch = sys.modules.get("torch")
        return torch is not None and torch.cuda.is_initialized() and super().is_lost()

    def set_threads(self, threads: int) -> None:
        """Of the processor, which prepares batches and noise; the card's algorithms are pinned."""
        CPU.set_threads(threads)
        _pin()

    def repeat(self, threads: int) -> None:
        """As the processor does, and on the card with pinned algorithms."""
        CPU.repeat(threads)
        _require_there()
        _pin()

    def place(self, model: nn.Module, layout: Layout) -> nn.Module:
        """On the card, its weights in the layout."""
        placed: nn.Module = model.to(device=HERE, memory_format=order_of(layout))  # type: ignore[call-overload] # typed for 4-D tensors alone
        return placed

    def move(self, tensor: Tensor) -> Tensor:
        """By way of pinned memory: the processor goes on while the card still computes."""
        return tensor if tensor.is_cuda else _staging().moved(tensor)

    def finish(self) -> None:
        """Wait for the card."""
        import torch

        torch.cuda.synchronize()


def _pin() -> None:
    """The same algorithms each time, at full precision."""
    # Before the first use of the card: libraries read them once.
    os.environ.update(ENVIRONMENT)
    import torch

    torch.use_deterministic_algorithms(mode=True)
    # Any: not all of the settings are typed.
    convolutions: Any = torch.backends.cudnn
    products: Any = torch.backends.cuda.matmul
    convolutions.benchmark = False
    convolutions.deterministic = True
    convolutions.conv.fp32_precision = "ieee"
    convolutions.rnn.fp32_precision = "ieee"
    products.fp32_precision = "ieee"
    products.allow_bf16_reduced_precision_reduction = False
    products.allow_fp16_reduced_precision_reduction = False
    # Fused attention adds in an order of its own on the way back.
    torch.backends.cuda.enable_flash_sdp(enabled=False)
    torch.backends.cuda.enable_mem_efficient_sdp(enabled=False)
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)


def _require_there() -> None:
    os.environ.update(ENVIRONMENT)
    import torch

    if torch.version.cuda is None:
        raise SiteError(
            "the installed torch cannot compute on a graphics card (GPU)",
            where="[device] gpu",
            found=f"torch {torch.__version__}",
            wanted="the CUDA build of torch, of the same version",
            remedy="install it (docs/site.md, “A graphics card”), or remove the line gpu to "
            "compute on the processor",
        )
    if not torch.cuda.is_available():
        raise SiteError(
            "the graphics card (GPU) that the site file names is not there",
            where="[device] gpu",
            found=f"gpu = {os.environ.get('CUDA_VISIBLE_DEVICES') or 'none'}, which the NVIDIA "
            "driver does not show to this process",
            wanted="a card that nvidia-smi -L lists here, also inside a container",
            remedy=_INSTEAD,
        )


def _too_small(kind: str, memory: int, found: int) -> SiteError:
    there = found // MIB
    return SiteError(
        "the graphics card (GPU) has less memory than the site file says",
        where="[device] memory_mib",
        found=f"{there} MiB {kind}",
        wanted=f"{-(-memory // MIB)} MiB",
        remedy=f"write memory_mib = {there * 9 // 10} or less, end other programs that use the "
        "card (nvidia-smi lists them), or name another card",
    )


@contextmanager
def _in_words() -> Iterator[None]:
    """What CUDA raises as an error that says what to do; but for a lack of memory."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise failed(error) from error


class Staging:
    """Pinned memory, from which alone a copy to the card does not keep the processor waiting.

    A ring of buffers, each as large as the largest tensor so far: the memory follows from that
    alone, so that of a tile in which fewer patients stand takes no more.
    """

    def __init__(self) -> None:
        import torch

        self._buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(SLOTS)]
        # Blocking: a thread that waits for the card leaves the processor to the one for noise.
        self._copied = [torch.cuda.Event(blocking=True) for _ in range(SLOTS)]
        self._turn = 0

    def moved(self, tensor: Tensor) -> Tensor:
        """A copy on the card, of the same layout; may not be done yet."""
        import torch

        if tensor.nbytes > len(self._buffers[0]):
            for copied in self._copied:
                copied.synchronize()
            self._buffers.clear()  # first, so that both are not there at once
            self._buffers += [_pinned(tensor.nbytes) for _ in range(SLOTS)]
        self._turn = (self._turn + 1) % SLOTS
        buffer, copied = self._buffers[self._turn], self._copied[self._turn]
        copied.synchronize()
        there = torch.empty_like(tensor, device=HERE)
        numbers = buffer[: tensor.nbytes].view(tensor.dtype)
        staged = numbers.as_strided(there.shape, there.stride()).copy_(tensor)
        there.copy_(staged, non_blocking=True)
        copied.record()
        return there


def _pinned(size: int) -> Tensor:
    import torch

    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


@lru_cache(maxsize=1)
def _staging() -> Staging:
    """The process's own: one thread computes."""
    return Staging()


@lru_cache(maxsize=1)
def described() -> Card:
    """What of the card decides bits; asked once a process."""
    import torch

    found = torch.cuda.get_device_properties(0)
    return Card(
        name=found.name,
        multiprocessors=found.multi_processor_count,
        mig=profile_of(found.name),
        driver=driver_version(),
        cuda=str(torch.version.cuda),
        cudnn=str(torch.backends.cudnn.version()),
    )


def profile_of(name: str) -> str:
    """The MIG profile in a card's name, such as ``1g.10gb``; ``none`` for a whole card."""
    found = re.search(r"\bMIG (\S+)$", name)
    return found[1] if found else "none"


def driver_version() -> str:
    """The driver's version, by NVIDIA's management library, which comes with the driver.

    Raises:
        SiteError: the library is not there.
    """
    text = ctypes.create_string_buffer(80)
    try:
        library = ctypes.CDLL(NVML)
        failed = library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(text, len(text))
    except (OSError, AttributeError):
        failed = True
    if failed:
        raise SiteError(
            "the version of the NVIDIA driver cannot be read",
            where=NVML,
            wanted="the management library (NVML) of the driver: the agreed numerics name its "
            "version",
            remedy="install the driver completely; in a container, set "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )
    return text.value.decode()
