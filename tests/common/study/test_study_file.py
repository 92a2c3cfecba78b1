"""A study file says everything once; whatever it gets wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.bounded import seconds
from common.errors import StudyError
from common.study.study_file import NoPrivacy, PatientPrivacy, Study, load_study
from common.tasks.classification import Classification
from tests.common.studies import SMALL, document, small_study, toml

Sections = dict[str, dict[str, Any]]


def complaint(tmp_path: Path, content: dict[str, Any]) -> str:
    """What a person is told about a study file of this content."""
    path = tmp_path / "study.toml"
    path.write_text(toml(content))
    with pytest.raises(StudyError) as caught:
        load_study(path)
    assert caught.value.details["where"] == str(path)
    return caught.value.details["found"]


def test_a_file_with_every_section_is_read(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(toml(document()))
    assert load_study(path) == small_study()


def test_defaults_are_private_and_plain() -> None:
    study = small_study(evaluation={"rounds": None, "bins": None, "epsilon_share": None})
    assert isinstance(study.privacy, PatientPrivacy)
    assert study.privacy.clip_norm == 1.0
    assert study.evaluation.rounds == "last"
    assert isinstance(study.task, Classification)
    assert study.task.class_weights is None
    assert not study.training.augmentation.active
    assert study.training.images_per_patient == 1


def test_a_study_may_leave_out_how_it_is_learned() -> None:
    """Task, data and privacy are for a person to say; the rest has defaults."""
    said = {name: SMALL[name] for name in ("study", "task", "data", "privacy")}
    study = Study.model_validate(said)
    assert study.model.name == "scattering"
    assert (study.training.local_steps, study.training.momentum) == (1, 0.0)
    assert study.aggregation.strategy == "fedavgm"
    assert study.aggregation.options.model_dump()["server_momentum"] == 0.9
    assert study.aggregation.average_decay > 0
    assert Study.model_validate(study.model_dump(mode="json")) == study


@pytest.mark.parametrize("section", sorted(SMALL))
def test_an_unknown_key_is_named_in_every_section(tmp_path: Path, section: str) -> None:
    assert complaint(tmp_path, document(**{section: {"colour": "red"}})).startswith(
        f"{section}.colour: unknown key"
    )


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"dater": {"size": 1}}, "dater: unknown key; did you mean data?"),
        ({"data": {"image_sise": 8}}, "data.image_sise: unknown key; did you mean image_size?"),
        ({"privacy": {"epsilom": 8}}, "privacy.epsilom: unknown key; did you mean epsilon?"),
        (
            {"training": {"augmentation": {"flp": True}}},
            "training.augmentation.flp: unknown key; did you mean flip?",
        ),
        (
            {"aggregation": {"options": {"proximal": 1}}},
            "aggregation.options: strategy fedavg has no option proximal; it takes no options",
        ),
        ({"aggregation": {"stratgy": "x"}}, "did you mean strategy?"),
        ({"fixed_point": {"bits": 8}}, "known keys: dtype, fraction_bits"),
        ({"training": {"rounds": 0}}, "training.rounds = 0"),
        ({"privacy": {"epsilon": None}}, "privacy.epsilon: missing"),
        ({"privacy": {"mode": None}}, "privacy.mode: missing"),
        ({"privacy": {"mode": "off"}}, "privacy.mode = 'off': should be one of 'patient', 'none'"),
        ({"privacy": {"epsilon": 0}}, "privacy.epsilon = 0"),
        ({"privacy": {"epsilon": -1.5}}, "privacy.epsilon = -1.5"),
        ({"privacy": {"delta": 1.0}}, "privacy.delta = 1.0"),
        ({"privacy": {"clip_norm": 0.0}}, "privacy.clip_norm"),
        ({"training": {"learning_rate": 0}}, "training.learning_rate = 0"),
        ({"training": {"momentum": 1.0}}, "training.momentum = 1.0"),
        ({"data": {"image_size": [8]}}, "data.image_size.1: missing"),
        ({"data": {"channels": 2}}, "data.channels = 2"),
        ({"data": {"std": 0.0}}, "data.std = 0.0"),
        ({"model": {"name": "vgg"}}, "model.name = 'vgg'"),
        ({"model": {"norm": "batch"}}, "mixes the patients of a batch"),
        ({"study": {"name": "No Slug"}}, "study.name = 'No Slug': should be 1 to 63 lower-case"),
        ({"study": {"name": "x" * 64}}, "should be 1 to 63 lower-case letters"),
        ({"study": {"name": "deadbeef"}}, "should not look like a plan's hash"),
        ({"study": {"name": "20261126"}}, "should not look like a plan's hash"),
        ({"study": {"title": ""}}, "study.title = ''"),
        ({"study": {"title": "approve me\x1b[8m"}}, "study.title = 'approve me"),
        ({"study": {"title": "costs \u202e8.0"}}, "study.title = 'costs"),
        ({"study": {"title": "harmless\u2028costs 0.1"}}, "study.title = 'harmless"),
        ({"study": {"title": "x" * 201}}, "study.title = 'xxx"),
        ({"training": {"batch_size": 10**400}}, "training.batch_size"),
        ({"data": {"min_patients": 10**10}}, "data.min_patients"),
        ({"task": {"classes": ["a", "b", "b\nc"]}}, "task.classes.2 = 'b"),
        ({"evaluation": {"rounds": "first"}}, "evaluation.rounds = 'first': "),
        ({"evaluation": {"bins": 5}}, "evaluation.bins = 5"),
        ({"aggregation": {"round_timeout": "soon"}}, "aggregation.round_timeout = 'soon'"),
        ({"task": {"classes": ["a", "a"]}}, "a class is named twice"),
        ({"task": {"classes": ["a"]}}, "task.classes"),
    ],
)
def test_a_mistake_is_told_by_key_value_and_what_was_meant(
    tmp_path: Path, sections: Sections, told: str
) -> None:
    found = complaint(tmp_path, document(**sections))
    assert told in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"task": {"class_weights": [1.0, 2.0, 3.0]}}, "class_weights has 3 numbers"),
        ({"evaluation": {"rounds": [2, 4]}}, "names round 4, training ends after round 3"),
        (
            {"training": {"rounds": 1001, "local_steps": 1000}},
            "training.rounds x local_steps is 1001000; should be 1 to 1000000: the privacy",
        ),
        ({"aggregation": {"options": {"beta": 0.1}}}, "strategy fedavg has no option beta"),
        ({"fixed_point": {"fraction_bits": 40}}, "cannot hold a change larger"),
    ],
)
def test_sections_must_agree(tmp_path: Path, sections: Sections, told: str) -> None:
    assert told in complaint(tmp_path, document(**sections))


def test_all_mistakes_are_told_at_once_but_no_more_than_a_screenful(tmp_path: Path) -> None:
    mistakes = {f"key{number}": number for number in range(12)}
    lines = complaint(tmp_path, document(study=mistakes)).splitlines()
    assert len(lines) == 9
    assert lines[-1].strip() == "and 4 more"


@pytest.mark.parametrize("content", [b"[study", b"\xff\xfe", b"study = 1\nstudy = 2"])
def test_a_file_that_is_not_toml_is_an_error_of_the_study(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(StudyError, match="cannot be read as TOML") as caught:
        load_study(path)
    assert caught.value.details["do"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(tmp_path / "absent.toml")
    assert "absent.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("rounds", "evaluated"),
    [("last", (3,)), ("none", ()), ([], ()), ([3, 1, 3], (1, 3)), ([2], (2,))],
)
def test_the_rounds_that_are_evaluated(rounds: object, evaluated: tuple[int, ...]) -> None:
    assert small_study(evaluation={"rounds": rounds}).evaluation_rounds == evaluated


def test_no_privacy_takes_no_numbers_that_sound_private() -> None:
    assert isinstance(small_study(privacy={"mode": "none"}).privacy, NoPrivacy)
    with pytest.raises(ValidationError):
        small_study().model_validate(document() | {"privacy": {"mode": "none", "epsilon": 8.0}})


def test_a_study_cannot_be_changed() -> None:
    study = small_study()
    with pytest.raises(ValidationError, match="frozen"):
        study.training.rounds = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("duration", "long"), [("90s", 90.0), ("30m", 1800.0), ("1.5h", 5400.0), ("2d", 172800.0)]
)
def test_durations_in_seconds(duration: str, long: float) -> None:
    assert seconds(duration) == long


@pytest.mark.parametrize("duration", ["", "30", "m", "-1s", "1 s", "1.s", "1w"])
def test_anything_else_is_no_duration(duration: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds(duration)


def test_a_title_may_be_in_any_script() -> None:
    """The Persian word has a joiner that is not seen and cannot be left out."""
    title = "می\u200cخواهم – élève, 肺炎"  # noqa: RUF001 - Persian
    assert small_study(study={"title": title}).study.title == title
