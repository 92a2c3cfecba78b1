"""``pictures.html``: what a model says of some images and why, in one file that loads nothing.

Pictures are inlined, there is no script, and the page's own policy forbids the browser to load
anything. Every text may come from elsewhere: HTML in it is shown as text, and a character that
steers or hides text is shown as its number.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from client.reasons.methods import Method
from common.palette import colour_of
from common.visible import visible

TEMPLATES: Final = Path(__file__).resolve().parent / "templates"
WARNING: Final = "Research use only. Not for diagnosis."


@dataclass(frozen=True)
class Explained:
    """One image on the page. Sensitive.

    Attributes:
        name: of the image, such as its file's.
        scores: what the model says: a name and a value, each as it is to be shown.
        picture: PNG, such as of :func:`client.reasons.pictures.map_picture`.
        output: name of the output that the picture explains; empty where it shows the outputs.
    """

    name: str
    scores: tuple[tuple[str, str], ...]
    picture: bytes
    output: str = ""


def render(
    entries: Sequence[Explained],
    *,
    title: str,
    method: Method | None = None,
    facts: Sequence[tuple[str, str]] = (),
    outlined: Sequence[str] = (),
) -> str:
    """The page's HTML; the same input gives the same text. Sensitive.

    Args:
        entries: in the order in which they are shown.
        title: of the study.
        method: that made the pictures; None where they show outlines alone.
        facts: about the model, name and value.
        outlined: classes of a mask whose outlines pictures have, in the order of their numbers.
    """
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        # A misspelt name in the template is an error, not an empty place.
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return made.get_template("page.html.j2").render(
        entries=[(entry, _inline(entry)) for entry in entries],
        title=title,
        method=method,
        facts=facts,
        outlined=[(colour_of(number), name) for number, name in enumerate(outlined, start=1)],
        warning=WARNING,
    )


def _finalize(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _inline(entry: Explained) -> str:
    return f"data:image/png;base64,{base64.b64encode(entry.picture).decode()}"
