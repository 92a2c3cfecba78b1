"""The last gate before patients: a model whose clipped sums would be wrong goes no further."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from client.training import tuning
from common.errors import ModelError
from common.wire.messages import Purpose
from tests.client.site_fixtures import Hospital, approved, asking, code_of
from tests.common.studies import small_study


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_a_model_that_is_not_sound_is_refused_before_a_patient_is_read_or_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, purpose: Purpose
) -> None:
    hospital = Hospital(tmp_path / "north")
    with hospital.open() as site:
        plan = approved(site, small_study())

        def unsound(*_: object) -> NoReturn:
            raise ModelError("a patient's gradient is not what it should be")

        def reading(*_: object, **__: object) -> NoReturn:
            pytest.fail("patients were read")

        tuning._check.cache_clear()  # noqa: SLF001 - as in a process that has just started
        monkeypatch.setattr(tuning, "require_sound", unsound)
        monkeypatch.setattr(site.cohorts, "read", reading)
        number = plan.study.evaluation_rounds[0] if purpose == "evaluate" else 1
        assert code_of(site, asking(plan, number, purpose)) == "malformed"
        assert hospital.rows("charges") == []
        assert all(row["until"] is None for row in hospital.rows("members"))
