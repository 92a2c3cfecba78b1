"""Each check of the gates keeps a named case out: without it, the case gets further."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.catalogue import NAMED
from tests.hostile.checks import Check, checks, off
from tests.hostile.guarded import ELSEWHERE, HELD, SHARED
from tests.hostile.standing import Standing, outcome

FOUND = {check.name: check for check in checks()}


def attempt(standing: Standing, case: str, place: Path, *without: Check) -> str:
    """The answer to a case when some checks are off."""
    with off(*without):
        return outcome(standing, NAMED[case], place)


def test_every_check_is_held_by_a_case() -> None:
    """A new check needs a case; a removed check must leave the table."""
    told = [*HELD, *SHARED, *ELSEWHERE]
    assert sorted(told) == sorted(FOUND)
    assert len(told) == len(set(told))


def test_a_check_that_is_on_again_is_as_it_was(standing: Standing, place: Path) -> None:
    (name, case), *_ = HELD.items()
    with off(FOUND[name]):
        pass
    assert attempt(standing, case, place) == NAMED[case].code


@pytest.mark.parametrize(("name", "case"), HELD.items(), ids=lambda text: text)
def test_without_the_check_the_case_is_not_kept_out(
    name: str, case: str, standing: Standing, place: Path
) -> None:
    assert attempt(standing, case, place, FOUND[name]) != NAMED[case].code


@pytest.mark.parametrize("name", SHARED)
def test_a_check_that_others_stand_beside_is_the_last_one_in_the_way(
    name: str, standing: Standing, place: Path
) -> None:
    """Switched off alone, others still refuse the case; with all of them off, it gets further."""
    shared = SHARED[name]
    own = NAMED[shared.case].code
    beside = [FOUND[other] for other in shared.others]
    last = shared.code or own
    assert attempt(standing, shared.case, place / "alone", FOUND[name]) == own
    assert attempt(standing, shared.case, place / "others", *beside) == last
    assert attempt(standing, shared.case, place / "both", FOUND[name], *beside) not in (own, last)
