"""What every device is: where models and images are, how its bits repeat, what a record says of it.

No torch at import: a plan names a device, and is read where nothing is computed. Noise and the
steps of the weights are not a device's: they are computed on the processor in any case.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field

from common.errors import SiteError
from common.settings import Section
from common.text import Words

if TYPE_CHECKING:
    from torch import Tensor, nn

DeviceName = Literal["cpu", "cuda"]
"""Every device that a plan may name: a closed list, as :data:`common.devices.devices.DEVICES`."""
Layout = Literal["contiguous", "channels_last"]
"""How images lie in memory: channel by channel, or pixel by pixel."""
PROBE: Final = 64
"""Rows of the product by which a device shows that it computes."""
Precision = Literal["float32", "bfloat16"]
"""The type of activations. Weights, weight gradients, norms and sums never have fewer bits than
float32."""


class Card(Section):
    """A graphics card as it decides bits: another one may round otherwise.

    Attributes:
        name: as the driver calls it.
        multiprocessors: how many it has; libraries divide a sum among them.
        mig: profile of the slice of a card that is divided (Multi-Instance GPU), or ``none``.
        driver: version of the NVIDIA driver.
        cuda: version of CUDA that torch was built with.
        cudnn: version of cuDNN.
    """

    name: Words
    multiprocessors: int = Field(ge=1)
    mig: Words
    driver: Words
    cuda: Words
    cudnn: Words

    def __str__(self) -> str:
        """In one line, as an error shows it."""
        return (
            f"{self.name}, {self.multiprocessors} multiprocessors, MIG {self.mig}, "
            f"driver {self.driver}, CUDA {self.cuda}, cuDNN {self.cudnn}"
        )


class Device(ABC):
    """A kind of device.

    Attributes:
        layouts: that are worth timing, the one for whatever is no image first.
        tried_work: floating-point operations of a step that is tried for an offer, of which nobody
            has approved: a few seconds, and a trial is some ten steps.
        is_apart: whether it computes beside the processor, so that an operation returns before it
            is done and the processor can prepare what comes next.
    """

    layouts: ClassVar[tuple[Layout, ...]]
    tried_work: ClassVar[int]
    is_apart: ClassVar[bool]

    @abstractmethod
    def card(self) -> Card | None:
        """The graphics card, for the numerics record; None for the processor.

        Raises:
            SiteError: there is none.
        """

    @abstractmethod
    def require(self, memory: int) -> None:
        """Refuse a device that is not there, that cannot compute, or has less memory.

        Every request that is to be paid for passes here first, so a device that failed costs
        nobody anything. From now on this process takes no more than so many bytes of it.

        Raises:
            SiteError: says what to write into the site file instead.
        """

    @abstractmethod
    def memory(self) -> int | None:
        """Bytes that it has in all, whoever uses them; None where the site file's number is all.

        Raises:
            SiteError: it is not there.
        """

    @abstractmethod
    def release(self) -> None:
        """Give back what this process took and does not use now."""

    @abstractmethod
    def hold(self, memory: int) -> None:
        """Take so many bytes for this process, unless it has them: before any round.

        Raises:
            SiteError: as :meth:`require`, or other programs have taken them.
        """

    @abstractmethod
    def set_threads(self, threads: int) -> None:
        """Compute with so many threads from now on; before anything is measured."""

    @abstractmethod
    def repeat(self, threads: int) -> None:
        """Compute the same bits each time from now on.

        Raises:
            SiteError: that cannot be had here.
        """

    @abstractmethod
    def place(self, model: nn.Module, layout: Layout) -> nn.Module:
        """The same model on the device, its weights as images lie in memory."""

    @abstractmethod
    def move(self, tensor: Tensor) -> Tensor:
        """A tensor's numbers on the device; the same tensor where it is there.

        The tensor that is given must not be changed afterwards: the copy may not be done yet.
        """

    @abstractmethod
    def finish(self) -> None:
        """Wait until all is computed that was asked for: a time is taken after that."""

    def require_computing(self) -> None:
        """Refuse a device on which a small product is not the processor's, or that gives none.

        Raises:
            SiteError: with what it gave instead.
        """
        if not self.is_apart:
            return
        import torch

        # Small whole numbers: their product is exact in any order and in any type.
        numbers = torch.arange(PROBE * PROBE).remainder(17).sub(8).float().view(PROBE, PROBE)
        try:
            there = self.move(numbers)
            alike = torch.equal((there @ there.mT).cpu(), numbers @ numbers.mT)
        except RuntimeError as error:  # whatever the driver and its libraries say
            raise failed(error) from error
        if not alike:
            raise failed(None)

    def let_go(self, error: BaseException) -> None:
        """Free what the frames of an error hold, such as tensors; they are still told."""
        seen: BaseException | None = error
        while seen is not None:
            clear_frames(seen.__traceback__)
            seen = seen.__cause__ or seen.__context__
        gc.collect()  # hooks and the frames that they close over refer to each other

    def is_lost(self) -> bool:
        """Whether it fails at all that this process asks of it: another process may use it again.

        After some errors (an assert in a kernel, an illegal access, memory that cannot be
        corrected) a driver answers whatever a process asks with the same error, until it ends.
        """
        try:
            self.require_computing()
        except SiteError as error:
            import torch

            return not isinstance(error.__cause__, torch.OutOfMemoryError)
        return False


def failed(error: BaseException | None) -> SiteError:
    """The error of a device that is there and does not compute.

    Args:
        error: what its driver said; None where it computed, and wrongly.
    """
    said = "another product than the processor's, of the same numbers"
    if error is not None:
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return SiteError(
        "the graphics card (GPU) is there, but it does not compute",
        where="[device] gpu",
        found=said,
        wanted="a small product, as the processor computes it",
        remedy="see what nvidia-smi -q and the system log (dmesg, lines with Xid) say of the card. "
        "End other programs that use it, restart the machine or update the driver; if it stays, "
        "name another card, or remove the line gpu to compute on the processor",
    )


def order_of(layout: Layout) -> Any:  # noqa: ANN401 - torch.memory_format is not a type
    """The layout by torch's own name."""
    import torch

    return torch.channels_last if layout == "channels_last" else torch.contiguous_format
