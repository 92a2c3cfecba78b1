"""The tasks that there are: a closed list, which a hospital can review."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from common.errors import StudyError
from common.tasks.classification import Classification
from common.tasks.regression import Regression
from common.tasks.segmentation import Segmentation
from common.tasks.task import TargetForm, Task

TASKS: Final[tuple[type[Task], ...]] = (Classification, Segmentation, Regression)
KINDS: Final = tuple(str(task.model_fields["kind"].default) for task in TASKS)
"""What they are called in a study file."""
FIRST: Final = KINDS[0]
"""What a study learns that does not say what."""


def kinds(form: TargetForm) -> list[str]:
    """The tasks whose targets have a form."""
    return [kind for kind, task in zip(KINDS, TASKS, strict=True) if task.target == form]


def _with_kind(given: Any) -> Any:  # noqa: ANN401 - whatever the file holds
    return {"kind": FIRST} | given if isinstance(given, dict) else given


AnyTask = Annotated[
    Annotated[Classification | Segmentation | Regression, Field(discriminator="kind")],
    BeforeValidator(_with_kind),
]
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
            wanted=FIRST,
            remedy="use a study that classifies",
        )
    return task
