"""How much memory a process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup/memory.max")
"""What a container may use (cgroup v2); ``max`` where nothing bounds it."""


def memory(cgroup: Path = CGROUP) -> int:
    """Bytes: of the machine, or of the container where that has fewer."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(cgroup.read_text()))
    except (OSError, ValueError):
        return machine
