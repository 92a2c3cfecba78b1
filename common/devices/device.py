"""What every device is: where models and images are, how its bits repeat, what a record says of it.

No torch at import: a plan names a device, and is read where nothing is computed. Noise and the
steps of the weights are not a device's: they are computed on the processor in any case.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

DeviceName = Literal["cpu"]
"""Every device that a plan may name: a closed list, as :data:`common.devices.devices.DEVICES`."""
Layout = Literal["contiguous", "channels_last"]
"""How images lie in memory: channel by channel, or pixel by pixel."""


class Device(ABC):
    """A kind of device.

    Attributes:
        layouts: that are worth timing, the one for whatever is no image first.
    """

    layouts: ClassVar[tuple[Layout, ...]]

    @abstractmethod
    def capability(self) -> str:
        """What of the device decides bits, for the numerics record."""

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
        """A tensor's numbers on the device; the same tensor where it is there."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until all is computed that was asked for: a time is taken after that."""


def order_of(layout: Layout) -> Any:  # noqa: ANN401 - torch.memory_format is not a type
    """The layout by torch's own name."""
    import torch

    return torch.channels_last if layout == "channels_last" else torch.contiguous_format
