"""A round takes the processor no longer for a patient whom weights are chosen to find.

The whole of it, 2,000 rounds with reply times and 5 % planted, is ``make bench NAME=timing``. That
replies leave at ticks is held by ``tests/client/training/test_pacing.py`` and, of a real daemon, by
``tests/client/daemon/test_pace.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.timing import (
    FILTERS,
    PATIENTS,
    PLANTED,
    compared,
    filter_for,
    measure,
    study_of,
    two,
)
from common.models.networks import build_model, load_flat
from common.wire.messages import Purpose

ROUNDS = 120
COARSE = 0.25


def test_five_per_cent_more_are_told_from_none() -> None:
    """Of pairs as unsteady as a busy machine makes them, one in ten three times as long."""
    draw = np.random.default_rng(0)

    def unsteady(count: int, longer: float) -> list[float]:
        steady = np.exp(0.1 * draw.standard_normal(count))
        taken = (1 + longer) * steady * np.where(draw.random(count) < 0.1, 3.0, 1.0)
        return [float(each) for each in taken]

    assert compared(unsteady(1000, PLANTED), unsteady(1000, 0.0)).differs
    assert compared(unsteady(1000, 0.0), unsteady(1000, PLANTED)).differs
    assert not any(compared(unsteady(1000, 0.0), unsteady(1000, 0.0)).differs for _ in range(20))


@pytest.mark.parametrize("kind", FILTERS)
def test_the_filters_find_a_bright_image_and_no_other(kind: str) -> None:
    """They would be no test if nothing happened: a number overflows, or is no normal one."""
    import torch

    study = study_of("train", 10)
    model = build_model(study)
    load_flat(model, filter_for(study, kind))  # type: ignore[arg-type] # one of FILTERS
    seen: list[torch.Tensor] = []
    second = [each for each in model.modules() if isinstance(each, torch.nn.Conv2d)][1]
    second.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
    images = torch.stack([torch.full((1, 28, 28), level) for level in (0.2, 0.95)])
    with torch.no_grad():
        model((images - study.data.mean) / study.data.std)
    dark, bright = seen[0]
    assert not dark.view(torch.int32).any()
    if kind == "overflow":
        assert not torch.isfinite(bright).any()
    else:
        assert (bright.view(torch.int32) > 0).all()
        assert (bright.view(torch.int32) < 2**23).all()  # below the smallest normal number


@pytest.mark.long
@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_no_more_processor_time_for_the_target(tmp_path: Path, purpose: Purpose) -> None:
    with two(tmp_path, purpose, 10 + ROUNDS + ROUNDS // 2, waits=False) as (ours, theirs):
        assert len(ours.site.cohorts.read(ours.plan.study).patients) == PATIENTS + 1
        assert len(theirs.site.cohorts.read(theirs.plan.study).patients) == PATIENTS
        measure((ours, theirs), purpose, range(1, 11))
        ours.planted = COARSE
        measure((ours, theirs), purpose, range(11, 11 + ROUNDS // 2))
        assert compared(*(side.computed[10:] for side in (ours, theirs))).differs
        ours.planted, begun = 0.0, len(ours.computed)
        measure((ours, theirs), purpose, range(begun + 1, begun + 1 + ROUNDS))
        for first in range(len(FILTERS)):
            found = compared(*(side.computed[begun + first :: 2] for side in (ours, theirs)))
            assert not found.differs, found
