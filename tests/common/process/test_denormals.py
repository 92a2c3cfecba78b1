"""Numbers too small to be normal count as zero, on each thread that computes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import client.training.evaluation
import client.training.local
from common.errors import SiteError
from common.numerics import EngineChoice, apply, record
from common.process import denormals
from common.process.denormals import are_zero, flushed
from tests.client.site_fixtures import Hospital, answered, approved, asking
from tests.common.studies import small_study


def _smallest(kind: torch.dtype) -> torch.Tensor:
    whole = torch.int32 if kind == torch.float32 else torch.int64
    return torch.ones(8, dtype=whole).view(kind)


@pytest.mark.parametrize(("kind", "least"), [(torch.float32, 2e-38), (torch.float64, 3e-308)])
def test_they_are_zero_while_a_body_lasts_and_normal_numbers_stay(
    kind: torch.dtype, least: float
) -> None:
    whole = torch.int32 if kind == torch.float32 else torch.int64
    normal = torch.full((8,), least, dtype=kind)
    assert not are_zero()
    with flushed():
        assert are_zero()
        assert (_smallest(kind) * 1.0).view(whole).eq(0).all()
        assert torch.equal((normal * 1.0).view(whole), normal.view(whole))
        with flushed():
            pass
        assert are_zero()
    assert not are_zero()
    assert (_smallest(kind) * 1.0).view(whole).ne(0).all()


def test_training_and_evaluation_count_them_as_zero_and_accountants_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Accountants need such numbers: with them as zero, a study came out as costing nothing."""
    seen: list[bool] = []

    def looking(name: str, module: Any) -> None:  # noqa: ANN401 - a module
        original = getattr(module, name)

        def look(*args: Any, **named: Any) -> Any:  # noqa: ANN401 - another function's
            seen.append(are_zero())
            return original(*args, **named)

        monkeypatch.setattr(module, name, look)

    looking("draw", client.training.local)
    looking("noised", client.training.local)
    looking("outputs", client.training.evaluation)
    study = small_study(evaluation={"rounds": [1]}, training={"local_steps": 1})
    with Hospital(tmp_path / "north").open() as site:
        plan = approved(site, study)
        for purpose in ("train", "evaluate"):
            assert answered(site, asking(plan, 1, purpose)).code == "ok"  # one of Purpose's
        assert seen == [True] * len(seen)
        assert len(seen) > 2
        assert not are_zero()
        approved(site, small_study(study={"name": "other"}, training={"rounds": 7}))
        assert not are_zero()
        assert site.ledger.spent_on(plan) > 0


def test_applying_a_record_makes_them_zero_on_whichever_thread_computes() -> None:
    """As a thread of Flower or gRPC, which was started before."""

    def found() -> bool:
        apply(record(1, EngineChoice()))
        with flushed():
            return are_zero()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(found).result()


def test_a_process_in_which_it_cannot_be_had_computes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(denormals, "are_zero", lambda: False)
    with pytest.raises(SiteError, match="very small numbers"):
        apply(record(1, EngineChoice()))


PARALLEL = """
import threading, torch
torch.set_num_threads(4)
{first}
from common.process.denormals import are_zero, flushed, require_flushed
from common.errors import SiteError

def found():
    try:
        require_flushed()
    except SiteError:
        return "refused"
    with flushed():
        assert are_zero()
    return "zero"

print(found())
new = []
thread = threading.Thread(target=lambda: new.append(found()))
thread.start()
thread.join()
print(*new)
"""


@pytest.mark.matrix(first=lambda first: first[:1] == "i")
@pytest.mark.parametrize(
    ("first", "here"),
    [
        ("", "zero"),
        ("import common.models.networks; torch.ones(2**22) * 2.0", "zero"),
        ("import client.engine.clipped; torch.ones(2**22) * 2.0", "zero"),
        ("torch.ones(2**22) * 2.0  # its threads were started before", "refused"),
    ],
)
def test_every_thread_of_an_operation_has_it_or_it_is_refused(
    root: Path, first: str, here: str
) -> None:
    """In a process of its own, four threads wide; a new thread's operations begin new threads."""
    done = subprocess.run(
        [sys.executable, "-c", PARALLEL.format(first=first)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(root), "PATH": ""},
    )
    assert done.stdout.split() == [here, "zero"]
