"""The model card (Mitchell et al. 2019, arXiv:1810.03993) of a package, in Markdown and HTML.

What it says follows from the statement and the study alone. The page loads nothing and runs
nothing; :func:`fault` holds a received page to that.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

from common.package.graph import preprocessing
from common.package.statement import Figure, Statement
from common.study.study_file import Study
from common.visible import is_steering

TEMPLATES: Final = Path(__file__).resolve().parent / "templates"
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""The page's Content Security Policy: the browser loads and runs nothing."""
_METAS: Final = (
    {"charset": "utf-8"},
    {"http-equiv": "Content-Security-Policy", "content": POLICY},
    {"name": "viewport", "content": "width=device-width, initial-scale=1"},
)
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#1b1b1b;background:#fff;margin:0}"
    "main{max-width:46rem;margin:0 auto;padding:1.5rem}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "th,td{border-bottom:1px solid #ccc;padding:.3rem .8rem .3rem 0;text-align:left}"
    "code{font-size:.85em;overflow-wrap:anywhere}"
    "h1{line-height:1.2}blockquote{margin:1rem 0;padding:.5rem 1rem;border-left:4px solid #b00020}"
)


def markdown(statement: Statement, study: Study) -> str:
    """The card as text."""
    return (
        _environment()
        .get_template("card.md.j2")
        .render(said=statement, study=study, steps=preprocessing(study), names=study.task.names)
    )


def title_of(statement: Statement) -> str:
    """The title of a card's page."""
    return f"Model card: {statement.title}"


def page(text: str, title: str) -> str:
    """A card's Markdown as a page of its own."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(["image", "link", "autolink", "reference"])  # a card leads nowhere
    metas = "".join(map(_meta, _METAS))
    return (
        f'<!doctype html>\n<html lang="en"><head>{metas}<title>{_escaped(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><main>\n{reader.render(text)}</main></body></html>\n"
    )


def fault(text: str, shown: str, title: str) -> str | None:
    """Why a card may do more than be read; None where it cannot.

    A page is taken if it is, to the last byte, what the reader of Markdown makes of the text, which
    takes no HTML: no list of what a browser might run could be complete.

    Args:
        text: the Markdown.
        shown: the page.
        title: of the page.
    """
    if any(is_steering(sign) for sign in text if sign != "\n"):
        return "card.md holds characters that steer a screen"
    if "```" in text or "~~~" in text:
        return "card.md holds a program's text, which no card has"  # colouring it can take hours
    if shown != page(text, title):
        return "card.html is not the page of card.md, and could hold a program"
    return None


def _environment() -> Environment:
    # Markdown, so what is escaped is Markdown's; HTML is made by a reader that takes none.
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # noqa: S701 - of Markdown; every text from a study goes through `plain`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(plain=_plain, figure=_figure, epsilon=_epsilon)
    return made


def _plain(text: str) -> str:
    """A text of somebody else's, with every sign of Markdown's taken as it stands."""
    return re.sub(r"([\\`*_{}\[\]()#!|<>~&])", r"\\\1", text)


def _figure(found: Figure) -> str:
    if found.value is None:
        return f"not known ({_plain(found.why)})" if found.why else "not known"
    shown = f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
    return shown if found.meaningful else f"{shown}; not to be relied on: {_plain(found.why or '')}"


def _epsilon(value: float | None) -> str:
    return "not bounded" if value is None else f"{value:.3f}"


def _meta(given: dict[str, str]) -> str:
    written = " ".join(f'{name}="{value}"' for name, value in given.items())
    return f"<meta {written}>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
