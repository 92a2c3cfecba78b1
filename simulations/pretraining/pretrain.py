"""Public starting weights of a study's model, from public or made-up hospitals.

The network is trained on all their patients together, without privacy, and the projection before
the head, where the study has one, is whitened on their images. What comes out is a file as
``consilium-coordinator weights`` writes it: a study names it as ``[model] initial``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import StudyError
from common.files import write_atomic
from common.models.initial import Arrays, written
from common.models.networks import load_flat, seeded_model
from common.models.parts import head_of
from common.settings import load_document
from common.study.study_file import Study, plain_study
from server.cli.weights import read_checkpoint
from simulations.archives.manifest import read_hospitals
from simulations.pretraining.network import Schedule, trained, whole
from simulations.pretraining.whitening import whiten
from simulations.runs.baselines import Holding
from simulations.runs.prepare import prepare
from simulations.runs.run_settings import RunSettings, Watcher


def make(
    study: Path,
    hospitals: Path,
    file: Path,
    *,
    start: Path | None,
    about: Mapping[str, str],
    watcher: Watcher,
    **schedule: Any,  # noqa: ANN401 - the fields of a schedule
) -> None:
    """What the command does: :func:`pretrain` for a study file, into a file.

    Raises:
        ConsiliumError: as there; or a file cannot be read or written.
    """
    one = plain_study(load_document(study, StudyError), study)
    begin = None if start is None else read_checkpoint(start)
    how = Schedule(**schedule)
    data = pretrain(one, hospitals, how, start=begin, about=about, watcher=watcher)
    write_atomic(file, data)


def pretrain(
    study: Study,
    hospitals: Path,
    schedule: Schedule,
    *,
    start: Arrays | None = None,
    about: Mapping[str, str],
    watcher: Watcher | None = None,
) -> bytes:
    """The bytes of a file of starting weights for a study.

    Args:
        study: whose model it is for; what it says of privacy and training does not matter.
        hospitals: a folder of hospitals whose patients need no protection.
        schedule: how long the network is trained.
        start: public weights to begin with.
        about: ``source``, ``licence`` and ``trained_on``, as the file says them.
        watcher: told the progress.

    Raises:
        ConsiliumError: the hospitals cannot be used, or the weights do not fit the model.
    """
    watcher = watcher or Watcher()
    every, found = whole(study, schedule), read_hospitals(hospitals)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = RunSettings(folder / "study.toml", hospitals, folder, seed=schedule.seed)
        prepared = prepare(settings, every, found, stack, watcher)
        holdings = [
            prepared.grid.at(name, partial(Holding.of, every)) for name in sorted(found.sites)
        ]
        model = seeded_model(every, schedule.seed, start)
        with watcher.phase("rounds", schedule.rounds):
            for weights in trained(every, holdings, schedule, start):
                load_flat(model, weights)
        images = (each.images.open() for each in holdings)
        whiten(model, every, images)
    head, _ = head_of(model)
    arrays = {
        name: each.detach().numpy()
        for name, each in model.named_parameters()
        if not name.startswith(f"{head}.")  # a study's own classes are other ones
    }
    return written(arrays, **about)
