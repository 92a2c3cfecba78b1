"""The tasks that there are: a closed list, which a hospital can review."""

from __future__ import annotations

from typing import Final

from common.tasks.classification import Classification
from common.tasks.task import Task

TASKS: Final[tuple[type[Task], ...]] = (Classification,)

AnyTask = Classification
"""``[task]`` of a study file."""
