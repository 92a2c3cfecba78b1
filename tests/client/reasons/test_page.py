"""The page: what it says first, that it loads nothing, and that names stay text."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import pytest

from client.reasons.methods import METHODS
from client.reasons.page import Explained, render

PNG = b"\x89PNG\r\n\x1a\nnot a real one"


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(name: str = "a.dcm", **changes: object) -> str:
    entry = Explained(name, (("normal", "0.25"), ("pneumonia", "0.75")), PNG, "pneumonia")
    given = {"title": "Chest X-rays", "method": METHODS["occlusion"], **changes}
    return render([entry], **given)  # type: ignore[arg-type] # a test's own changes


def test_it_begins_with_what_it_is_not_for() -> None:
    read = Reader(page())
    words = [line.strip() for line in read.text if line.strip()]
    body = words[words.index("Research use only. Not for diagnosis.") :]
    assert body[0] == "Research use only. Not for diagnosis."
    assert [tag for tag, _ in read.tags].index("p") < [tag for tag, _ in read.tags].index("h1")


def test_it_loads_nothing_and_runs_nothing() -> None:
    read = Reader(page())
    policy = [tag["content"] for _, tag in read.tags if "http-equiv" in tag]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert {tag for tag, _ in read.tags} & {"script", "link", "iframe", "object", "a"} == set()
    addresses = [tag["src"] for _, tag in read.tags if "src" in tag]
    assert addresses == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    assert "url(" not in page()


def test_it_says_what_the_method_shows_and_what_it_does_not() -> None:
    for method in METHODS.values():
        text = " ".join(Reader(page(method=method)).text)
        assert method.shows in text
        assert method.hides in text
        assert f"{method.title} for" in text


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>.dcm",
        "\"><img src=x onerror='alert(1)'>",
        "</style></title><b>",
        "{{ 7 * 7 }}.png",
        "胸部 X線.dcm",
        "صدر.dcm",
        "Thorax – Übersicht ✓.png",
    ],
)
def test_a_name_is_text_in_whatever_script(name: str) -> None:
    entry = Explained(name, ((name, name),), PNG, name)
    made = render(
        [entry],
        title=name,
        method=METHODS["occlusion"],
        facts=[(name, name)],
        outlined=[name],
    )
    read = Reader(made)
    assert read.text.count(name) == 8
    assert [tag["alt"] for kind, tag in read.tags if kind == "img"] == [
        f"Map over the image, for {name}"
    ]
    tags = [tag for tag, _ in Reader(render([entry], title="x")).tags]
    assert {"script", "b"}.isdisjoint(tags)


def test_a_mark_that_turns_the_direction_of_reading_is_shown_as_its_number() -> None:
    made = page("gpj.\u202egnp\x1b[2J\n.dcm")
    assert "gpj.\\u202egnp\\x1b[2J\\x0a.dcm" in made
    assert "\u202e" not in made


def test_outlines_have_a_key_and_need_no_method() -> None:
    made = page(method=None, outlined=["tumour", "edema"])
    assert '<span style="background: #0072B2"></span><bdi>tumour</bdi>' in made
    assert '<span style="background: #D55E00"></span><bdi>edema</bdi>' in made
    assert "What they do not show" not in made


def test_the_same_entries_give_the_same_page() -> None:
    assert page() == page()
    assert "1 image<" in page()
    assert "0 images" in render([], title="Nothing", method=METHODS["grad_cam"])
