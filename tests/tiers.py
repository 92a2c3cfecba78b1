"""Which tests ``make test`` runs, and which ``make test-all`` runs besides: those marked ``long``.

A test that takes more than some ten seconds of a processor is marked ``long`` by hand; what it
holds is touched by a shorter one too. A matrix of cases is marked ``matrix``, and its cases are
chosen here: the fewest such that every value of every parameter is there once. Where the values
are many and of a few kinds, the mark says how to tell the kind of one::

    @pytest.mark.matrix
    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("layout", LAYOUTS)

    @pytest.mark.matrix(case=lambda case: case.code)
    @pytest.mark.parametrize("case", CASES)

A property is tried on a quarter of the examples with ``make test`` (``tests/conftest.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest


def mark_long(items: Iterable[pytest.Item]) -> None:
    """Mark those cases of matrices that add no kind to the cases before them."""
    matrices: dict[str, list[tuple[pytest.Item, set[object]]]] = {}
    for item in items:
        if (marker := item.get_closest_marker("matrix")) is not None:
            function = item.nodeid.split("[", maxsplit=1)[0]
            matrices.setdefault(function, []).append((item, kinds_of(item, marker)))
    for cases in matrices.values():
        kept = chosen([kinds for _, kinds in cases])
        for number, (item, _) in enumerate(cases):
            if number not in kept:
                item.add_marker(pytest.mark.long)


def kinds_of(item: pytest.Item, marker: pytest.Mark) -> set[object]:
    """The kind of a case in each of its parameters; without a rule, every value is a kind."""
    assert isinstance(item, pytest.Function)
    parameters, rules = item.callspec.params, marker.kwargs
    assert set(rules) <= set(parameters), f"{item.nodeid}: no such parameter"
    return {(name, rules.get(name, id)(value)) for name, value in parameters.items()}


def chosen(cases: list[set[object]]) -> set[int]:
    """Numbers of cases that have all kinds among them.

    First those that are new in everything, as on the diagonal of a table, then those that bring
    what is missing still.
    """
    kept: set[int] = set()
    seen: set[object] = set()
    for most_known in (0, math.inf):
        for number, kinds in enumerate(cases):
            if not kinds <= seen and len(kinds & seen) <= most_known:
                kept.add(number)
                seen |= kinds
    return kept
