from __future__ import annotations

import os
from pathlib import Path

from client.parallel import ordered_map


def gone(expression: str) -> object:
    return f"crashed: {expression}"


def test_a_few_items_are_done_in_this_process() -> None:
    results = list(ordered_map(eval, ["__import__('os').getpid()"], workers=4, crashed=gone))

    assert results == [os.getpid()]


def test_results_come_in_the_items_order() -> None:
    items = [f"{number} * {number}" for number in range(20)]

    assert list(ordered_map(eval, items, workers=2, crashed=gone, inline=0)) == [
        number * number for number in range(20)
    ]


def test_an_item_that_kills_its_process_costs_itself_alone(tmp_path: Path) -> None:
    items = ["1 + 1", "__import__('os').abort()", "2 + 2", "__import__('os')._exit(3)", "3 + 3"]

    results = list(ordered_map(eval, items, workers=2, crashed=gone, inline=0))

    assert results == [2, gone(items[1]), 4, gone(items[3]), 6]
