"""Which cases of a matrix ``make test`` has: all kinds, and hardly more cases than kinds."""

from __future__ import annotations

import itertools

import pytest

from tests.tiers import chosen

PROGRAM = """
import pytest

@pytest.mark.matrix
@pytest.mark.parametrize("b", "xyz")
@pytest.mark.parametrize("a", "mn")
def test_table(a, b):
    pass

@pytest.mark.matrix(word=len)
@pytest.mark.parametrize("word", ["on", "off", "out", "up"])
def test_words(word):
    pass

@pytest.mark.long
def test_long():
    pass

def test_short():
    pass
"""
CONFTEST = """
from tests.tiers import mark_long

def pytest_configure(config):
    config.addinivalue_line("markers", "long")
    config.addinivalue_line("markers", "matrix")

def pytest_collection_modifyitems(items):
    mark_long(items)
"""


def test_every_value_of_a_table_is_there_and_no_more_cases_than_the_longer_side() -> None:
    places = itertools.product(range(3), range(5))
    table: list[set[object]] = [{("a", a), ("b", b)} for a, b in places]
    kept = chosen(table)
    assert set().union(*(table[number] for number in kept)) == set().union(*table)
    assert len(kept) == 5


def test_one_of_each_kind_is_there_the_first() -> None:
    assert chosen([{kind} for kind in "aabcab"]) == {0, 2, 3}


def test_what_is_not_long_is_one_case_of_each_kind(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(PROGRAM)
    short = pytester.runpytest("-m", "not long", "-v")
    short.assert_outcomes(passed=3 + 2 + 1, deselected=4 + 2 + 1 - 1)
    short.stdout.fnmatch_lines(["*test_words?on?*", "*test_words?off?*", "*test_short*"])
    everything = pytester.runpytest()
    everything.assert_outcomes(passed=6 + 4 + 1 + 1)


def test_a_case_that_is_asked_for_by_name_is_not_long(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    file = pytester.makepyfile(PROGRAM)
    pytester.runpytest(f"{file}::test_words[up]", "-m", "not long").assert_outcomes(passed=1)
