"""How much memory, CPU and GPU a process of the daemon may use, and what ends it.

Threads are not set here: results depend on them, so they are part of the numerics record. The
GPU is chosen by ``CUDA_VISIBLE_DEVICES``, which is read when the process starts.

*The limit of memory beside a card.* Linux counts all private writable memory against the limit
(``RLIMIT_DATA``, setrlimit(2)). The driver maps such memory for its own use when a process first
uses the card, as much as card and driver ask for. It is not the site's to lower, so what is there
when the card's memory has been taken is counted beside the limit
(:meth:`ProcessLimits.apply`). Addresses that the driver only reserves, without the right to write,
and the card's memory do not count at all.
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

EXIT_MEMORY: Final = 77
"""Exit code of a process that passed its memory limit."""
EXIT_UNUSABLE: Final = 78
"""Exit code of a process that cannot use the site's files; the log says why."""
EXIT_CARD: Final = 79
"""Exit code of a process that can no longer compute on its card."""
_NO_MEMORY: Final = ("can't allocate memory", "out of memory", "bad_alloc", "Cannot allocate")


class MemoryLimit(BaseException):
    """An allocation passed the worker's memory limit; the process ends and says so."""


class CardFailure(BaseException):
    """The card fails at all that this process asks of it; the process ends and says so."""


@dataclass(frozen=True)
class ProcessLimits:
    """What ``[device]`` allows the worker.

    Attributes:
        nice: CPU priority: 0 normal, 19 lowest.
        memory_mib: of private memory, for each process, beside what a card's driver takes of it;
            None for no limit.
        gpu: which card, by its number or UUID (``nvidia-smi -L``); None for none.
    """

    nice: int = 0
    memory_mib: int | None = None
    gpu: int | str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What the process must find in its environment when it starts."""
        return {
            "CUDA_VISIBLE_DEVICES": "" if self.gpu is None else str(self.gpu),
            # Else CUDA counts the fastest card first, and nvidia-smi by the bus: other numbers.
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }

    def apply(self, beside: int = 0) -> None:
        """Bind the calling process, and all that it will start.

        Args:
            beside: bytes of private memory that do not count.
        """
        if self.nice:
            with contextlib.suppress(PermissionError):  # its priority is lower already
                os.setpriority(os.PRIO_PROCESS, 0, self.nice)
        if self.memory_mib is not None:
            limit = self.memory_mib * 2**20 + beside
            # RLIMIT_DATA, not RLIMIT_AS: mapped images are address space, and no private memory.
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def private_memory() -> int:
    """Bytes that count against the limit now (proc(5), ``statm``)."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * resource.getpagesize()


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory was refused: Python's, NumPy's, torch's on any device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # On the CPU torch raises a plain RuntimeError: its words are all there is.
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def require_memory(error: BaseException) -> None:
    """In a process with a memory limit, end the work where it was memory that failed.

    A site that lacks memory does not answer with a code: the worker is started again, and
    the administrator is told what to change.

    Raises:
        MemoryLimit: the error says that memory was refused, and there is a limit.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY and exhausted(error):
        raise MemoryLimit from error
