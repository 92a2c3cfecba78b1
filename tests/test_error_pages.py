"""The guides' pages "What went wrong" hold every error, as the program words it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.error_pages import PAGES, entries, page


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_the_program_says(root: Path, name: str) -> None:
    written = (root / "docs" / f"{name}-errors.md").read_text()

    assert written == page(root, name), "run make pages"


def test_an_error_is_found_however_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its class, one of its own, one that is handed over, and by a function given the words."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "page_example.py").write_text(
        """
from __future__ import annotations
from common.errors import DataError, LinkError, Refusal, RefusalCode
HELP = "look again"
class Away(LinkError):
    def __init__(self, name):
        super().__init__(f"nobody is at {name}", remedy=HELP)
class Wording:
    def __init__(self, what: str, *, remedy: str):
        self.what = what
    def error(self) -> DataError:
        return DataError(self.what)
TABLE = {"a": Wording("words of a table", remedy=HELP)}
def fault(what: str, *, remedy: str) -> DataError:
    return DataError(what, remedy=remedy)
class Owner:
    kind: type[ConsiliumError]
def read(error: type[ConsiliumError], owner: Owner):
    raise error("it is open", remedy="close it") or owner.kind("it is held", remedy="wait")
def bad(number):
    if number:
        raise fault("a row is wrong", remedy="correct " + ("it" if number == 1 else "them"))
    raise Refusal(RefusalCode.MALFORMED, "no such step", found=number, wanted=f"1 to {number}")
"""
    )
    monkeypatch.syspath_prepend(tmp_path)

    assert {(each.kind, each.what, each.parts) for each in entries(tmp_path, "made")} == {
        ("LinkError", "nobody is at …", (("do", "look again"),)),
        ("ConsiliumError", "it is open", (("do", "close it"),)),
        ("ConsiliumError", "it is held", (("do", "wait"),)),
        ("DataError", "words of a table", (("do", "look again"),)),
        ("DataError", "a row is wrong", (("do", "correct it / them"),)),
        ("Refusal", "`malformed`: no such step", (("wanted", "1 to …"),)),
    }
