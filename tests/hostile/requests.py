"""Hostile rounds: well-formed requests about an approved plan with one thing wrong."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from common.files import sha256
from common.wire.messages import HASH_OF_NOTHING, LedgerHead
from tests.hostile.amendments import compute_with_two_threads
from tests.hostile.case import Case
from tests.hostile.sound import Flat, Sent, Sound, changed, sent, weights

NOT_THE_STUDYS: Final = "work that nobody approved"


def training(name: str, code: str, gain: str, *, after: int = 1, **changes: Any) -> Case:  # noqa: ANN401
    """The next round, changed."""
    return Case(name, gain, lambda s: sent(s.train(**changes)), code, after)


def evaluating(name: str, code: str, gain: str, *, after: int = 1, **changes: Any) -> Case:  # noqa: ANN401
    """The last round's evaluation, changed."""
    return Case(name, gain, lambda s: sent(s.evaluate(**changes)), code, after)


def repeating(name: str, code: str, gain: str, step: int, *, after: int, **changes: Any) -> Case:  # noqa: ANN401
    """A step that the site has answered, asked again with changes and the newest head."""

    def build(sound: Sound) -> Sent:
        return sent(sound.at(step).train(ledger=sound.ledger, **changes))

    return Case(name, gain, build, code, after)


def arrays(name: str, array: Flat) -> Case:
    """The next round with arrays that do not fit the model."""
    return training(
        name, "malformed", "a computation on something that nobody expected", arrays=array
    )


def _spoilt(value: float) -> Flat:
    spoilt = weights(2)
    spoilt[7] = value
    return spoilt


def _under(*changes: tuple[str, Any]) -> Any:  # noqa: ANN401 - builds a message
    """A round under the hash of a plan that was never proposed."""

    def build(sound: Sound) -> Sent:
        other = changed(sound.plan.text, *changes)
        return sent(sound.train(plan_hash=sha256(other.encode())))

    return build


UNAPPROVED: Final = (
    *(
        Case(f"a round under a plan with {what}", NOT_THE_STUDYS, _under(*changes), "not-approved")
        for what, changes in (
            ("more rounds", [("study.training.rounds", 30)]),
            ("fewer local steps", [("study.training.local_steps", 1)]),
            ("less noise", [("mechanism.step.noise_multiplier", 0.3)]),
            (
                "a larger clip norm",
                [("study.privacy.clip_norm", 9.0), ("mechanism.clip_norm", 9.0)],
            ),
            ("another data set", [("study.data.dataset", "mammography")]),
            ("another task", [("study.task.classes", ["a", "b"])]),
        )
    ),
    training("a round of an unknown plan", "not-approved", NOT_THE_STUDYS, plan_hash="00" * 32),
    training("a round of no plan", "not-approved", NOT_THE_STUDYS, plan_hash=""),
    evaluating("an evaluation of no plan", "not-approved", NOT_THE_STUDYS, plan_hash=""),
    training("a round in another study's name", "wrong-plan", "a false log", study="other"),
    evaluating("an evaluation in another study's name", "wrong-plan", "a false log", study="other"),
    training("a round of a study without a name", "wrong-plan", "a log without a name", study=""),
)

ORDER: Final = (
    training("round zero", "round-out-of-order", "a release outside the account", round=0),
    training("a round more than approved", "round-out-of-order", "a release more", round=4),
    training("the largest round", "round-out-of-order", "a release more", round=2**31 - 1),
    training(
        "a round more than approved, after the last",
        "round-out-of-order",
        "a release more",
        after=4,
        round=4,
    ),
    evaluating(
        "an evaluation in a round that has none",
        "round-out-of-order",
        "a histogram more",
        round=2,
    ),
    evaluating("an evaluation before training", "round-out-of-order", "a histogram more", round=0),
    repeating(
        "a round that is over, with the arrays it had",
        "round-out-of-order",
        "a second release for one charge",
        0,
        after=3,
    ),
    repeating(
        "a round that is over, with other arrays",
        "round-out-of-order",
        "the same patients' gradients at another point",
        0,
        after=3,
        arrays=weights(9),
    ),
    repeating(
        "the last round after its acknowledgement",
        "round-out-of-order",
        "a second release for one charge",
        2,
        after=4,
    ),
    repeating(
        "the same round with other arrays",
        "round-conflict",
        "two gradients under one noise, whose difference has none",
        0,
        after=1,
        arrays=weights(9),
    ),
    repeating(
        "the same round with its arrays reversed",
        "round-conflict",
        "two gradients under one noise",
        0,
        after=1,
        arrays=weights(1)[::-1].copy(),
    ),
    repeating(
        "the same round with subnormal weights",
        "round-conflict",
        "gradients whose size tells the last bit of an image",
        0,
        after=1,
        arrays=np.full(weights(1).size, 1e-42, np.float32),
    ),
    Case(
        "the same evaluation of other weights",
        "a second histogram under the noise of the first",
        lambda s: sent(s.evaluate(arrays=weights(9))),
        "round-conflict",
        after=4,
    ),
    repeating(
        "the same round with a document",
        "malformed",
        "text that nothing checks",
        0,
        after=1,
        document="{}",
    ),
    training(
        "a round that acknowledges itself",
        "malformed",
        "a site that forgets what it may be asked for again",
        acknowledged=2,
    ),
    training(
        "an acknowledgement of rounds that never were",
        "malformed",
        "a site that forgets what it may be asked for again",
        acknowledged=2**31 - 1,
    ),
    evaluating(
        "an evaluation that acknowledges rounds to come",
        "malformed",
        "a site that forgets what it may be asked for again",
        acknowledged=4,
    ),
    repeating(
        "an acknowledgement beside a conflict",
        "round-conflict",
        "a site that forgets although it refuses",
        0,
        after=1,
        arrays=weights(9),
        acknowledged=0,
    ),
)

ARRAYS: Final = (
    training("no weights", "malformed", "a crash", arrays=None),
    evaluating("an evaluation of nothing", "malformed", "a crash", arrays=None),
    arrays("a weight that is not a number", _spoilt(np.nan)),
    arrays("an infinite weight", _spoilt(np.inf)),
    arrays("a weight of minus infinity", _spoilt(-np.inf)),
    arrays("weights that are all not numbers", np.full(weights(2).size, np.nan, np.float32)),
    arrays("a weight less", weights(2)[:-1]),
    arrays("a weight more", np.append(weights(2), np.float32(0))),
    arrays("an empty array", weights(2)[:0]),
    arrays("one weight", weights(2)[:1]),
    arrays("a giant array", np.zeros(2_500_000, np.float32)),
    arrays("whole numbers for weights", np.zeros(weights(2).size, np.int32)),
    arrays("long whole numbers for weights", np.zeros(weights(2).size, np.int64)),
    evaluating("an evaluation of NaN", "malformed", "scores of one kind", arrays=_spoilt(np.nan)),
    training("text beside the weights", "malformed", "text that nothing checks", document="x"),
    evaluating(
        "a metric request for one patient",
        "malformed",
        "one patient's score",
        document='{"metric":"auc","patients":["P03"]}',
    ),
)

LEDGER: Final = (
    training(
        "a ledger longer than the site's",
        "ledger-behind",
        "a site that goes on from an old backup",
        ledger=LedgerHead(9, "00" * 32),
    ),
    training(
        "another ledger of the same length",
        "ledger-behind",
        "a site that goes on from another's past",
        ledger=LedgerHead(1, "00" * 32),
    ),
    training(
        "an older ledger's head for the newest",
        "ledger-behind",
        "a site that goes on from another's past",
        ledger=LedgerHead(1, HASH_OF_NOTHING),
    ),
    Case(
        "the newest ledger's head for an older one",
        "a site that goes on from another's past",
        lambda s: sent(s.train(ledger=LedgerHead(0, s.ledger.hash))),
        "ledger-behind",
    ),
    evaluating(
        "an evaluation that has seen a longer ledger",
        "ledger-behind",
        "a site that goes on from an old backup",
        ledger=LedgerHead(9, "00" * 32),
    ),
)

PROVIDING: Final = (
    Case(
        "frozen weights that no plan names",
        "an array that a site keeps for nothing",
        lambda s: sent(s.provide()),
        "malformed",
    ),
    Case(
        "frozen weights without an array",
        "a site that takes nothing for something",
        lambda s: sent(s.provide(arrays=None)),
        "malformed",
    ),
    Case(
        "frozen weights under another study's name",
        "a false name in the log",
        lambda s: sent(s.provide(study="other")),
        "wrong-plan",
    ),
    Case(
        "frozen weights of an unknown plan",
        "a disk that fills with what nobody approved",
        lambda s: sent(s.provide(plan_hash="00" * 32)),
        "not-approved",
    ),
    Case(
        "frozen weights in a round",
        "a number that nothing checks",
        lambda s: sent(s.provide(round=1)),
        "malformed",
    ),
    Case(
        "frozen weights with a document",
        "text that nothing checks",
        lambda s: sent(s.provide(document="{}")),
        "malformed",
    ),
)

ENDING: Final = (
    Case(
        "the end of another plan",
        "a study that ends for who never asked",
        lambda s: sent(s.close(plan_hash="00" * 32)),
        "not-approved",
    ),
    Case(
        "the end of no plan",
        "a study that ends for who never asked",
        lambda s: sent(s.close(plan_hash="")),
        "not-approved",
    ),
    Case(
        "the end of another study under this plan's hash",
        "a study that ends under a false name in the log",
        lambda s: sent(s.close(study="other")),
        "wrong-plan",
    ),
    Case(
        "an end with weights",
        "an array that nothing checks",
        lambda s: sent(s.close(arrays=weights(1))),
        "malformed",
    ),
    Case(
        "an end with a document",
        "text that nothing checks",
        lambda s: sent(s.close(document="{}")),
        "malformed",
    ),
)

CHANGED: Final = (
    Case(
        "a round on a machine that computes otherwise",
        "bits that differ from the record",
        lambda s: sent(s.train()),
        "numerics",
        hospital=compute_with_two_threads,
    ),
)

REQUESTS: Final = (*UNAPPROVED, *ORDER, *ARRAYS, *LEDGER, *PROVIDING, *ENDING, *CHANGED)
