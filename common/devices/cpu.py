"""The processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from common.devices.device import Device, Layout, order_of

if TYPE_CHECKING:
    from torch import Tensor, nn


class Cpu(Device):
    """The processor, by torch's own threads."""

    layouts: ClassVar[tuple[Layout, ...]] = ("contiguous", "channels_last")
    tried_work: ClassVar[int] = 2**36
    is_apart: ClassVar[bool] = False

    def capability(self) -> str:
        """The vector instructions that torch chose."""
        import torch

        from common.process import denormals  # noqa: F401 - before anything is computed

        return f"torch {torch.backends.cpu.get_cpu_capability()}"

    def card(self) -> None:
        """None: what of the processor decides bits is in every record."""

    def require(self, memory: int) -> None:
        """Nothing: it is there, and the site file's number is the bound."""

    def memory(self) -> None:
        """None: other programs share it."""

    def release(self) -> None:
        """Nothing: memory goes back by itself."""

    def hold(self, memory: int) -> None:
        """Nothing: a step over a whole tile is tried before any patient is read."""

    def set_threads(self, threads: int) -> None:
        """Threads within an operation, each of which counts numbers near zero as zero."""
        from common.process import denormals

        denormals.set_threads(threads)

    def repeat(self, threads: int) -> None:
        """Fixed threads, deterministic kernels, and no numbers near zero."""
        import torch

        from common.process.denormals import require_flushed

        # A sum over other numbers of threads adds up in another order, and rounds otherwise.
        self.set_threads(threads)
        torch.use_deterministic_algorithms(mode=True)
        require_flushed()

    def place(self, model: nn.Module, layout: Layout) -> nn.Module:
        """Its weights in the layout; no shape changes."""
        placed: nn.Module = model.to(device="cpu", memory_format=order_of(layout))  # type: ignore[call-overload] # typed for 4-D tensors alone
        return placed

    def move(self, tensor: Tensor) -> Tensor:
        """Itself, where it is in the processor's memory already."""
        return tensor.cpu()

    def finish(self) -> None:
        """Nothing: an operation returns when it is done."""


CPU = Cpu()
"""The one: it has noise and weights in hand whatever else computes."""
