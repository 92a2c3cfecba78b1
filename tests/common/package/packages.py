"""Small packages, and what an attacker makes of them, with a valid signature of the attacker's."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from common.figures.intervals import Estimate
from common.files import canonical_json, sha256
from common.models.networks import initial_weights
from common.package import archive, card
from common.package.package import _PURPOSE, write
from common.package.statement import SitePart, Statement
from common.scores.adjustment import Adjustment
from common.scores.operating import OperatingPoint
from common.scores.scaling import Scaling
from common.study.study_file import Study
from common.wire.signing import SigningKey
from tests.common.studies import small_study

KEY = SigningKey(bytes(32))
ATTACKER = SigningKey(b"a" * 32)
HALF = OperatingPoint("one half", 1, 0.5, Estimate(0.8, 0.7, 0.9), Estimate(0.7, 0.6, 0.8))


def statement(study: Study, **changes: object) -> Statement:
    """What a package of a study may say."""
    said = Statement(
        name=study.study.name,
        title=study.study.title,
        study="0" * 64,
        weights="0" * 64,
        rounds=3,
        delta=1e-5,
        sites={"north": SitePart(declared_patients=40, plan="1" * 64, epsilon=3.0)},
    )
    return said.model_copy(update=changes)


def package(study: Study | None = None, **changes: object) -> bytes:
    """A whole package."""
    study = small_study() if study is None else study
    # Writing a graph takes seconds: a package that nothing is changed in is made once.
    return _made(study, **changes) if changes else _once(study)


@lru_cache
def _once(study: Study) -> bytes:
    return _made(study)


def _made(study: Study, **changes: object) -> bytes:
    weights = initial_weights(study, 1)
    earlier = np.stack([weights, weights * np.float32(1.1)])
    said = statement(study, **changes)
    if len(study.task.classes) == 2 and not study.heads.dense:
        said = said.adjusted(Adjustment(Scaling(2.0, 0.5), (HALF,), (HALF,)))
    return write(said, study, weights, earlier, KEY)


def members(data: bytes) -> dict[str, bytes]:
    """What a package holds."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return {each: opened.read(each) for each in opened.namelist()}


def forged(
    data: bytes,
    change: Mapping[str, bytes],
    said: Callable[[dict[str, Any]], None] = lambda _: None,
) -> bytes:
    """The package with other members, hashed and signed again by an attacker.

    Args:
        data: a package.
        change: the members that are replaced.
        said: changes the statement.
    """
    inside = members(data) | dict(change)
    told = json.loads(inside[archive.STATEMENT])
    told["members"] = {
        name: sha256(content)
        for name, content in inside.items()
        if name not in (archive.STATEMENT, archive.SIGNATURE)
    }
    told["signed_by"] = ATTACKER.public
    said(told)
    if not {archive.CARD, archive.CARD_PAGE} & change.keys():
        inside |= _card(told, inside[archive.STUDY])
        told["members"] |= {
            name: sha256(inside[name]) for name in (archive.CARD, archive.CARD_PAGE)
        }
    return signed(inside, canonical_json(told))


def _card(told: dict[str, Any], study: bytes) -> dict[str, bytes]:
    """The card that belongs to a statement, where one can be written."""
    try:
        spoken, about = Statement.model_validate(told), Study.model_validate_json(study)
        text = card.markdown(spoken, about)
    except Exception:  # noqa: BLE001 - of a statement that no card can be written for
        return {}
    title = card.title_of(spoken)
    return {archive.CARD: text.encode(), archive.CARD_PAGE: card.page(text, title).encode()}


def signed(inside: Mapping[str, bytes], said: bytes) -> bytes:
    """Members with a statement that an attacker signs, whatever it is."""
    signature = ATTACKER.sign(_PURPOSE + said).hex()
    written = canonical_json({"key": ATTACKER.public, "signature": signature})
    return archive.pack({**inside, archive.STATEMENT: said, archive.SIGNATURE: written})


def kept(folder: Path, data: bytes) -> Path:
    """A file of these bytes."""
    path = folder / "model.consilium"
    path.write_bytes(data)
    return path
