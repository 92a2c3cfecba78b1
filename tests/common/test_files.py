"""Files are whole or absent; values have one canonical form."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.files import canonical_json, sha256, sha256_file, sync_folder, write_atomic
from tests.common.studies import exit_code

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_writes_everything_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new" / "folder" / "file", b"content")
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == b"content"
    assert [each.name for each in (tmp_path / "new" / "folder").iterdir()] == ["file"]


def test_a_secret_is_readable_by_its_owner_alone_whatever_a_dead_process_left(
    tmp_path: Path,
) -> None:
    left = tmp_path / f".key.{os.getpid()}.tmp"
    left.write_bytes(b"left behind")
    left.chmod(0o666)
    write_atomic(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key").read_bytes() == b"secret"


def test_a_kill_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = exit_code(lambda: write_atomic(path, b"new" * 100_000), kill_at="file.half-written:file")
    assert code == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "taken", b"content")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]


def test_sync_folder_needs_a_folder(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "absent")


def test_sha256_of_bytes_and_of_a_file_is_the_published_one(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(b"abc") == sha256(memoryview(b"abc")) == ABC
    assert sha256_file(tmp_path / "abc") == ABC


def test_canonical_json_is_sorted_dense_and_utf8() -> None:
    assert canonical_json({"b": [1, 0.1, None], "a": "é"}) == '{"a":"é","b":[1,0.1,null]}'.encode()


@given(JSON)
def test_canonical_json_says_the_same_and_is_stable(value: object) -> None:
    try:
        text = canonical_json(value)
    except UnicodeEncodeError:
        return  # a lone surrogate has no UTF-8; messages and settings refuse it earlier
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_json_has_no_number_for(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": [value]})
