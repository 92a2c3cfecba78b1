"""A small study to change one section of, and a child process to lose."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from pydantic import ValidationError

from common.process.killpoints import VARIABLE
from common.study.study_file import Study
from common.tasks.classification import Classification
from common.tasks.task import Task
from common.tasks.tasks import TASKS
from tests.waiting import PATIENCE

SMALL: dict[str, dict[str, Any]] = {
    "study": {"name": "small", "title": "Hardly anything to learn"},
    "task": {"classes": ["normal", "pneumonia"]},
    "data": {"dataset": "chest-xray", "modalities": ["DX"], "image_size": [8, 8]},
    "model": {"name": "cnn", "widths": [4], "norm": "none", "pooling": "flatten"},
    "training": {"rounds": 3, "local_steps": 2, "batch_size": 5, "learning_rate": 0.5},
    "privacy": {"mode": "patient", "epsilon": 8.0, "delta": 1e-5},
    "evaluation": {"rounds": "last", "bins": 4, "epsilon_share": 0.5},
    "aggregation": {"strategy": "fedavg", "average_decay": 0.0},
}


def document(**sections: dict[str, Any]) -> dict[str, Any]:
    """The small study with some keys of some sections replaced; None leaves a key out.

    Another model, or no privacy, has none of the keys of that section in the small study.
    """
    merged = {name: dict(section) for name, section in SMALL.items()}
    if sections.get("model", {}).get("name") not in (None, SMALL["model"]["name"]):
        merged["model"] = {}
    for name, changes in sections.items():
        section = merged.setdefault(name, {}) | changes
        merged[name] = {key: value for key, value in section.items() if value is not None}
        if changes.get("mode") == "none":
            merged[name] = {"mode": "none"}
    return merged


def small_study(**sections: dict[str, Any]) -> Study:
    """The small study, parsed; see :func:`document`."""
    return Study.model_validate(document(**sections))


DENSE: dict[str, Any] = {"name": "resunet", "widths": [2, 2], "residual_units": 0}
"""The smallest model with numbers for each pixel."""


def task_of(kind: str, **settings: object) -> Task:
    """A task of a kind, from its class alone; so a new task is tried as soon as it is listed.

    Its class must allow for that: every setting of its own but ``classes`` has a default, and
    ``classes`` takes any two words, where it has to be given. What a section needs of the whole
    study (a bound of several numbers, sides that a network can halve) must hold of the small
    study. Everything else follows from the contract: targets from the form, the model from
    the heads, an adversary's settings from the task's own bounds (:func:`settings_of`).
    """
    (task,) = (each for each in TASKS if each.model_fields["kind"].default == kind)
    if task.model_fields["classes"].is_required():
        settings = {"classes": SMALL["task"]["classes"]} | settings
    return task.model_validate({"kind": kind} | settings)


def study_of(kind: str, **sections: dict[str, Any]) -> Study:
    """The small study with a task of a kind and a small model that fits it; see :func:`task_of`."""
    task = task_of(kind, **sections.pop("task", {}))
    sections = dict(sections)
    if task.heads().dense:
        sections["model"] = DENSE | sections.get("model", {})
    return small_study(**sections, task={"classes": None} | task.model_dump(mode="json"))


def settings_of(kind: str, draw: Random) -> dict[str, Any]:
    """Settings at their ends, as an adversary would have them: any that the task's class allows."""
    chosen: dict[str, Any] = {}
    bounds = task_of(kind).bounds

    def take(name: str, value: object) -> bool:
        try:
            task_of(kind, **chosen | {name: value})
        except ValidationError:
            return False
        chosen[name] = value
        return True

    if task_of(kind).classes:
        take("classes", [f"class {number}" for number in range(draw.choice((1, 2, 3, 20)))])
    classes = len(task_of(kind, **chosen).classes)
    for each in bounds:
        ends = [each.least, each.most, *[0.0] * each.zero]
        name = each.place.split(".")[-1]
        if not take(name, draw.choice(ends)):  # one for each class
            take(name, [draw.choice(ends) for _ in range(classes)])
    return chosen


def classification(weights: tuple[float, ...] | None = None, *, classes: int = 2) -> Classification:
    """The task with these class weights, also such as no study may say."""
    task = Classification(classes=tuple(f"class {number}" for number in range(classes)))
    return task.model_copy(update={"class_weights": weights})


def toml(content: dict[str, Any]) -> str:
    """Nested dictionaries of plain values as TOML, for tests of what people write."""
    return "\n".join(f"{key} = {_value(value)}" for key, value in content.items()) + "\n"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_value(key)} = {_value(each)}" for key, each in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        return json.dumps(str(value))  # a JSON string is a TOML string
    return repr(value)


def exit_code(function: Callable[[], object], *, kill_at: str | None = None) -> int | None:
    """Run a function in a child of this process and say how the child ended.

    Args:
        function: what the child does.
        kill_at: the fault point at which it dies.
    """

    def child() -> None:
        torch.set_num_threads(1)  # a fork has none of the threads that torch waits for
        if kill_at is not None:
            os.environ[VARIABLE] = kill_at
        function()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(PATIENCE)
    return process.exitcode
