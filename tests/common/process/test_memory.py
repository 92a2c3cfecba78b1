from __future__ import annotations

from pathlib import Path

import pytest

from common.process.memory import memory


@pytest.mark.parametrize("said", ["max\n", "", None])
def test_without_a_bound_it_is_the_machines(tmp_path: Path, said: str | None) -> None:
    bound = tmp_path / "memory.max"
    if said is not None:
        bound.write_text(said)

    assert memory(bound) > 2**28


def test_a_container_may_have_less(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1048576\n")

    assert memory(tmp_path / "memory.max") == 2**20
