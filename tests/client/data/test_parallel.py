from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from client.data import parallel
from client.data.parallel import Elsewhere, ordered_map
from common.errors import DataError
from tests.waiting import until


def gone(expression: str) -> object:
    return f"crashed: {expression}"


def ended(*_: object) -> None:
    """What a process that never gets to work does; by name, so that any process finds it."""
    os._exit(3)


def nowhere_here(expression: str) -> object:
    raise Elsewhere


def numbers_here(expression: str) -> object:
    """What this process is sure of."""
    if "import" in expression or "raise" in expression:
        raise Elsewhere
    return eval(expression)


def results(items: list[str], *, workers: int = 1) -> list[object]:
    return list(ordered_map(eval, items, here=nowhere_here, workers=workers, crashed=gone))


def test_what_this_process_is_sure_of_is_done_in_it_and_the_rest_in_another() -> None:
    items = ["1 + 1", "__import__('os').getpid()", "2 + 2"]

    first, process, last = ordered_map(eval, items, here=numbers_here, workers=4, crashed=gone)

    assert (first, last) == (2, 4)
    assert process != os.getpid()


def test_where_everything_is_sure_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.get_context", None)

    assert list(ordered_map(eval, ["1", "2"], here=eval, workers=4, crashed=gone)) == [1, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_items_order(workers: int) -> None:
    items = [f"{number} * {number}" for number in range(40)]

    assert results(items, workers=workers) == [number * number for number in range(40)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_item_that_kills_its_process_costs_itself_alone(workers: int) -> None:
    items = [
        *("1 + 1", "__import__('os').abort()", "2 + 2", "__import__('os')._exit(3)"),
        *("1 / 0", "3 + 3", "__import__('ctypes').string_at(0)", "4 + 4"),
    ]

    assert results(items, workers=workers) == [
        *(2, gone(items[1]), 4, gone(items[3])),
        *(gone(items[4]), 6, gone(items[6]), 8),
    ]


def test_an_item_that_crashed_once_is_tried_again_alone(tmp_path: Path) -> None:
    """What another file did to the machine's memory is not held against it."""
    once = f"(lambda p: p.exists() or (p.touch(), __import__('os').abort()))({tmp_path / 'x'!r})"
    once = once.replace("PosixPath", "__import__('pathlib').Path")

    assert results(["1", once, "3"]) == [1, True, 3]


def test_memory_is_bounded_whatever_an_item_asks_for() -> None:
    items = [f"len(bytearray({parallel.MEMORY + 2**20}))", "1"]

    assert results(items) == [gone(items[0]), 1]


def test_time_is_bounded_and_no_core_is_left() -> None:
    limits = "__import__('resource').getrlimit(__import__('resource').RLIMIT_%s)"
    time, core = results([limits % "CPU" + "[0]", limits % "CORE"])

    assert time in range(parallel.SECONDS, parallel.SECONDS + 60)
    assert core == (0, 0)


def test_an_item_that_never_ends_costs_itself_alone() -> None:
    """It lowers its own limit, which the test above finds in its place, and stays within it."""
    endless = (
        "(lambda r: (r.setrlimit(r.RLIMIT_CPU, (1, r.getrlimit(r.RLIMIT_CPU)[1])), "
        "all(True for _ in iter(int, 1))))(__import__('resource'))"
    )

    assert results([endless, "1"]) == [gone(endless), 1]


def test_an_item_that_waits_for_ever_costs_itself_alone() -> None:
    """It shortens the clock that it is given, and takes no processor time."""
    left = "__import__('signal').getitimer(0)[0]"
    stuck = "(__import__('signal').alarm(1), __import__('threading').Event().wait())"

    given, lost, after = results([left, stuck, "2"])

    assert 0 < float(str(given)) <= parallel.PATIENCE
    assert (lost, after) == (gone(stuck), 2)


def watched(path: str) -> str:
    """Works on nothing, and leaves a thread that waits for the clock to be stopped."""

    def watch() -> None:
        while signal.getitimer(signal.ITIMER_REAL)[0]:
            pass
        Path(path).touch()

    if not Path(path).exists():
        threading.Thread(target=watch, daemon=True).start()
    return path


def test_no_clock_runs_while_a_process_waits_for_its_next_item(tmp_path: Path) -> None:
    path = str(tmp_path / "stopped")
    done = ordered_map(watched, [path, path], here=nowhere_here, workers=1, crashed=gone)

    assert next(done) == path
    until((tmp_path / "stopped").exists)
    assert [*done] == [path]


def test_processes_that_do_not_start_are_no_items_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_serve", ended)

    with pytest.raises(DataError, match="cannot be started"):
        results(["1"])


def test_a_machine_that_starts_no_process_is_no_items_fault() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("multiprocessing.process.BaseProcess.start", refuse)
        with pytest.raises(DataError, match="cannot be started") as error:
            results(["1"])
    assert error.value.details["found"] == "Resource temporarily unavailable"
