"""Packages that an attacker made, with a valid signature of the attacker's own: each is refused.

Each names what is wrong with it, and nothing of it is run or written anywhere.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto

from common.errors import PackageError
from common.files import canonical_json
from common.package import archive, card
from common.package.package import read
from tests.common.package.packages import forged, kept, members, package, signed

MARKER = "it-was-run"
Maker = Callable[[bytes], bytes]


class Bomb:
    """What a pickle may do when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(MARKER),)


def raw(data: bytes, change: Callable[[zipfile.ZipFile, dict[str, bytes]], None]) -> bytes:
    """An archive that is put together by hand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        change(made, members(data))
    return buffer.getvalue()


def plus(name: str, content: bytes = b"x", *, mode: int = 0o644 | stat.S_IFREG) -> Maker:
    """The package with one member more."""

    def change(made: zipfile.ZipFile, inside: dict[str, bytes]) -> None:
        for each, value in inside.items():
            made.writestr(each, value)
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        made.writestr(entry, content)

    return lambda data: raw(data, change)


def compressed(data: bytes) -> bytes:
    def change(made: zipfile.ZipFile, inside: dict[str, bytes]) -> None:
        for each, value in inside.items():
            size = value + bytes(2**24) if each == archive.CARD else value
            made.writestr(each, size, zipfile.ZIP_DEFLATED)

    return raw(data, change)


def twice(data: bytes) -> bytes:
    def change(made: zipfile.ZipFile, inside: dict[str, bytes]) -> None:
        for each, value in inside.items():
            made.writestr(each, value)
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr(archive.CARD, b"another")

    return raw(data, change)


def without_card(data: bytes) -> bytes:
    def change(made: zipfile.ZipFile, inside: dict[str, bytes]) -> None:
        for each, value in inside.items():
            if each != archive.CARD:
                made.writestr(each, value)

    return raw(data, change)


def encrypted(data: bytes) -> bytes:
    """The flag of encryption in the central directory of the first member."""
    at = data.index(b"PK\x01\x02") + 8
    return data[:at] + bytes([data[at] | 1]) + data[at + 1 :]


def many_members(data: bytes) -> bytes:
    def change(made: zipfile.ZipFile, inside: dict[str, bytes]) -> None:
        for each in range(100):
            made.writestr(f"{each:08}", b"")

    return raw(data, change)


def of_the_larger_format(data: bytes) -> bytes:
    """The end of an archive whose directory is said to be far longer, as above 2 GiB."""
    record = b"PK\x06\x06" + bytes(36) + (2**40).to_bytes(8, "little") + bytes(8)
    return data[:-22] + record + b"PK\x06\x07" + bytes(16) + data[-22:]


def graph_with(change: Callable[[onnx.ModelProto], None]) -> Maker:
    def made(data: bytes) -> bytes:
        model = onnx.load_model_from_string(members(data)[archive.GRAPH])
        change(model)
        return forged(data, {archive.GRAPH: model.SerializeToString()})

    return made


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"


def hidden_external(model: onnx.ModelProto) -> None:
    """In a constant within a branch of a node."""
    inner = onnx.GraphProto(name="branch")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    external_node = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    inner.node.append(external_node)
    inner.node[0].attribute[0].t.data_location = TensorProto.EXTERNAL
    model.graph.node.append(
        onnx.helper.make_node("If", ["image"], ["y"], then_branch=inner, else_branch=inner)
    )


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def endless(model: onnx.ModelProto) -> None:
    """A loop whose condition nothing changes."""
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", ["", ""], ["y"], body=body))


def function(model: onnx.ModelProto) -> None:
    model.functions.append(onnx.FunctionProto(name="f", domain=""))


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "path"


def weights(change: Callable[[dict[str, Any]], None]) -> Maker:
    def made(data: bytes) -> bytes:
        arrays = safetensors.numpy.load(members(data)[archive.WEIGHTS])
        change(arrays)
        return forged(data, {archive.WEIGHTS: safetensors.numpy.save(arrays)})

    return made


def not_finite(arrays: dict[str, Any]) -> None:
    first = next(iter(arrays))
    arrays[first] = np.full_like(arrays[first], np.nan)


def of_another_shape(arrays: dict[str, Any]) -> None:
    first = next(iter(arrays))
    arrays[first] = np.zeros((3, 3), dtype=np.float32)


def of_another_type(arrays: dict[str, Any]) -> None:
    first = next(iter(arrays))
    arrays[first] = arrays[first].astype(np.float64)


def with_one_more(arrays: dict[str, Any]) -> None:
    arrays["more"] = np.zeros(1, dtype=np.float32)


def others(arrays: dict[str, Any]) -> None:
    first = next(iter(arrays))
    arrays[first] = arrays[first] + np.float32(1)


def page(change: Callable[[str], str]) -> Maker:
    def made(data: bytes) -> bytes:
        text = members(data)[archive.CARD_PAGE].decode()
        return forged(data, {archive.CARD_PAGE: change(text).encode()})

    return made


def inside(html: str) -> Maker:
    return page(lambda text: text.replace("</main>", f"{html}</main>"))


def before_the_policy(html: str) -> Maker:
    return page(lambda text: text.replace("<head>", f"<head>{html}"))


def card_with(text: str) -> Maker:
    """A card with such a text, and the page that belongs to it."""

    def made(data: bytes) -> bytes:
        written = members(data)[archive.CARD].decode() + text
        shown = card.page(written, "Model card: Hardly anything to learn")
        return forged(data, {archive.CARD: written.encode(), archive.CARD_PAGE: shown.encode()})

    return made


def study(**changes: dict[str, object]) -> Maker:
    def made(data: bytes) -> bytes:
        document = json.loads(members(data)[archive.STUDY])
        for section, keys in changes.items():
            document[section] |= keys
        return forged(data, {archive.STUDY: canonical_json(document)})

    return made


def telling(**changes: object) -> Maker:
    """A statement that says something else than its study."""
    return lambda data: forged(data, {}, lambda said: said.update(changes))


def without_bound(data: bytes) -> bytes:
    def change(said: dict[str, Any]) -> None:
        for site in said["sites"].values():
            site["epsilon"] = None

    return forged(data, {}, change)


def promising(epsilon: float) -> Maker:
    """Of the site, in a study of epsilon 3."""

    def change(said: dict[str, Any]) -> None:
        said["sites"]["north"]["epsilon"] = epsilon

    return lambda data: forged(data, {}, change)


def written_otherwise(data: bytes) -> bytes:
    """A key twice: one reader takes the first, another the last."""
    inside = members(data)
    said = inside[archive.STATEMENT]
    return signed(inside, b'{"title": "Another", ' + said[1:])


def over_each_other(data: bytes) -> bytes:
    """Every member is the largest one's bytes, so that together they are more than the file."""
    with zipfile.ZipFile(io.BytesIO(data)) as given:
        largest = max(given.infolist(), key=lambda each: each.file_size)
    hostile, at = bytearray(data), 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        for place in (20, 24):  # sizes, compressed and not (4.3.12)
            hostile[at + place : at + place + 4] = largest.file_size.to_bytes(4, "little")
        at += 4
    return bytes(hostile)


def more_earlier_weights(data: bytes) -> bytes:
    arrays = safetensors.numpy.load(members(data)[archive.EARLIER])
    arrays["more"] = np.zeros(3, np.float32)
    return forged(data, {archive.EARLIER: safetensors.numpy.save(arrays)})


def point_of_no_class(data: bytes) -> bytes:
    return forged(data, {}, lambda said: said["points"][0].update(positive=7))


def key_that_nobody_knows(data: bytes) -> bytes:
    return forged(data, {}, lambda said: said.update(run="import os"))


KINDS: dict[str, tuple[Maker, str]] = {
    "a pickle": (lambda _: pickle.dumps(Bomb()), "pickle"),
    "a torch checkpoint": (plus("archive/data.pkl", pickle.dumps(Bomb())), "pickle"),
    "weights that are a pickle": (
        lambda data: forged(data, {archive.WEIGHTS: pickle.dumps(Bomb())}),
        "pickle",
    ),
    "weights alone": (lambda data: members(data)[archive.WEIGHTS], "weights alone"),
    "no archive": (lambda _: b"#!/bin/sh\ntouch it-was-run\n", "not a ZIP"),
    "an empty file": (lambda _: b"", "empty"),
    "a name that leads out": (plus("../outside"), "another folder"),
    "a whole path": (plus("/tmp/outside"), "another folder"),
    "a path of another system": (plus("..\\outside"), "another folder"),
    "a link": (plus("link", b"/etc/passwd", mode=0o777 | stat.S_IFLNK), "link"),
    "one member more": (plus("run.py", b"import os"), "no package has"),
    "a member that is there twice": (twice, "twice"),
    "a member that is missing": (without_card, "without card.md"),
    "members that unpack to much": (compressed, "compressed"),
    "an encrypted member": (encrypted, "encrypted"),
    "bytes before it": (lambda data: b"PK\x03\x04" + data, "damaged|no member|otherwise"),
    "bytes behind it": (lambda data: data + b"more", "damaged|no member|otherwise"),
    "members over each other": (over_each_other, "over each other"),
    "a hundred members": (many_members, "list of members far longer"),
    "an archive of the larger format": (of_the_larger_format, "list of members far longer"),
    "half of it": (lambda data: data[: len(data) // 2], "damaged"),
    "a graph with data elsewhere": (graph_with(external), "external data"),
    "a graph with such data in a branch": (graph_with(hidden_external), "external data"),
    "a graph with foreign operators": (graph_with(foreign_operator), "not ONNX's own"),
    "a graph that never ends": (graph_with(endless), "no model of ours: 'Loop'"),
    "a graph with functions": (graph_with(function), "not ONNX's own"),
    "a graph that takes something else": (graph_with(other_input), "one input"),
    "a graph that is none": (lambda data: forged(data, {archive.GRAPH: b"\xff\xff"}), "no ONNX"),
    "weights that are no numbers": (weights(not_finite), "finite"),
    "weights of another shape": (weights(of_another_shape), "do not fit"),
    "weights of another type": (weights(of_another_type), "finite float32"),
    "more than earlier weights": (more_earlier_weights, "do not fit"),
    "weights of more layers": (weights(with_one_more), "do not fit"),
    "other weights than are named": (weights(others), "not the weights"),
    "a header of weights that lies": (
        lambda data: forged(data, {archive.WEIGHTS: b"\xff" * 7 + b"\x7f{}"}),
        "safetensors",
    ),
    "a page with a script": (inside("<script>1</script>"), "not the page"),
    "a page with a handler": (inside('<p onclick="1">x</p>'), "not the page"),
    "a page that loads": (inside('<img src="https://example.org/x">'), "not the page"),
    "a page with a script behind half a comment": (
        before_the_policy("<!--><script>1</script>-->"),
        "not the page",
    ),
    "a page whose style loads": (
        before_the_policy("<style>@import url(https://example.org)</style>"),
        "not the page",
    ),
    "a page that ends in half an element": (
        page(lambda text: f"{text}<img src=x "),
        "not the page",
    ),
    "a page without a policy": (
        page(lambda text: re.sub("<meta http-equiv[^>]*>", "", text)),
        "not the page",
    ),
    "a card with a program's text": (card_with("\n```python\nx\n```\n"), "program's text"),
    "a card that is far too long": (card_with("a " * 2**20), "larger than"),
    "a card that steers a screen": (card_with("\x1b[2J"), "steer"),
    "a card with text that is turned round": (card_with("\u202egnp.exe"), "steer"),
    "a card that promises more than the statement": (
        card_with("\nepsilon, at most: 0.01\n"),
        "something else",
    ),
    "a note that steers a screen": (
        lambda data: forged(data, {}, lambda said: said.update(warnings=["\x1b[31mred"])),
        "cannot read",
    ),
    "points without one half": (
        lambda data: forged(data, {}, lambda said: said["points"][0].update(name="luck")),
        "one half",
    ),
    "a card that names another key": (
        lambda data: forged(data, {}, lambda said: said.update(signed_by="0" * 64)),
        "another key",
    ),
    "another title than its study's": (telling(title="Another"), "the title in"),
    "another delta than its study's": (telling(delta=1e-9), "the delta in"),
    "no privacy where its study has some": (without_bound, "the privacy in"),
    "less than no privacy": (promising(-4.0), "the privacy in"),
    "a larger epsilon than its study's": (promising(4000.0), "the privacy in"),
    "a private study without hospitals": (telling(sites={}), "the privacy in"),
    "more rounds than its study has": (telling(rounds=10_000), "the rounds in"),
    "a statement that is written otherwise": (written_otherwise, "not written as"),
    "another study than is named": (study(study={"title": "Another"}), "not the study"),
    "a model that there is not": (study(model={"name": "custom"}), "not a study"),
    "a model that is too large": (study(model={"widths": [4096] * 8}), "network|not a study"),
    "a point of no class": (point_of_no_class, "does not have"),
    "a key that no package has": (key_that_nobody_knows, "cannot read"),
}


@pytest.fixture(scope="module")
def made() -> bytes:
    return package()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_package_is_refused_by_name(
    made: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    hostile, said = KINDS[kind]
    monkeypatch.chdir(tmp_path)
    path = kept(tmp_path, hostile(made))

    with pytest.raises(PackageError, match=said) as refused:
        read(path)

    assert "do" in refused.value.details
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_card_leads_nowhere_though_its_text_would() -> None:
    text = "\n[a](https://example.org) ![b](https://example.org/c.png) <script>1</script>\n"

    shown = card.page(text, "title")

    for element in ("<a", "<img", "<script"):
        assert element not in shown


def test_a_package_that_is_not_hostile_passes_the_same_way(made: bytes, tmp_path: Path) -> None:
    assert read(kept(tmp_path, forged(made, {}))).statement.name == "small"
