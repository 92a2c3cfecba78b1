"""Hostile plans: what a coordinator might want to be approved, and what it might hide in it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from client.consent.decisions import MOST_PENDING
from common.plan import Offer, Plan, write_plan
from common.privacy.cap import least_cap
from tests.client.site_fixtures import Hospital
from tests.common.studies import small_study
from tests.hostile.case import Case, planned
from tests.hostile.documents import VAST
from tests.hostile.sound import changed, sent

MOST: Final = 4000
"""A hundred times the patients that the hospital says it may have."""


def proposing(name: str, code: str, gain: str, **sections: dict[str, Any]) -> Case:
    """A proposal of another study with exactly the noise it needs: only the study is hostile."""
    return Case(name, gain, lambda s: sent(s.proposal(_calibrated(s.plan, sections))), code)


def _calibrated(plan: Plan, sections: dict[str, dict[str, Any]]) -> str:
    return _calibrated_text(plan.text, json.dumps(sections))


@lru_cache
def _calibrated_text(text: str, sections: str) -> str:
    plan = Plan.model_validate_json(text)
    offer = Offer(
        site=plan.site,
        public_key="00" * 32,
        declared_patients=plan.declared_patients,
        most_patients=plan.most_patients,
        known_key=plan.known_key,
        numerics=plan.numerics,
    )
    return write_plan(small_study(**json.loads(sections)), offer, plan.weights).text


def _full_desk(hospital: Hospital) -> None:
    """The maximum number of plans waits for a person."""
    hospital.policy = hospital.policy | {"approval": "ask"}
    copies = (
        "INSERT INTO approvals (plan_hash, study, plan, state, decided_by)"
        " SELECT ?, study, plan, 'pending', '' FROM approvals LIMIT 1"
    )
    with sqlite3.connect(hospital.state / "site.sqlite") as store:
        store.executemany(copies, [(f"{number:064}",) for number in range(MOST_PENDING)])


def _tighten(**policy: Any) -> Any:  # noqa: ANN401 - policy values
    def tighten(hospital: Hospital) -> None:
        hospital.policy = hospital.policy | policy

    return tighten


def _affordable(case: Case) -> Case:
    """The case at a site whose patients can pay: else their accounts would keep it out."""
    return replace(case, hospital=_tighten(max_epsilon_total=20.0))


def _small_disk(hospital: Hospital) -> None:
    hospital.cache_gib = 1e-6


def _declares_fewer(hospital: Hospital) -> None:
    hospital.declared -= 1


CHEAPER: Final = "one step more of each patient's gradient than the noise was measured for"
WIDER: Final = "a patient's pull on the model grows while the stated cost stays"

MECHANISM: Final = (
    planned("a round more for the same noise", "wrong-plan", CHEAPER, ("study.training.rounds", 4)),
    planned(
        "a local step more for the same noise",
        "wrong-plan",
        CHEAPER,
        ("study.training.local_steps", 3),
    ),
    planned(
        "less noise",
        "wrong-plan",
        "gradients that show single patients",
        ("mechanism.step.noise_multiplier", lambda noise: 0.9 * noise),
    ),
    replace(
        planned(
            "hardly any noise",
            "wrong-plan",
            "gradients as they are",
            ("mechanism.step.noise_multiplier", 0.2),
            ("mechanism.epsilon_training", 900.0),
        ),
        hospital=_tighten(max_epsilon_per_study=1000.0),
    ),
    planned(
        "no noise at all",
        "malformed",
        "gradients as they are",
        ("mechanism.step.noise_multiplier", 0.0),
    ),
    planned(
        "a larger cap on a sample",
        "wrong-plan",
        "a step that takes longer the more patients were drawn",
        ("mechanism.most_sampled", lambda most: most + 1),
    ),
    planned(
        "a smaller cap on a sample",
        "wrong-plan",
        "samples that are too large so often that delta does not pay for them",
        ("mechanism.most_sampled", 6),
    ),
    replace(
        planned(
            "less noise, where a person is asked",
            "wrong-plan",
            "a person who is shown a plan that is not what it says",
            ("mechanism.step.noise_multiplier", lambda noise: 0.9 * noise),
        ),
        hospital=_tighten(approval="ask"),
    ),
    planned("a larger clip norm", "wrong-plan", WIDER, ("mechanism.clip_norm", 10.0)),
    planned(
        "a smaller clip norm than the study says",
        "wrong-plan",
        "noise that is scaled down with it",
        ("mechanism.clip_norm", 0.1),
    ),
    planned(
        "a larger sampling rate",
        "wrong-plan",
        "each patient in every step",
        ("mechanism.step.sampling_rate", 1.0),
    ),
    planned(
        "a smaller sampling rate",
        "wrong-plan",
        "a cost that is computed for fewer patients than take part",
        ("mechanism.step.sampling_rate", 0.01),
    ),
    planned(
        "another divisor",
        "wrong-plan",
        "an update that drowns the other sites' and shows this one's",
        ("mechanism.divisor", 1.0),
    ),
    planned(
        "another delta in the mechanism",
        "wrong-plan",
        "a smaller epsilon on paper",
        ("mechanism.delta", 1e-6),
    ),
    planned(
        "an understated epsilon",
        "wrong-plan",
        "a study that looks cheap to who approves it",
        ("mechanism.epsilon_training", 0.5),
    ),
    planned(
        "an understated epsilon of the evaluation",
        "wrong-plan",
        "a study that looks cheap to who approves it",
        ("mechanism.epsilon_evaluation", 0.1),
    ),
    planned(
        "a step that counts twice",
        "wrong-plan",
        "twice the releases for one charge",
        ("mechanism.step.count", 2),
    ),
    planned(
        "an evaluation that counts twice",
        "wrong-plan",
        "twice the releases for one charge",
        ("mechanism.evaluation.count", 2),
    ),
    planned(
        "less noise on the histogram",
        "wrong-plan",
        "counts that one patient moves visibly",
        ("mechanism.evaluation.noise_multiplier", 0.5),
        ("mechanism.cell_noise", 0.5),
    ),
    planned(
        "no noise on the histogram's cells",
        "wrong-plan",
        "exact counts of validation patients",
        ("mechanism.cell_noise", 0.0),
    ),
    planned(
        "an evaluation without its mechanism",
        "wrong-plan",
        "exact counts of validation patients",
        ("mechanism.evaluation", None),
        ("mechanism.cell_noise", 0.0),
        ("mechanism.epsilon_evaluation", 0.0),
    ),
    planned(
        "an evaluation said to be of a sample",
        "wrong-plan",
        "a histogram of all, paid for as of one in ten",
        ("mechanism.evaluation.sampling_rate", 0.1),
    ),
    planned(
        "an evaluation after every round for the price of one",
        "wrong-plan",
        "three looks at each validation patient",
        ("study.evaluation.rounds", [1, 2, 3]),
    ),
    replace(
        planned(
            'mode "none" slipped in beside a private study',
            "wrong-plan",
            "gradients as they are",
            ("mechanism", {"mode": "none", "sampling_rate": 0.25, "divisor": 5.0}),
        ),
        hospital=_tighten(allow_no_privacy=True),
    ),
    planned(
        'a private mechanism under mode "none"',
        "wrong-plan",
        "a study that reports as private what it does not calibrate",
        ("study.privacy", {"mode": "none"}),
    ),
)

OURS: Final = (
    planned(
        "another site's plan", "wrong-plan", "the terms of that site, used here", ("site", "south")
    ),
    planned(
        "more declared patients",
        "wrong-plan",
        "less noise: each patient seems to be one of more",
        ("declared_patients", 2000),
    ),
    planned(
        "room for more patients than the site's bound",
        "wrong-plan",
        "a round whose length tells how many patients there are",
        ("most_patients", MOST),
        ("mechanism.most_sampled", least_cap(MOST, 0.25, 6, 8.0, 1e-5)),
    ),
    planned(
        "the known key",
        "wrong-plan",
        "noise that it can draw itself and take off",
        ("known_key", True),
    ),
    planned(
        "a larger weight in the average",
        "wrong-plan",
        "a sum in which this site outweighs those that hide it",
        ("weight", 1_000_000),
    ),
    planned("fewer weights than the model has", "wrong-plan", "a misread model", ("weights", 7)),
    planned("more weights than the model has", "wrong-plan", "a misread model", ("weights", 7000)),
    planned(
        "frozen weights of a model that is trained whole",
        "wrong-plan",
        "an array that a site keeps for nothing",
        ("frozen", "00" * 32),
    ),
    planned(
        "another model",
        "wrong-plan",
        "a network made to memorise",
        ("study.model", lambda model: model | {"widths": [64]}),
    ),
    planned(
        "a larger image size",
        "wrong-plan",
        "patients' images at a resolution nobody approved",
        ("study.data.image_size", [16, 16]),
    ),
    planned(
        "more copies of an image than fit into memory",
        "malformed",
        "a site that swaps memory without end",
        ("study.training.images_per_patient", 64),
        ("study.training.augmentation.copies", 64),
    ),
    planned(
        "a model that does not fit its images",
        "malformed",
        "an error whose words say something",
        ("study.model", lambda model: model | {"widths": [4, 4, 4, 4, 4, 4]}),
    ),
    planned(
        "more threads", "numerics", "bits that differ from the record", ("numerics.threads", 2)
    ),
    planned(
        "a study that is called as a plan's hash begins",
        "malformed",
        "a person who stops another study than is meant",
        ("study.study.name", "deadbeef"),
    ),
    planned(
        "another kernel",
        "numerics",
        "a way of forming gradients that nobody measured here",
        ("numerics.choice.tile", 3),
    ),
    planned(
        "a shorter tick",
        "numerics",
        "replies whose time shows how many patients were drawn",
        ("numerics.ticks.train", 1),
    ),
    planned(
        "another version of what computes",
        "numerics",
        "a weakness that was fixed",
        ("numerics.versions.torch", "0.1"),
    ),
    planned(
        "another data set",
        "data-unavailable",
        "images that the site did not offer",
        ("study.data.dataset", "mammography"),
    ),
    planned(
        "more patients than the site declares",
        "data-unavailable",
        "a bound that is not held",
        ("study.data.min_patients", 21),
    ),
)

POLICY: Final = (
    _affordable(
        planned(
            "a higher epsilon than the policy's for one study",
            "policy",
            "more of each patient than the hospital gives",
            ("study.privacy.epsilon", 9.0),
            ("mechanism.epsilon_training", 9.0),
        )
    ),
    _affordable(
        planned(
            "a larger delta than the policy's",
            "policy",
            "a bound that fails more often",
            ("study.privacy.delta", 1e-4),
            ("mechanism.delta", 1e-4),
        )
    ),
    proposing('mode "none"', "policy", "gradients as they are", privacy={"mode": "none"}),
    _affordable(
        proposing(
            "fewer sites than the policy's smallest aggregate",
            "policy",
            "a sum of one, which is the site's own update",
            aggregation={"min_sites": 1},
        )
    ),
    planned(
        "a plan of few weights that takes more memory than the site gives",
        "policy",
        "a site that runs out of memory before anyone has approved",
        ("study.model", VAST),
        ("study.data.image_size", [1024, 1024]),
        ("weights", 2 * (1 + 6 * 32) * 16 * 16 + 2),
    ),
    Case(
        "a plan of images that take more disk than the site gives",
        "a full disk before anyone has approved",
        lambda s: sent(s.proposal(changed(s.plan.text, ("study.study.title", "Large")))),
        "policy",
        hospital=_small_disk,
    ),
    Case(
        "a round of a site that declares another number by now",
        "noise for patients who are no longer there",
        lambda s: sent(s.train()),
        "wrong-plan",
        hospital=_declares_fewer,
    ),
    Case(
        "one plan more than may run at once",
        "all the budget that patients have left, set aside for studies that never run",
        lambda s: sent(s.proposal(changed(s.plan.text, ("study.study.title", "One more")))),
        "policy",
        hospital=_tighten(max_open_studies=1),
    ),
    Case(
        "one plan more than may wait for a person",
        "a person who has stopped reading them",
        lambda s: sent(s.proposal(changed(s.plan.text, ("study.study.title", "One more")))),
        "policy",
        hospital=_full_desk,
    ),
    Case(
        "a round under a policy that has become tighter",
        "an approval that outlives what it was given under",
        lambda s: sent(s.train()),
        "policy",
        hospital=_tighten(max_epsilon_per_study=7.0),
    ),
    Case(
        "a round of a task that the policy takes no more",
        "an approval that outlives what it was given under",
        lambda s: sent(s.train()),
        "policy",
        hospital=_tighten(tasks=[]),
    ),
)

PLANS: Final = (*MECHANISM, *OURS, *POLICY)
