"""Settings of a one-shot study: what is left out follows, and what cannot be is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from common.study.one_shot import CLIP_NORM
from common.study.study_file import Study
from tests.common.studies import document


def whole(**sections: dict[str, Any]) -> dict[str, Any]:
    found = document(model={"projection": 4}, **sections)
    found["training"] = {"method": "one-shot"} | sections.get("training", {})
    found["aggregation"] = sections.get("aggregation", {})
    return found


def test_what_it_needs_is_said_where_the_file_leaves_it_out() -> None:
    study = Study.model_validate(whole())
    assert study.one_shot
    assert (study.training.rounds, study.training.local_steps, study.training.momentum) == (1, 1, 0)
    assert study.model.trainable == ("head",)
    assert getattr(study.privacy, "clip_norm", None) == CLIP_NORM
    assert Study.model_validate(study.model_dump(mode="json")) == study
    assert Study.model_validate(whole(privacy={"mode": "none"})).privacy.mode == "none"


def test_of_another_study_nothing_changes_and_its_plan_does_not_name_the_method() -> None:
    study = Study.model_validate(document())
    assert not study.one_shot
    assert "method" not in study.model_dump(mode="json")["training"]


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"training": {"rounds": 2}}, "training.rounds is 2"),
        ({"training": {"local_steps": 3}}, "training.local_steps is 3"),
        ({"training": {"momentum": 0.5}}, "training.momentum is 0.5"),
        ({"training": {"weight_decay": 0.01}}, "training.weight_decay is 0.01"),
        ({"aggregation": {"strategy": "fedmedian"}}, "aggregation.strategy is fedmedian"),
        ({"privacy": {"clip_norm": 1.0}}, "privacy.clip_norm is 1.0"),
    ],
)
def test_what_one_release_cannot_have_is_refused_by_name(
    sections: dict[str, dict[str, Any]], key: str
) -> None:
    with pytest.raises(ValidationError, match=key):
        Study.model_validate(whole(**sections))


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"projection": None}, "needs model.projection"),
        ({"trainable": ["norms"]}, r"model.trainable is \['norms'\]"),
        ({"adapters": 2}, "model.adapters is 2"),
    ],
)
def test_a_model_that_trains_more_than_a_projected_head_is_refused(
    model: dict[str, Any], key: str
) -> None:
    found = whole()
    found["model"] |= model
    if found["model"]["projection"] is None:
        del found["model"]["projection"]
    with pytest.raises(ValidationError, match=key):
        Study.model_validate(found)


def test_a_task_without_sums_is_refused() -> None:
    found = whole()
    found["task"] = {"kind": "segmentation", "classes": ["lesion"]}
    found["model"] = {"name": "resunet", "projection": 4}
    with pytest.raises(ValidationError, match=r"no sums for task\.kind"):
        Study.model_validate(found)
