"""A model package: made when a study has ended, and opened by whoever has it.

Opening reads data and runs nothing: JSON with bounded depth, safetensors, and a graph that is
looked at and never loaded into a runtime. All that is said is signed by the coordinator; the
signature shows that nothing was changed, and with the coordinator's card, who made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import Field, ValidationError

from common.documents import read_json
from common.errors import ConsiliumError, PackageError
from common.files import canonical_json, sha256
from common.package import archive
from common.package.archive import refused
from common.package.statement import FORMAT, Statement
from common.scores.operating import HALF, cheapest
from common.settings import Section
from common.study.study_file import PatientPrivacy, Study
from common.wire.enrolment import SigningKeyText
from common.wire.signing import SigningKey, verify

if TYPE_CHECKING:
    from torch import nn

EARLIER_MOST: Final = 8
"""Rounds before the last whose weights a package has, at most."""
_PURPOSE: Final = b"consilium/package/1\n"
"""Signed before the statement: a signature of something else is none of a package."""


class Signature(Section):
    """``signature.json``."""

    key: SigningKeyText
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


@dataclass(frozen=True, eq=False)
class Package:
    """An opened package. Public.

    Attributes:
        statement: what it says.
        study: what was learned.
        weights: flat float32.
        earlier: (rounds, weights) float32, the global weights of the last rounds, oldest first.
        key: the public key that signed it, hexadecimal.
        sha256: of the file.
        members: its files by name, as they were signed.
    """

    statement: Statement
    study: Study
    weights: npt.NDArray[np.float32] = field(repr=False)
    earlier: npt.NDArray[np.float32] = field(repr=False)
    key: str
    sha256: str
    members: Mapping[str, bytes] = field(repr=False)

    @property
    def name(self) -> str:
        """What the model is called: its study, and the first digits of its weights' hash."""
        return f"{self.statement.name}-{self.statement.weights[:8]}"

    @property
    def card(self) -> str:
        """The model card, in Markdown."""
        return self.members[archive.CARD].decode()

    def with_cheapest(self, cost_ratio: float, prevalence: float) -> Package:
        """The same with the operating points of the smallest expected cost.

        Args:
            cost_ratio: the cost of a missed patient over that of a false alarm.
            prevalence: share of patients who have the finding, in (0, 1).

        Raises:
            PackageError: nothing is known of any threshold.
        """
        known = self.statement.adjustment
        found = [
            cheapest(
                [edge for edge in known.edges if edge.positive == positive],
                cost_ratio=cost_ratio,
                prevalence=prevalence,
            )
            for positive in sorted({edge.positive for edge in known.edges})
        ]
        chosen = tuple(point for point in found if point is not None)
        if not chosen:
            raise PackageError(
                "the package has no thresholds to choose from",
                found="no counts of an evaluation that say enough",
                remedy="leave --cost and --prevalence out",
            )
        points = (*known.points, *chosen)
        return replace(self, statement=self.statement.adjusted(replace(known, points=points)))


def write(
    statement: Statement,
    study: Study,
    weights: npt.NDArray[np.float32],
    earlier: npt.NDArray[np.float32],
    key: SigningKey,
) -> bytes:
    """The bytes of a package; the same model and key give the same bytes.

    Args:
        statement: what is said; hashes of study, weights and members are filled in.
        study: what was learned.
        weights: flat float32, the model that is handed out.
        earlier: (rounds, weights) float32, the global weights of the last rounds, oldest first.
        key: the coordinator's.
    """
    from common.models.networks import build_model, load_flat
    from common.package import card, graph

    model = build_model(study)
    load_flat(model, weights)
    told = statement.model_copy(
        update={
            "study": sha256(_study_text(study)),
            "weights": sha256(weights.astype("<f4").tobytes()),
            "signed_by": key.public,
        }
    )
    text = card.markdown(told, study)
    members = {
        archive.STUDY: _study_text(study),
        archive.WEIGHTS: safetensors.numpy.save(_named(model), {"format": "pt"}),
        archive.EARLIER: safetensors.numpy.save({"weights": np.ascontiguousarray(earlier)}),
        archive.GRAPH: graph.export(study, model),
        archive.CARD: text.encode(),
        archive.CARD_PAGE: card.page(text, card.title_of(told)).encode(),
    }
    told = told.model_copy(
        update={"members": {name: sha256(content) for name, content in members.items()}}
    )
    said = canonical_json(told.model_dump(mode="json"))
    signature = Signature(key=key.public, signature=key.sign(_PURPOSE + said).hex())
    signed = canonical_json(signature.model_dump(mode="json"))
    return archive.pack({archive.STATEMENT: said, archive.SIGNATURE: signed, **members})


def read(path: Path) -> Package:
    """Open a package.

    Raises:
        PackageError: it is missing, was changed, or holds what no package does.
    """
    members, whole = archive.unpack(path)
    statement, key = _statement(path, members)
    for name, content in members.items():
        if name in (archive.STATEMENT, archive.SIGNATURE):
            continue
        if statement.members.get(name) != sha256(content):
            raise refused(path, f"{name} is not the one that was signed")
    study = _study(path, members[archive.STUDY])
    _require_inert(path, members, statement)
    weights = _weights(path, members[archive.WEIGHTS], study)
    if sha256(weights.astype("<f4").tobytes()) != statement.weights:
        raise refused(path, f"{archive.WEIGHTS} are not the weights that it names")
    if sha256(members[archive.STUDY]) != statement.study or statement.name != study.study.name:
        raise refused(path, f"{archive.STUDY} is not the study that it names")
    _require_of_study(path, statement, study)
    _require_card(path, members, statement, study)
    return Package(
        statement=statement,
        study=study,
        weights=weights,
        earlier=_earlier(path, members[archive.EARLIER], weights.size),
        key=key,
        sha256=whole,
        members=members,
    )


def _study_text(study: Study) -> bytes:
    return canonical_json(study.model_dump(mode="json"))


def _named(model: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    return {
        name: np.ascontiguousarray(value.detach().numpy())
        for name, value in model.named_parameters()
    }


def _statement(path: Path, members: Mapping[str, bytes]) -> tuple[Statement, str]:
    """What is said, and the key that signed it."""
    said, signed = members[archive.STATEMENT], members[archive.SIGNATURE]
    for name, content in ((archive.STATEMENT, said), (archive.SIGNATURE, signed)):
        if len(content) > archive.MOST_TEXT:
            raise refused(path, f"{name} is larger than {archive.MOST_TEXT >> 20} MiB")
    try:
        signature = Signature.model_validate_json(signed)
    except ValidationError as cause:
        raise refused(path, f"{archive.SIGNATURE} is no signature") from cause
    _require_canonical(path, archive.SIGNATURE, signed)
    if not verify(signature.key, _PURPOSE + said, bytes.fromhex(signature.signature)):
        raise refused(path, f"{archive.STATEMENT} was changed after it was signed")
    try:
        statement = Statement.model_validate_json(said)
    except ValidationError as cause:
        raise PackageError(
            "this version of Consilium cannot read the package",
            where=path,
            found=_first(cause),
            wanted=f"a package of format {FORMAT}",
            remedy="install the version of Consilium that made it, or ask for a new package",
        ) from cause
    _require_canonical(path, archive.STATEMENT, said)
    if statement.signed_by != signature.key:
        raise refused(path, "its card names another key than the one that signed it")
    return statement, signature.key


def _study(path: Path, text: bytes) -> Study:
    if len(text) > archive.MOST_TEXT:
        raise refused(path, f"{archive.STUDY} is larger than {archive.MOST_TEXT >> 20} MiB")
    try:
        study = Study.model_validate_json(text)
    except ValidationError as cause:
        raise refused(path, f"{archive.STUDY} is not a study: {_first(cause)}") from cause
    _require_canonical(path, archive.STUDY, text)
    return study


def _require_canonical(path: Path, name: str, text: bytes) -> None:
    """Refuse what is written otherwise than we write it: two readers could read two things."""
    if canonical_json(read_json(text)) != text:
        raise refused(path, f"{name} is not written as a package's is")


def _first(cause: ValidationError) -> str:
    fault = cause.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, fault['loc']))[:100]}: {fault['msg'][:200]}"


def _require_inert(path: Path, members: Mapping[str, bytes], statement: Statement) -> None:
    """Refuse a graph or a page that could reach for something outside the package."""
    from common.package import card, graph

    if len(members[archive.CARD]) > archive.MOST_CARD:
        raise refused(path, f"{archive.CARD} is larger than {archive.MOST_CARD >> 20} MiB")
    found = graph.fault(members[archive.GRAPH])
    try:
        text, page = (members[each].decode() for each in (archive.CARD, archive.CARD_PAGE))
        found = found or card.fault(text, page, card.title_of(statement))
    except UnicodeDecodeError:
        found = "its card is not text"
    if found:
        raise refused(path, found)


def _require_card(
    path: Path, members: Mapping[str, bytes], statement: Statement, study: Study
) -> None:
    """Refuse a card that says something else than what was signed in figures.

    So a change of its template is a change of the package's format.
    """
    from common.package import card

    if members[archive.CARD].decode() != card.markdown(statement, study):
        raise refused(path, f"{archive.CARD} says something else than {archive.STATEMENT}")


def _weights(path: Path, data: bytes, study: Study) -> npt.NDArray[np.float32]:
    """The flat weights, once each array has the name and shape that the study's network has."""
    from common.models.networks import sketch

    arrays = _arrays(path, archive.WEIGHTS, data)
    try:
        wanted = {name: tuple(each.shape) for name, each in sketch(study).named_parameters()}
    except ConsiliumError as cause:
        raise refused(
            path, f"no network can be built from {archive.STUDY}: {cause.what}"
        ) from cause
    if {name: each.shape for name, each in arrays.items()} != wanted:
        raise refused(path, f"{archive.WEIGHTS} do not fit the network of its study")
    return np.concatenate([arrays[name].reshape(-1) for name in wanted])


def _earlier(path: Path, data: bytes, weights: int) -> npt.NDArray[np.float32]:
    arrays = _arrays(path, archive.EARLIER, data)
    found = arrays.get("weights")
    fits = found is not None and found.ndim == 2 and found.shape[1] == weights
    if found is None or not fits or len(arrays) != 1 or len(found) > EARLIER_MOST:
        raise refused(path, f"{archive.EARLIER} do not fit the network of its study")
    return found


def _arrays(path: Path, name: str, data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as cause:
        # Only now: a header of safetensors may be of a length that begins like a pickle.
        if archive.is_pickle(data):
            raise refused(path, f"{name} is a pickle: opening one can run any program") from cause
        raise refused(path, f"{name} cannot be read as safetensors") from cause
    if not all(each.dtype == np.float32 and np.isfinite(each).all() for each in arrays.values()):
        raise refused(path, f"{name} has numbers that are no finite float32")
    return arrays


def _require_of_study(path: Path, statement: Statement, study: Study) -> None:
    """Refuse a statement that its study contradicts, or operating points that decide nothing."""
    told, delta = [each.epsilon for each in statement.sites.values()], None
    agrees = all(each is None for each in told)
    if isinstance(study.privacy, PatientPrivacy):
        most, delta = study.privacy.epsilon * (1 + 1e-6), study.privacy.delta
        agrees = bool(told) and all(each is not None and 0 < each <= most for each in told)
    reasons = (
        ("title", statement.title != study.study.title),
        ("delta", statement.delta != delta),
        ("privacy", not agrees),
        ("rounds", statement.rounds > study.training.rounds),
    )
    for name, wrong in reasons:
        if wrong:
            raise refused(path, f"the {name} in {archive.STATEMENT} is not that of its study")
    classes = len(study.task.classes)
    points = (*statement.points, *statement.edges)
    if any(point.positive >= classes for point in points):
        raise refused(path, "an operating point is of a class that the study does not have")
    for positive in {point.positive for point in statement.points}:
        names = [point.name for point in statement.points if point.positive == positive]
        if HALF not in names or len(set(names)) < len(names):
            raise refused(path, f"the operating points of a class are not each there once: {HALF}")
