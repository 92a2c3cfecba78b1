"""What differs between two plans of a study, entry by entry, under names that a person knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from client.site import Site
from common.plan import Plan
from common.study.bounds import FIELDS, MECHANISM

_NAMES: Final = {
    **{f"study.{bound.place}": bound.name for bound in FIELDS},
    **{f"mechanism.{bound.place}": bound.name for bound in MECHANISM},
    "study.study.title": "title",
    "study.task.kind": "task",
    "study.task.classes": "classes",
    "study.data.dataset": "data set",
    "study.data.modalities": "modalities",
    "study.data.channels": "colour channels",
    "study.model.name": "model",
    "study.privacy.mode": "privacy",
    "study.aggregation.strategy": "how the coordinator combines updates",
    "study.fixed_point.dtype": "number type of an update",
    "declared_patients": "declared patients",
    "most_patients": "most patients in training or evaluation",
    "weight": "weight of this site in the average",
    "known_key": "known key",
    "weights": "numbers in an update",
    "numerics.threads": "threads",
    "numerics.cpu_capability": "processor",
    "numerics.ticks.train": "tick of a round, in ms",
    "numerics.ticks.evaluate": "tick of an evaluation, in ms",
}
"""Names of a plan's entries for a person; any other entry is named by its place in the plan."""


def since_approved(site: Site, plan: Plan) -> tuple[str, ...]:
    """Every difference from the plan of this study that was approved here last."""
    name = plan.study.study.name
    others = [
        each
        for each in site.approvals.all()
        if each.plan.study.study.name == name
        and each.plan.hash != plan.hash
        and each.state not in ("pending", "denied")
    ]
    if not others:
        return ("no other plan of this study was approved here",)
    # The newest of those that ran: a plan that was only proposed is nothing to compare with.
    before = max(others, key=lambda each: each.decided).plan
    return tuple(changes(before, plan)) or ("no visible difference",)


def changes(before: Plan, after: Plan) -> Iterable[str]:
    """Every entry of a plan that is not as in another, in a person's words."""
    old, new = (dict(_flat(plan.model_dump(mode="json"))) for plan in (before, after))
    for place in sorted(old.keys() | new.keys()):
        if old.get(place) != new.get(place):
            yield f"{_name(place)}: {_value(old.get(place))} before, now {_value(new.get(place))}"


def _flat(value: dict[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, each in value.items():
        place = f"{above}{name}"
        if isinstance(each, dict):
            yield from _flat(each, f"{place}.")
        else:
            yield place, each


def _name(place: str) -> str:
    return _NAMES.get(place) or place.removeprefix("study.").replace("_", " ").replace(".", ", ")


def _value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
