"""Python files of a researcher, which simulations alone load: a deployment runs no such code.

A file with a strategy has one function, and says whether it wants every hospital's update::

    EVERY_REPLY = False

    def step(round_number, weights, reached, state):
        (mean, count), = reached
        return weights + 0.5 * (mean - weights), state

``weights`` are those before the round, float32 ``(n,)``. ``reached`` are the weights that the
hospitals' mean change leads to, with a count; or those of each hospital, by name, where
``EVERY_REPLY`` is true. It gives the new weights, and arrays by name for the next round's
``state``. The privacy of the patients does not depend on it: what leaves a hospital has its noise
already.

A file with a division: :mod:`simulations.partitions.own`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import StudyError
from common.files import sha256_file
from common.process.logs import place
from common.study.study_file import Study
from server.study.optimisers import OwnStep


def function_of(path: Path, name: str) -> Callable[..., Any]:
    """A function of a Python file.

    Raises:
        StudyError: the file cannot be run, or has no such function.
    """
    return _function(module_of(path), path, name)


def _function(module: Any, path: Path, name: str) -> Callable[..., Any]:  # noqa: ANN401
    found = getattr(module, name, None)
    if not callable(found):
        raise StudyError(
            "the Python file lacks a function",
            where=path,
            found="no such function" if found is None else type(found).__name__,
            wanted=f"a function {name}",
            remedy="see the example in docs/researcher.md (a strategy) or docs/simulations.md "
            "(a division)",
        )
    function: Callable[..., Any] = found
    return function


def module_of(path: Path) -> Any:  # noqa: ANN401 - a module
    """A Python file, run once.

    Raises:
        StudyError: it is missing, or running it failed.
    """
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise StudyError(
            "there is no such Python file", where=path, wanted="a file that ends in .py"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise StudyError(
            "the Python file cannot be run",
            where=path,
            found=f"{type(error).__name__}: {error} ({place(error)})",
            remedy="correct the file; run it with python to see the whole error",
        ) from error
    return module


def own_step(path: Path, study: Study | None = None) -> OwnStep:
    """The strategy of a file.

    Args:
        path: of the file.
        study: that it is for.

    Raises:
        StudyError: the file cannot be run, or has no function ``step``; the study has no rounds.
    """
    if study is not None and study.one_shot:
        raise StudyError(
            "a study of one release has no strategy",
            where=path,
            found='[training] method = "one-shot"',
            wanted="a study of rounds",
            remedy="leave --strategy-file out",
        )
    module = module_of(path)
    step = _function(module, path, "step")
    return OwnStep(step, bool(getattr(module, "EVERY_REPLY", False)), str(path))


def strategy_note(path: Path) -> str:
    """What has to be said beside every figure."""
    return (
        f"OWN STRATEGY: {path.name}, sha256 {sha256_file(path)[:16]}; no deployment can run it, "
        "and the study's own strategy was not used"
    )
