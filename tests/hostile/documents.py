"""Hostile documents: plans that cannot be read, or that differ from what the message says."""

from __future__ import annotations

import json
from typing import Any, Final

from common.wire.messages import LedgerHead
from tests.common.studies import small_study
from tests.hostile.case import Case, planned
from tests.hostile.sound import Sent, Sound, canonical, changed, sent, weights

DEEP: Final = "[" * 100_000
LARGE: Final[dict[str, Any]] = {"image_size": [1024, 1024]}
VAST: Final = {"name": "scattering", "scales": 6, "orientations": 32}
"""Filters that take 64 planes of an image's size, and leave few features."""
_ALONE: Final[dict[str, Any]] = dict.fromkeys(("widths", "hidden", "norm", "pooling"))
TRAVERSAL: Final = "../../etc"


def _written(text: str) -> Any:  # noqa: ANN401 - builds a message
    """A proposal of any text, plan or not."""
    return lambda s: sent(s.proposal(text))


def _reordered(sound: Sound) -> Sent:
    document = json.loads(sound.plan.text)
    swapped = dict(reversed(document.items()))
    return sent(sound.proposal(json.dumps(swapped, separators=(",", ":"))))


def _repeated_key(sound: Sound) -> Sent:
    """The second of two values wins when it is read; a person might be shown the first."""
    return sent(sound.proposal('{"declared_patients":9,' + sound.plan.text[1:]))


def _study(**sections: dict[str, Any]) -> dict[str, Any]:
    return small_study(**sections).model_dump(mode="json")


_MASKED: Final = _study(
    task={"kind": "segmentation", "classes": ["heart"]},
    model=_ALONE | {"name": "unet", "widths": [2, 4]},
)
SEGMENTATION: Final = (("study.task", _MASKED["task"]), ("study.model", _MASKED["model"]))
"""Instead of a class for each patient, one for each pixel: as many votes of a patient."""

NUMBER: Final = ("study.task", _study(task={"kind": "regression", "classes": []})["task"])
"""Instead of a class for each patient, a number."""

FORM: Final = (
    planned("a plan with an unknown field", "malformed", "what no reviewer knows", ("extra", 1)),
    planned(
        "a study with an unknown field",
        "malformed",
        "what no reviewer knows",
        ("study.training.noise", 0),
    ),
    planned("another format of plan", "malformed", "rules of another version", ("format", 2)),
    planned("a number as a string", "malformed", "two readings of one plan", ("weight", "20")),
    planned("a number as a truth value", "malformed", "two readings of one plan", ("format", True)),
    planned("a number as a fraction", "malformed", "two readings", ("study.training.rounds", 3.0)),
    planned("a truth value as a number", "malformed", "two readings of one plan", ("known_key", 0)),
    planned(
        "a number beyond all arithmetic",
        "malformed",
        "an overflow in a place that is not checked",
        ("study.training.batch_size", 10**400),
    ),
    planned(
        "more steps than can be accounted",
        "malformed",
        "a site that composes for hours",
        ("study.training.rounds", 100_000),
        ("study.training.local_steps", 100_000),
    ),
    planned("another task", "malformed", "another use of images", ("study.task.kind", "retrieval")),
    planned(
        "one class alone",
        "malformed",
        "a histogram that is a count of patients",
        ("study.task.classes", ["normal"]),
    ),
    planned(
        "a class twice",
        "malformed",
        "a vote that counts twice",
        ("study.task.classes", ["normal", "normal"]),
    ),
    planned(
        "a class twice in masks",
        "malformed",
        "a patient who is counted twice",
        *SEGMENTATION,
        ("study.task.classes", ["heart", "heart"]),
    ),
    planned(
        "weights of pixels for a patient",
        "malformed",
        "a loss in which one patient drowns the others",
        *SEGMENTATION,
        ("study.task.class_weights", [1.0, 100.0]),
    ),
    planned(
        "classes of a number",
        "malformed",
        "words in a plan that nobody looks for",
        NUMBER,
        ("study.task.classes", ["heart"]),
    ),
    planned(
        "a range without width",
        "malformed",
        "a division by zero for one patient",
        NUMBER,
        ("study.task.highest", 0.0),
    ),
    planned(
        "masks where there are none",
        "data-unavailable",
        "labels taken for masks",
        *SEGMENTATION,
    ),
    planned(
        "a bin for each patient",
        "malformed",
        "a histogram in which each patient has a cell",
        ("study.evaluation.bins", 1002),
    ),
    planned(
        "an evaluation after the last round",
        "malformed",
        "a look that no round pays for",
        ("study.evaluation.rounds", [3, 4]),
    ),
    planned(
        "one release that is several rounds",
        "malformed",
        "a head that is known from a release, and rounds on it",
        ("study.training.method", "one-shot"),
    ),
    planned(
        "weights of classes for a patient",
        "malformed",
        "a loss in which one class drowns the others",
        ("study.task.class_weights", [1.0, 1.0, 100.0]),
    ),
    planned(
        "more images of a patient than are averaged",
        "malformed",
        "a patient whose images count by number",
        ("study.training.images_per_patient", 65),
    ),
    Case(
        "an epsilon that is not a number",
        "comparisons that are always false",
        lambda s: sent(s.proposal(s.plan.text.replace('"epsilon":8.0', '"epsilon":NaN'))),
        "malformed",
    ),
    Case(
        "an infinite clip norm",
        "no bound on anyone",
        lambda s: sent(s.proposal(s.plan.text.replace('"clip_norm":1.0', '"clip_norm":Infinity'))),
        "malformed",
    ),
    Case(
        "a space in a plan",
        "two plans, one meaning",
        lambda s: sent(s.proposal(s.plan.text + " ")),
        "malformed",
    ),
    Case("a plan in another order", "two plans, one meaning", _reordered, "malformed"),
    Case("a key twice in a plan", "two readings of one plan", _repeated_key, "malformed"),
    Case("no plan", "an approval of nothing", _written(""), "malformed"),
    Case("a plan that is a list", "a crash", _written("[]"), "malformed"),
    Case("a plan of brackets alone", "a crash by depth", _written(DEEP), "malformed"),
    planned(
        "a study named as a path",
        "malformed",
        "a file of the site's, written or read",
        ("study.study.name", TRAVERSAL),
    ),
    planned(
        "a data set named as a path",
        "malformed",
        "a folder that the site file does not name",
        ("study.data.dataset", TRAVERSAL),
    ),
    planned(
        "a data set with a zero byte in its name",
        "malformed",
        "a name that ends earlier for some",
        ("study.data.dataset", "chest-xray\0"),
    ),
    planned(
        "a study with a Cyrillic letter in its name",
        "malformed",
        "a study taken for another",
        ("study.study.name", "ѕmall"),  # noqa: RUF001 - the Cyrillic letter is the attack
    ),
    planned(
        "a title of two lines",
        "malformed",
        "a line that looks as if the site's program had written it",
        ("study.study.title", "Harmless\nepsilon: 0.1"),
    ),
    planned(
        "a title that steers a terminal",
        "malformed",
        "what a person reads before approving",
        ("study.study.title", "\x1b[2JHarmless"),
    ),
    planned(
        "a title that is read from right to left",
        "malformed",
        "what a person reads before approving",
        ("study.study.title", "Costs \u202e8.0\u202c"),
    ),
    planned(
        "a title with a line separator",
        "malformed",
        "what a person reads before approving",
        ("study.study.title", "Harmless\u2028epsilon: 0.1"),
    ),
    planned("a title without end", "malformed", "a full log", ("study.study.title", "x" * 10**6)),
)

ENVELOPE: Final = (
    Case(
        "a plan under another plan's hash",
        "an approval of what was not shown",
        lambda s: sent(s.proposal(plan_hash="ab" * 32)),
        "wrong-plan",
    ),
    Case(
        "another plan under the approved one's hash",
        "an approval of what was not shown",
        lambda s: sent(
            s.proposal(changed(s.plan.text, ("study.study.title", "Other")), plan_hash=s.plan.hash)
        ),
        "wrong-plan",
    ),
    Case(
        "a plan under another study's name",
        "a log that names the wrong study",
        lambda s: sent(s.proposal(study="other")),
        "wrong-plan",
    ),
    Case(
        "a plan with weights beside it",
        "an array that nothing checks",
        lambda s: sent(s.proposal(arrays=weights(1))),
        "malformed",
    ),
    Case(
        "a proposal in a round",
        "a reply that can be taken for a round's",
        lambda s: sent(s.proposal(round=2)),
        "malformed",
    ),
    Case(
        "a proposal that has seen a longer ledger",
        "a site that goes on from an old backup",
        lambda s: sent(s.proposal(ledger=LedgerHead(99, "00" * 32))),
        "ledger-behind",
    ),
    Case(
        "an offer asked for under another study's name",
        "a log that names the wrong study",
        lambda s: sent(s.offer(study="other")),
        "wrong-plan",
    ),
    Case(
        "an offer asked for with weights",
        "an array that nothing checks",
        lambda s: sent(s.offer(arrays=weights(1))),
        "malformed",
    ),
    Case(
        "an offer asked for under a plan's hash",
        "a reply that can be taken for the plan's",
        lambda s: sent(s.offer(plan_hash=s.plan.hash)),
        "malformed",
    ),
    Case(
        "an offer for a study that takes more memory than the site gives",
        "a site that runs out of memory for something that nobody approved",
        lambda s: sent(s.offer(canonical(_study(model=_ALONE | VAST, data=LARGE)))),
        "policy",
    ),
    Case("an offer for no study", "a crash", lambda s: sent(s.offer("")), "malformed"),
    Case("an offer for brackets", "a crash by depth", lambda s: sent(s.offer(DEEP)), "malformed"),
    Case(
        "an offer for an unknown data set",
        "a list of what the hospital has",
        lambda s: sent(s.offer(canonical(_study(data={"dataset": "hand"})))),
        "data-unavailable",
    ),
    Case(
        "an offer for a model beyond all memory",
        "a site that swaps memory without end",
        lambda s: sent(
            s.offer(canonical(_study(data={"image_size": [4096, 4096]}, model={"hidden": 65_536})))
        ),
        "malformed",
    ),
)

DOCUMENTS: Final = (*FORM, *ENVELOPE)
