"""What a bundle may hold, and what makes it foreign."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.wire.bundle import MANIFEST, PROJECT, PYPROJECT, foreign


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
    from server.superlink.bundle import bundle

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


def damaged(bundle: bytes, name: bytes = b"pyproject.toml") -> bytes:
    """With another byte at the beginning of what was packed, which zlib cannot unpack."""
    at = bundle.index(name) + len(name)
    return bundle[:at] + bytes([bundle[at] | 0x06]) + bundle[at + 1 :]


def packed(method: int, *, cut: int = 0) -> bytes:
    """Ours, packed in another way; with ``cut``, some bytes within are nought."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, content in OURS:
            made.writestr(name, content)
    whole = bytearray(buffer.getvalue())
    at = whole.index(PROJECT.encode()) + len(PROJECT)
    whole[at : at + cut] = bytes(cut)
    return bytes(whole)


def encrypted() -> bytes:
    """Ours, whose files say that they want a password."""
    whole = bytearray(archive(*OURS))
    for mark, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = -1
        while (at := whole.find(mark, at + 1)) >= 0:
            whole[at + flags] |= 1
    return bytes(whole)


def bomb(method: int) -> bytes:
    """An archive whose description says 100 bytes where there are many more."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        made.writestr(PROJECT, bytes(2**24))
        made.writestr(MANIFEST, "list")
    whole = bytearray(buffer.getvalue())
    for at in (index for index in range(len(whole) - 4) if whole[index : index + 4] == SIZE):
        whole[at : at + 4] = (100).to_bytes(4, "little")
    return bytes(whole)


SIZE = (2**24).to_bytes(4, "little")
DEEP = "a = " + "[" * 30000 + "]" * 30000


@pytest.mark.parametrize(
    "content",
    [
        damaged(archive(*OURS)),
        damaged(archive(*OURS), MANIFEST.encode()),
        packed(zipfile.ZIP_LZMA),
        packed(zipfile.ZIP_LZMA, cut=20),
        packed(zipfile.ZIP_BZIP2),
        packed(zipfile.ZIP_BZIP2, cut=20),
        packed(zipfile.ZIP_DEFLATED, cut=20),
        encrypted(),
        archive((PROJECT, DEEP), OURS[1]),
        archive(*OURS)[:-30],
        archive(*OURS).replace(b"PK\x01\x02", b"PK\x01\x03"),
    ],
)
def test_what_is_broken_is_foreign_in_whatever_way(content: bytes) -> None:
    assert foreign(content) is not None


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_unpacks_to_more_than_it_says_is_not_unpacked(method: int) -> None:
    content = bomb(method)
    tracemalloc.start()
    try:
        assert foreign(content) is not None
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 2**22


CHANGES = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "twice"]), st.integers(0, 10**4), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


@given(changes=CHANGES, method=st.sampled_from([0, 8, 12, 14]))
def test_an_archive_that_was_tampered_with_is_ours_or_foreign_and_never_an_error(
    changes: list[tuple[str, int, int]], method: int
) -> None:
    whole = bytearray(packed(method))
    for kind, place, value in changes:
        at = place % (len(whole) + 1)
        if kind == "set" and at < len(whole):
            whole[at] = value
        elif kind == "cut":
            del whole[at : at + value % 16]
        elif kind == "twice":
            whole[at:at] = whole[at : at + value]
    assert foreign(bytes(whole)) is None or isinstance(foreign(bytes(whole)), str)
