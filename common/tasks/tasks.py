"""The tasks that there are: a closed list, which a hospital can review."""

from __future__ import annotations

from typing import Final

from common.errors import StudyError
from common.tasks.classification import Classification
from common.tasks.task import Task

TASKS: Final[tuple[type[Task], ...]] = (Classification,)

AnyTask = Classification
"""``[task]`` of a study file."""


def as_classification(task: Task) -> Classification:
    """The task of a tool that is for classification alone.

    Raises:
        StudyError: it is another.
    """
    if not isinstance(task, Classification):
        raise StudyError(
            "this works for classification alone",
            where="[task] kind",
            found=task.kind,
            wanted="classification",
            remedy="use a study that classifies",
        )
    return task
