"""A study that is trained by one release: ``[training] method = "one-shot"``.

Each patient adds one vector: what is known of the patient (the class, or the number) times the
public features of the image and a one. That is the gradient of a loss that is linear in the head's
output, so it does not depend on the head's weights, and everything that clips, noises, charges and
sends a gradient serves it as it is. The features have one length
(:data:`common.scores.moments.LENGTH`), so the vector's is at most :data:`CLIP_NORM`.

The coordinator computes the head from the sum (:mod:`common.scores.moments`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Protocol

from common.scores.moments import LENGTH

CLIP_NORM: Final = math.sqrt(LENGTH**2 + 1)
"""L2 norm of the features of an image with the one beside them."""
_SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "training": {"rounds": 1, "learning_rate": 1.0},
    "model": {"trainable": ("head",)},
    "privacy": {"clip_norm": CLIP_NORM},
}
"""What a one-shot study says, and need not write."""
_ONLY: Final = {"rounds": 1, "local_steps": 1, "momentum": 0.0, "weight_decay": 0.0}
"""Of ``[training]``: what has one value that fits."""


class Agreeing(Protocol):
    """What of a study has to agree; :class:`common.study.study_file.Study` has it."""

    @property
    def one_shot(self) -> bool:
        """Whether it is trained by one release."""
        ...

    @property
    def training(self) -> Any:  # noqa: ANN401 - a section of a study, which imports this
        """The schedule."""
        ...

    @property
    def aggregation(self) -> Any:  # noqa: ANN401 - as above
        """The strategy."""
        ...

    @property
    def model(self) -> Any:  # noqa: ANN401 - as above
        """The network."""
        ...

    @property
    def task(self) -> Any:  # noqa: ANN401 - as above
        """What is learned."""
        ...

    @property
    def privacy(self) -> Any:  # noqa: ANN401 - as above
        """What protects the patients."""
        ...


def with_settings(document: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """A study's document with what ``one-shot`` asks for, where the document leaves it out."""
    training = document.get("training") if isinstance(document, dict) else None
    if not isinstance(training, dict) or training.get("method") != "one-shot":
        return document
    whole = dict(document)
    for section, settings in _SETTINGS.items():
        said = whole.get(section, {})
        if isinstance(said, dict) and not (section == "privacy" and said.get("mode") != "patient"):
            whole[section] = {**settings, **said}
    return whole


def require_agreed(study: Agreeing) -> None:
    """Refuse settings that one release cannot have.

    Raises:
        ValueError: names the first of them.
    """
    if not study.one_shot:
        return
    training, model = study.training, study.model
    found: dict[str, tuple[Any, Any]] = {
        **{f"training.{key}": (getattr(training, key), only) for key, only in _ONLY.items()},
        "model.trainable": (list(model.trainable), ["head"]),
        "model.adapters": (model.adapters, None),
        "privacy.clip_norm": (getattr(study.privacy, "clip_norm", CLIP_NORM), CLIP_NORM),
    }
    for key, (is_now, should) in found.items():
        if is_now != should:
            said = "left out" if should is None else f"left out, or {should}"
            raise ValueError(f'{key} is {is_now}; with training.method = "one-shot" it is {said}')
    if study.aggregation.options.every_reply:
        raise ValueError(
            f"aggregation.strategy is {study.aggregation.strategy}, which compares replies; with "
            'training.method = "one-shot" they are added up'
        )
    if model.projection is None:
        raise ValueError(
            'training.method = "one-shot" needs model.projection: to how many numbers the features '
            "of an image are projected, such as 64"
        )
    if not study.task.sums:
        raise ValueError(
            f'training.method = "one-shot" has no sums for task.kind = "{study.task.kind}"; it has '
            "them for classification and for regression"
        )
