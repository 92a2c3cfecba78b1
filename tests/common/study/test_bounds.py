"""Every number of a study and of a plan's mechanism has two ends, and stands in one list."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from common.bounded import Bound, plain
from common.errors import PrivacyError, Refusal, StudyError
from common.numerics import EngineChoice, record
from common.plan import Offer, read_plan, write_plan
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.strategies.strategies import STRATEGIES
from common.strategies.strategy import Strategy
from common.study.aggregation import Duration
from common.study.bounds import BOUNDS, COMBINED, FIELDS, MECHANISM, bound, range_of, stated
from common.study.study_file import Study, Training, load_study
from tests.common.studies import document, small_study, toml

STUDIES = Path(__file__).parents[3] / "simulations" / "studies"
OFFER = Offer(
    site="north",
    public_key="ab" * 32,
    declared_patients=20,
    most_patients=40,
    known_key=False,
    numerics=record(1, EngineChoice()),
)
Changes = dict[str, dict[str, Any]]
REGRESSION: dict[str, Any] = {"kind": "regression", "classes": None}
BESIDE: dict[str, Changes] = {
    "evaluation.rounds": {"training": {"rounds": 100_000, "local_steps": 1}},
    "aggregation.max_share": {"aggregation": {"min_sites": 1000}},
    "fixed_point.fraction_bits": {"fixed_point": {"dtype": "int64"}},
    "model.scales": {"model": {"name": "scattering"}},
    "model.orientations": {"model": {"name": "scattering"}},
    "model.adapters": {"model": {"trainable": ["head"]}},
    "model.strides": {"model": {"name": "unet", "widths": [4, 4]}},
    "model.residual_units": {"model": {"name": "resunet"}},
    "model.patch": {"model": {"name": "vit"}},
    "model.features": {"model": {"name": "vit", "heads": 1}},
    "model.blocks": {"model": {"name": "vit"}},
    "model.heads": {"model": {"name": "vit", "features": 64}},
    "task.dice_share": {"task": {"kind": "segmentation"}},
    "task.dice_smooth": {"task": {"kind": "segmentation"}},
    "task.lowest": {"task": REGRESSION | {"highest": 1_000_000}},
    "task.highest": {"task": REGRESSION | {"lowest": -1_000_000}},
    "task.huber": {"task": REGRESSION},
    "task.reach": {"task": REGRESSION},
    "aggregation.options.proximal_mu": {"training": {"learning_rate": 0.01}},
}
"""What must be said beside a number at its ends, so that nothing else is wrong."""


def numbers(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, Bound | None]]:
    """Every place of a model at which a number or a duration may stand, and what bounds it."""
    hints = get_type_hints(model, include_extras=True)
    for name in model.model_fields:
        yield from _of(hints[name], f"{above}{name}", None)


def _of(hint: Any, place: str, found: Bound | None) -> Iterator[tuple[str, Bound | None]]:  # noqa: ANN401 - a type
    kind = get_origin(hint)
    if kind is Annotated:
        inner, *more = get_args(hint)
        found = next((each for each in more if isinstance(each, Bound)), found)
        duration = get_args(Duration)[1]
        if inner is str and any(isinstance(each, FieldInfo) and each == duration for each in more):
            yield place, found
        else:
            yield from _of(inner, place, found)
    elif kind in (Union, UnionType, tuple):
        for each in get_args(hint):
            yield from _of(each, place, found)
    elif hint is Strategy:
        for each in STRATEGIES.values():
            yield from numbers(each, f"{place}.")
    elif isinstance(hint, type) and issubclass(hint, BaseModel):
        yield from numbers(hint, f"{place}.")
    elif hint in (int, float):
        yield place, found


def with_value(each: Bound, value: float | str) -> dict[str, Any]:
    """The small study with one number in its place."""
    changes = {name: dict(section) for name, section in BESIDE.get(each.place, {}).items()}
    section, *path, last = each.place.split(".")
    if path == ["options"]:
        strategy = next(name for name, it in STRATEGIES.items() if last in it.model_fields)
        changes.setdefault(section, {})["strategy"] = strategy
    inner: Any = f"{value}s" if each.unit == "s" else value
    several = {"model.widths": 1, "model.strides": 1, "data.image_size": 2}
    several |= {"task.class_weights": 2, "data.spacing": 2}
    several["evaluation.rounds"] = 1
    inner = [inner] * several[each.place] if each.place in several else inner
    for name in (last, *reversed(path)):
        inner = {name: inner}
    return document(**changes | {section: changes.get(section, {}) | inner})


def beyond(each: Bound) -> Iterator[float]:
    """The numbers next to the ends, and the smallest that there is, where 0 is no honest one."""
    if each.least < 0.0:
        yield from (each.most + 1, each.least - 1, 1e36, math.inf, -math.inf, math.nan)
        yield from (math.nextafter(each.most, math.inf), math.nextafter(each.least, -math.inf))
        return
    if float(each.least).is_integer() and float(each.most).is_integer() and each.most > 1:
        yield from (each.most + 1, -1)
        yield each.least - 1 if each.least > 1 or not each.zero else -2
    yield from (math.nextafter(each.most, math.inf), math.inf, math.nan)
    yield from (math.nextafter(each.least, -math.inf), 5e-324, -5e-324, 1e-30, 1e36)


def test_every_number_of_a_study_has_its_entry_and_each_entry_its_number() -> None:
    found = dict(numbers(Study))
    assert {place for place, each in found.items() if each is None} == set()
    assert list(found.values()) == [bound(place) for place in found]
    assert sorted(found) == sorted(each.place for each in FIELDS)


def test_a_new_number_without_an_entry_is_found() -> None:
    class More(Training):
        drag: float = 0.0
        limits: tuple[int, ...] | None = None
        wait: Duration = "1s"
        kind: Literal[1, 3] = 1
        plain: str = ""

    unbounded = [place for place, each in numbers(More, "training.") if each is None]
    assert unbounded == ["training.drag", "training.limits", "training.wait"]


def test_every_number_of_a_mechanism_has_its_entry() -> None:
    found = {place for kind in (PatientMechanism, NoMechanism) for place, _ in numbers(kind)}
    assert found - {"clip_norm", "delta"} == {each.place for each in MECHANISM}


def test_each_entry_is_whole() -> None:
    assert len({each.key for each in BOUNDS}) == len(BOUNDS)
    assert len({each.name for each in (*FIELDS, *COMBINED)}) == len((*FIELDS, *COMBINED))
    for each in BOUNDS:
        assert each.least <= each.usual[1] <= each.most
        assert each.allows(each.usual[0])
        assert each.usual[0] <= each.usual[1]
        assert each.why
        assert each.key.isidentifier()


@pytest.mark.parametrize("each", FIELDS, ids=lambda each: each.place)
def test_both_ends_are_accepted_and_what_lies_beyond_is_refused(each: Bound) -> None:
    for value in (each.least, each.most, *((0,) if each.zero else ())):
        whole = int(value) if value == int(value) else value
        study = Study.model_validate(with_value(each, whole))
        assert whole in next(it for it in stated(study) if it.bound is each).values
    for value in beyond(each):
        with pytest.raises(ValidationError):
            Study.model_validate(with_value(each, value))


@pytest.mark.parametrize("each", FIELDS, ids=lambda each: each.place)
def test_a_refusal_names_key_value_ends_and_reason(tmp_path: Path, each: Bound) -> None:
    path = tmp_path / "study.toml"
    value = int(each.most) + 1 if each.most > 1 else 1.5
    value = value + 1 if each.key == "bins" else value
    path.write_text(toml(with_value(each, value)))
    with pytest.raises(StudyError) as caught:
        load_study(path)
    found = caught.value.details["found"]
    assert each.place in found
    assert str(value) in found
    assert f"should be {each.allowed}: {each.why}" in found
    assert "correct the settings listed above" in caught.value.details["do"]


EDGES: tuple[Any, ...] = (
    *(0, -0.0, -1, 0.5, 1, 5e-324, 1e-300, 1e-12, 1e20, 1e300, math.inf, -math.inf, math.nan),
    *(2**31, 2**63, 10**400, True, False, "1", "0.5", "nan", [], {}),
)


@pytest.mark.matrix(each=lambda each: each.place.split(".")[0])
@pytest.mark.parametrize("each", FIELDS, ids=lambda each: each.place)
def test_an_edge_is_refused_by_its_name_or_can_be_planned(each: Bound) -> None:
    """No other error, and no plan with a number that is none."""
    *path, last = each.place.split(".")
    for value in EDGES:
        study = with_value(each, 1)
        section: Any = study
        for name in path:
            section = section[name]
        several = isinstance(section[last], list)
        section[last] = [value] * len(section[last]) if several else value
        try:
            plan = write_plan(Study.model_validate(study), OFFER, weights=106)
        except ValidationError as refused:
            assert last in str(refused)
            continue
        except PrivacyError:
            continue  # it names what could be reached
        assert not isinstance(value, bool | str)
        told = [number for said in stated(plan.study, plan.mechanism) for number in said.values]
        assert all(map(math.isfinite, told))
        assert "-0.0" not in plan.text
        assert read_plan(plan.text) == plan


TOGETHER: dict[str, tuple[list[Changes], list[Changes]]] = {
    "steps": (
        [{"training": {"rounds": 1000, "local_steps": 1000}}],
        [{"training": {"rounds": 1001, "local_steps": 1000}}],
    ),
    "image_numbers": (
        [{"data": {"image_size": [4, 4]}}, {"data": {"image_size": [4096, 4096]}}],
        [{"data": {"image_size": [4096, 4096], "channels": 3}}],
    ),
    "patient_images": (
        [{"training": {"images_per_patient": 64, "augmentation": {"copies": 4}}}],
        [{"training": {"images_per_patient": 64, "augmentation": {"copies": 5}}}],
    ),
    "patient_numbers": (
        [{"data": {"image_size": [4096, 4096]}, "training": {"images_per_patient": 4}}],
        [{"data": {"image_size": [4096, 4096]}, "training": {"images_per_patient": 5}}],
    ),
    "step_length": (
        [
            {"training": {"learning_rate": 1000}, "privacy": {"clip_norm": 100}},
            {"training": {"learning_rate": 1e-3}, "privacy": {"clip_norm": 1e-3}},
        ],
        [
            {"training": {"learning_rate": 1000}, "privacy": {"clip_norm": 101}},
            {"training": {"learning_rate": 9e-4}, "privacy": {"clip_norm": 1e-3}},
            {"training": {"learning_rate": 100, "momentum": 0.999}, "privacy": {"clip_norm": 2}},
        ],
    ),
    "class_rate": (
        [
            {"training": {"learning_rate": 10}, "task": {"class_weights": [1, 1000]}},
            {"training": {"learning_rate": 1e-3}, "task": {"class_weights": [1e-3, 1e-3]}},
        ],
        [
            {"training": {"learning_rate": 10.1}, "task": {"class_weights": [1, 1000]}},
            {"training": {"learning_rate": 9e-4}, "task": {"class_weights": [1e-3, 1e-3]}},
        ],
    ),
    "forgetting": (
        [{"training": {"learning_rate": 1, "weight_decay": 1}}],
        [
            {"training": {"learning_rate": 1.1, "weight_decay": 1}},
            {
                "training": {"learning_rate": 0.5, "weight_decay": 1},
                "aggregation": {"strategy": "fedprox", "options": {"proximal_mu": 1.1}},
            },
        ],
    ),
    "histogram_numbers": (
        [{"task": {"classes": list(map(str, range(100)))}, "evaluation": {"bins": 100}}],
        [{"task": {"classes": list(map(str, range(100)))}, "evaluation": {"bins": 102}}],
    ),
    "evaluations": ([{"evaluation": {"rounds": "none"}}, {"evaluation": {"rounds": [1, 3]}}], []),
}


def test_there_is_a_case_for_all_that_is_combined() -> None:
    assert list(TOGETHER) == [each.key for each in COMBINED]


@pytest.mark.parametrize("each", COMBINED, ids=lambda each: each.key)
def test_numbers_that_are_too_much_together_are_refused(each: Bound) -> None:
    allowed, refused = TOGETHER[each.key]
    for changes in allowed:
        small_study(**changes)
    for changes in refused:
        with pytest.raises(ValidationError) as caught:
            small_study(**changes)
        assert f"{each.place} is " in str(caught.value)
        assert f"should be {each.allowed}: {each.why}" in str(caught.value)


def planned(each: Bound, value: float) -> str:
    """A plan as it is sent, with one number of its mechanism in its place."""
    free = each.place == "sampling_rate"
    study = small_study(privacy={"mode": "none"}) if free else small_study()
    sent = json.loads(write_plan(study, OFFER, weights=106).text)
    *path, last = each.place.split(".")
    section = sent["mechanism"]
    for name in path:
        section = section[name]
    section[last] = type(section[last])(value)
    return json.dumps(sent, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("each", MECHANISM, ids=lambda each: each.place)
def test_a_plan_that_is_received_is_bounded_alike(each: Bound) -> None:
    for value in (each.least, each.most, *((0,) if each.zero else ())):
        read_plan(planned(each, value))
    whole = each.place.endswith("count") or each.place == "most_sampled"
    low = each.least - 1 if whole else math.nextafter(each.least, -math.inf)
    high = each.most + 1 if whole else math.nextafter(each.most, math.inf)
    for value in (low, high):
        with pytest.raises(Refusal) as caught:
            read_plan(planned(each, value))
        assert caught.value.code == "malformed"


@pytest.mark.matrix(path=lambda path: "epsilon" in path.stem)
@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_no_number_of_the_studies_that_ship_is_unusual(path: Path) -> None:
    study = load_study(path)
    plan = write_plan(study, OFFER.model_copy(update={"declared_patients": 1000}), weights=106)
    told = list(stated(study, plan.mechanism))
    assert len(told) > 30
    assert [each.bound.key for each in told if not each.usual] == []


def test_a_number_that_is_not_said_is_not_among_those_stated() -> None:
    study = small_study(privacy={"mode": "none"}, evaluation={"rounds": [1, 3]})
    told = {each.bound.key: each for each in stated(study)}
    assert list(told["evaluation_rounds"].values) == [1, 3]
    assert told["image_size"].text == "8, 8"
    assert list(told["round_timeout"].values) == [1800.0]
    assert told["round_timeout"].text == "30m"
    missing = {"clip_norm", "epsilon", "step_length", "proximal_mu", "class_weights", "divisor"}
    assert missing.isdisjoint(told)


def test_a_range_of_a_policy_lies_within_what_a_study_may_say() -> None:
    assert range_of("clip_norm", (0.001, 1000)) == (0.001, 1000)
    assert range_of("momentum", (0, 0.5)) == (0, 0.5)
    for key, ends in (
        ("clip_norm", (0.0009, 1.0)),
        ("clip_norm", (1.0, 1001.0)),
        ("clip_norm", (2.0, 1.0)),
        ("momentum", (5e-324, 0.5)),
        ("clip_norm", (math.nan, 1.0)),
        ("clip_nrm", (1.0, 2.0)),
    ):
        with pytest.raises(ValueError, match=key):
            range_of(key, ends)


def test_the_page_of_the_numbers_says_what_the_list_says() -> None:
    rows = [
        f"| `{each.place}` | `{each.key}` | {each.name} | {each.allowed} | "
        f"{each.span(*each.usual)} | {each.why} |"
        for each in BOUNDS
    ]
    page = (STUDIES.parents[1] / "docs" / "numbers.md").read_text().splitlines()
    assert [line for line in page if line.startswith("| `")] == rows


def test_numbers_are_said_as_a_person_writes_them() -> None:
    assert [plain(each) for each in (0, 1.0, 16_777_216, 0.001, 1e-6, 1e36, 0.1 + 0.2)] == [
        *("0", "1", "16777216", "0.001", "1e-6", "1e+36", "0.3")
    ]
    wait = bound("aggregation.round_timeout")
    assert [wait.say(each) for each in (0.1, 60, 5400, 86_400, 0)] == [
        *("0.1s", "1m", "90m", "1d", "0s")
    ]
