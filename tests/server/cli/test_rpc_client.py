"""Calls to a coordinator on another machine: what they are made with."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import CoordinatorError
from server.cli.rpc_client import Caller, calling


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_an_operators_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    for name in ("ada.key", "ada.pem", "ca.pem"):
        (tmp_path / name).write_text("of no matter: it is not read")
        (tmp_path / name).chmod(mode)
    caller = Caller(tmp_path, "localhost:1", tmp_path)

    with (
        pytest.raises(CoordinatorError, match="access to the operator's secrets") as caught,
        calling(caller),
    ):
        pass

    assert caught.value.details["where"] == str(tmp_path / "ada.key")
    assert f"chmod 600 {tmp_path / 'ada.key'}" in caught.value.details["do"]
