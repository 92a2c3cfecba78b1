"""Documents from elsewhere: nothing nested or large comes to a parser that calls itself."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.documents import MOST_LEVELS, UnreadableError, levels, read_json, read_toml
from common.errors import ConsiliumError, Refusal
from common.plan import Offer, read_plan
from common.study.study_file import Study, load_study

DEEP = 100_000
DEEP_TOML = 5_000
"""More takes the parser, were it let, a time that grows with the square."""
NESTED = {
    "arrays": "[" * DEEP + "]" * DEEP,
    "objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "open": "[" * DEEP,
    "behind a bracket in a text": '["]",' * DEEP + "1" + "]" * DEEP,
}
TOML = {
    "arrays": "a = " + "[" * DEEP_TOML + "]" * DEEP_TOML,
    "tables": "a = " + "{a = " * DEEP_TOML + "1" + "}" * DEEP_TOML,
    "brackets in texts": "a = " + '["]", ' * DEEP_TOML + "]" * DEEP_TOML,
    "brackets in lines": "a = " + '["""]""", ' * DEEP_TOML + "]" * DEEP_TOML,
    "brackets in comments": "a = " + "[ # ]\n" * DEEP_TOML + "]" * DEEP_TOML,
    "dots of a key": "a" + ".a" * DEEP_TOML + " = 1",
    "dots of a heading": "[a" + ". a" * DEEP_TOML + "]\nb = 1",
    "quoted dots": '"a"' + '."a"' * DEEP_TOML + " = 1",
}


@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED)
def test_json_that_is_nested_deeply_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="recursion"):
        read_json(text)


@pytest.mark.parametrize("text", TOML.values(), ids=TOML)
def test_toml_that_is_nested_deeply_is_a_value_error_before_it_is_parsed(text: str) -> None:
    with pytest.raises(ValueError, match="nested more than"):
        read_toml(text, most=len(text))


def test_a_document_that_is_too_large_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="at most 10"):
        read_json("[1,2,3,4,5,6]", most=10)
    with pytest.raises(ValueError, match="at most"):
        read_toml("#" * 2**20 + "\n")


@given(st.recursive(st.integers() | st.text() | st.none(), st.lists, max_leaves=20))
def test_json_reads_as_it_always_did(value: Any) -> None:  # noqa: ANN401 - what JSON can hold
    written = json.dumps(value)
    assert read_json(written) == read_json(written.encode()) == json.loads(written)


PIECES = ["[", "]", "{", "}", '"', "'", '"""', "'''", "\\", "#", "\n", "a", "=", ".", ",", " "]


def depth(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    held = isinstance(value, dict | list)
    return held + max(map(depth, inside), default=0)


@given(st.lists(st.sampled_from([*PIECES, "a = ", "1", "a.a", '"]"', "'}'"])).map("".join))
def test_what_toml_comes_to_is_never_deeper_than_was_foreseen(text: str) -> None:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert depth(found) - 1 <= levels(text)


def test_a_file_as_people_write_them_has_few_levels(root: Path) -> None:
    files = [*root.glob("simulations/studies/*.toml"), root / "pyproject.toml"]
    assert len(files) > 1
    assert max(levels(file.read_text()) for file in files) < MOST_LEVELS / 4


@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED)
@pytest.mark.parametrize("read", [read_plan, Study.model_validate_json, Offer.model_validate_json])
def test_a_nested_plan_study_or_offer_is_refused(read: Callable[[str], object], text: str) -> None:
    with pytest.raises((Refusal, ValueError)):
        read(text)


def test_a_study_file_that_is_nested_deeply_is_an_instruction(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(TOML["arrays"])
    with pytest.raises(ConsiliumError, match="cannot be read as TOML"):
        load_study(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_json_may_have_been_through_a_mail_program(encoding: str) -> None:
    assert read_json('{"a": "ü"}'.encode(encoding)) == {"a": "ü"}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\xff", b"no"])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        read_json(data)
