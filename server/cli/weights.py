"""``consilium-coordinator weights``: public starting weights out of a checkpoint of torch's.

A checkpoint is read with torch's own reader for weights alone, which runs no code that a file
holds. What fits a weight of the study's model, by name and by shape, is taken.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import StudyError, of_system
from common.files import write_atomic
from common.models.initial import SUFFIX, Arrays, arrays_of, written
from common.models.networks import sketch
from common.settings import load_document
from common.study.study_file import Study, plain_study

NESTED: Final = ("state_dict", "model_state_dict", "model", "net")
"""Where a checkpoint may keep the weights beside other things."""
PREFIXES: Final = ("module.", "model.", "net.")
"""What wrappers put in front of names."""
TAKEN: Final = "taken"


@dataclass(frozen=True)
class Match:
    """What became of one weight of the study's model.

    Attributes:
        name: of the weight.
        shape: of the weight.
        verdict: :data:`TAKEN`, or why not.
    """

    name: str
    shape: tuple[int, ...]
    verdict: str


def read_checkpoint(path: Path) -> Arrays:
    """The arrays of a file that torch or safetensors wrote.

    Raises:
        StudyError: it cannot be read, or holds more than weights.
    """
    try:
        if path.suffix == SUFFIX:
            return arrays_of(path.read_bytes())
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as cause:
        what = "the checkpoint cannot be read"
        raise of_system(cause, StudyError, what, where=path) from cause
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as cause:
        raise StudyError(
            "the checkpoint cannot be read as weights alone",
            where=path,
            found=str(cause).splitlines()[0][:200] if str(cause) else type(cause).__name__,
            wanted="a state_dict that torch.save wrote, or a safetensors file",
            remedy="where you trust its source, load it in Python and save its state_dict() alone",
        ) from cause
    for key in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    arrays = _arrays(found)
    if not arrays:
        raise StudyError(
            "the checkpoint holds no weights",
            where=path,
            found=type(found).__name__,
            wanted="a dictionary of tensors by name, as state_dict() gives it",
        )
    return arrays


def _arrays(found: Any) -> dict[str, np.ndarray]:  # noqa: ANN401 - whatever the file holds
    tensors = found.items() if isinstance(found, Mapping) else ()
    return {
        str(name): each.detach().to(torch.float32).numpy()
        for name, each in tensors
        if isinstance(each, torch.Tensor) and each.is_floating_point()
    }


def match(study: Study, arrays: Arrays) -> tuple[dict[str, np.ndarray], list[Match]]:
    """Take what fits a study's model.

    Args:
        study: whose model it is; what it freezes or adapts does not matter.
        arrays: by name.

    Returns:
        What was taken, by the name in the model; and what became of each of its weights.

    Raises:
        ModelError: the model cannot be built.
    """
    plain = study.model.model_copy(update={"initial": None, "trainable": (), "adapters": None})
    named = dict(sketch(study.model_copy(update={"model": plain})).named_parameters())
    known = plain.translated({_bare(name): each for name, each in arrays.items()} | dict(arrays))
    taken: dict[str, np.ndarray] = {}
    told = []
    for name, weight in named.items():
        shape, found = tuple(weight.shape), known.get(name)
        if found is None:
            verdict = "not in the checkpoint"
        elif found.shape != shape:
            verdict = f"another shape there: {_sides(found.shape)}"
        elif not np.isfinite(found).all():
            verdict = "not all of it is finite"
        else:
            taken[name], verdict = found, TAKEN
        told.append(Match(name, shape, verdict))
    return taken, told


def _bare(name: str) -> str:
    return next((name.removeprefix(each) for each in PREFIXES if name.startswith(each)), name)


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def make_and_tell(
    study: Path, checkpoint: Path, file: Path, about: Mapping[str, str], console: Console
) -> None:
    """What the command does: make the file for a study file's model, and say what was taken.

    Raises:
        StudyError: the study cannot be used, or :func:`make` says so.
    """
    one = plain_study(load_document(study, StudyError), study)
    told = make(one, checkpoint, file, **about)
    console.print(table(told))
    taken = sum(each.verdict == TAKEN for each in told)
    console.print(
        f"\n{taken} of {len(told)} weights taken; the others follow from the seed of the study.\n"
        f'Next: in {study.name}, write initial = "{file.name}" in [model].',
        markup=False,
    )


def make(
    study: Study, checkpoint: Path, out: Path, *, source: str, licence: str, trained_on: str
) -> list[Match]:
    """Write a file of starting weights for a study.

    Args:
        study: whose model it is for.
        checkpoint: where the weights come from.
        out: the file to write.
        source: who made them, or where they are published.
        licence: under which they may be used.
        trained_on: the data that they were trained on.

    Returns:
        What became of each weight of the model.

    Raises:
        StudyError: the checkpoint cannot be read, or nothing of it fits.
        ModelError: the model cannot be built.
    """
    arrays = read_checkpoint(checkpoint)
    taken, told = match(study, arrays)
    if not taken:
        raise StudyError(
            "nothing in the checkpoint fits the study's model",
            where=f"{checkpoint}, [model] name = {study.model.name!r}",
            found=f"{len(arrays)} arrays, such as {next(iter(arrays))}",
            wanted=f"names and shapes such as {told[0].name}, {_sides(told[0].shape)}",
            remedy="use a checkpoint of this model, or rename its arrays",
        )
    write_atomic(out, written(taken, source=source, licence=licence, trained_on=trained_on))
    return told


def table(told: list[Match]) -> Table:
    """What became of each weight, for a person."""
    found = Table("Weight", "Shape", "", box=None, pad_edge=False)
    for each in told:
        style = "" if each.verdict == TAKEN else "yellow"
        found.add_row(Text(each.name), Text(_sides(each.shape)), Text(each.verdict, style=style))
    return found
