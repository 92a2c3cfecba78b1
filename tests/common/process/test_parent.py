"""A process dies with the one that started it."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.waiting import PATIENCE, alive, until


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    return done.stdout.strip() or done.stderr


def test_a_process_dies_with_its_parent_however_that_dies() -> None:
    child = (
        "import sys, time; from common.process.parent import die_with_parent\n"
        "die_with_parent(int(sys.argv[1])); print('here', flush=True); time.sleep(3600)"
    )
    parent = (
        "import os, subprocess, sys\n"
        f"it = subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())],"
        " stdout=subprocess.PIPE)\n"
        "it.stdout.readline(); print(it.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    pid = int(run(parent))
    until(lambda: not alive(pid))


def test_a_process_whose_parent_is_gone_already_ends_at_once() -> None:
    code = "from common.process.parent import die_with_parent; die_with_parent(1); print('here')"
    assert os.getpid() != 1
    assert "here" not in run(code)
