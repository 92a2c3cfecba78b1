"""A forked child of a test's launcher becomes a command."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def become(main: Callable[[], object], words: list[str], prepare: Callable[[], object]) -> NoReturn:
    """Run a command line and end as it ends, whatever it raises.

    Args:
        main: of the command line.
        words: the command as it is typed, its name first.
        prepare: what is to be done in this process before.
    """
    code = 1
    try:
        prepare()
        sys.argv = words
        main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001 - a child must not go on as its parent
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
