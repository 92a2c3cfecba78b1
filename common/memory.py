"""Memory that is freed stays with the process, so that the next step need not ask for it again.

The C library gives large blocks back to the operating system at once; a training step then
spends up to a third of its time on having the same pages zeroed and mapped again. See
``mallopt(3)``. Nothing that is computed depends on it.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_MAX: Final = -4
_LEAST_GROWTH: Final = 2**26
_LARGEST: Final = 2**31 - 1


def keep_freed() -> bool:
    """Keep freed memory in this process from now on.

    Returns:
        Whether the C library is one that can be told; elsewhere nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST, _TOP_PAD: _LEAST_GROWTH}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])  # noqa: C419 - set every one
