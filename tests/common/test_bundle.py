"""What a bundle may hold, and what makes it foreign."""

from __future__ import annotations

import io
import zipfile

import pytest

from common.bundle import MANIFEST, PROJECT, PYPROJECT, foreign


def archive(*files: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files:
            made.writestr(name, content)
    return buffer.getvalue()


OURS = ((PROJECT, PYPROJECT), (MANIFEST, "list"))


def test_ours_brings_nothing() -> None:
    assert foreign(archive(*OURS)) is None


def test_what_flowers_builder_makes_of_ours_is_ours() -> None:
    from server.link.bundle import bundle

    assert foreign(bundle().content) is None


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (archive(*OURS, ("client/app.py", "import os")), "client/app.py"),
        (archive(*OURS, ("README.md", "words")), "README.md"),
        (archive(OURS[0]), "twice, or none"),
        (archive(OURS[0], OURS[0], OURS[1]), "twice, or none"),
        (archive((PROJECT, "x = 1\n" * 2**15), OURS[1]), "more than"),
        (archive((PROJECT, PYPROJECT.replace("client.app:app", "os:system")), OURS[1]), "other"),
        (archive((PROJECT, PYPROJECT.replace("= []", '= ["evil"]')), OURS[1]), "dependencies"),
        (archive((PROJECT, "a = 1"), OURS[1]), "no app"),
        (archive((PROJECT, "not TOML"), OURS[1]), "not a bundle"),
        (b"not an archive", "not a bundle"),
        (b"", "not a bundle"),
    ],
)
def test_what_is_not_ours_is_named(content: bytes, found: str) -> None:
    assert found in (foreign(content) or "")
