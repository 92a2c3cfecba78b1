"""The site file: what the administrator may write, and what they are told if they may not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from client.data.cohort import Split
from client.data.masks.sources import MaskFolder
from client.records.accounts import PrivacyLimits
from client.sitefile import SiteFile, load_site_file
from common.errors import Refusal, SiteError
from common.privacy.accounting import ORDERS
from tests.common.studies import small_study, toml

DATA: dict[str, Any] = {
    "images": "images",
    "labels": "labels.csv",
    "key": "PatientID",
    "key_column": "patient",
    "declared_patients": 220,
    "split": [0.9, 0.1, 0.0],
}
POLICY: dict[str, Any] = {"max_epsilon_per_study": 8.0, "max_epsilon_total": 20.0, "delta": 1e-5}


def write(tmp_path: Path, **changes: dict[str, Any]) -> Path:
    """A site file; None leaves a key out."""
    content = {
        "site": {"name": "north"} | changes.get("site", {}),
        "data": changes.get("datasets", {"chest-xray": DATA | changes.get("data", {})}),
        "policy": POLICY | changes.get("policy", {}),
        "device": changes.get("device", {}),
    } | changes.get("top", {})
    plain = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in content.items()
    }
    for name, section in plain["data"].items():
        plain["data"][name] = {key: each for key, each in section.items() if each is not None}
    path = tmp_path / "site.toml"
    path.write_text(toml(plain))
    return path


def read(tmp_path: Path, **changes: dict[str, Any]) -> SiteFile:
    return load_site_file(write(tmp_path, **changes))


def test_a_site_file_is_read_with_what_it_leaves_out_set_to_the_careful_choice(
    tmp_path: Path,
) -> None:
    file = read(tmp_path)
    policy = file.policy
    assert policy.approval == "ask"
    assert not policy.allow_known_key
    assert not policy.allow_no_privacy
    assert policy.min_sites == 2
    assert policy.ranges == {}
    assert policy.limits == PrivacyLimits(8.0, 20.0, 1e-5)
    assert file.device.threads == 1
    assert file.data["chest-xray"].parts == Split(0.9, 0.1, 0.0)
    assert file.data["chest-xray"].most_patients == 440


def test_what_was_spent_before_is_gone_from_the_total(tmp_path: Path) -> None:
    policy = read(tmp_path, policy={"spent_before": 12.5}).policy
    assert policy.limits == PrivacyLimits(8.0, 7.5, 1e-5)


def test_the_label_file_is_relative_to_the_site_file(tmp_path: Path) -> None:
    labels = read(tmp_path).label_file("chest-xray", tmp_path)
    assert labels.path == tmp_path / "labels.csv"
    assert (labels.key, labels.key_column, labels.label_column) == ("PatientID", "patient", "label")
    assert labels.ignored == frozenset()
    ignoring = read(tmp_path, site={"ignore_in_patient_ids": ["case", "blanks"]})
    assert ignoring.label_file("chest-xray", tmp_path).ignored == {"case", "blanks"}


def test_a_data_set_may_have_masks_in_place_of_labels(tmp_path: Path) -> None:
    gone = {"labels": None, "key": None, "key_column": None}
    file = read(tmp_path, data={"masks": "m", "mask_classes": {"255": "lesion"}} | gone)
    task = {"kind": "segmentation", "classes": ["lesion"], "class_weights": None}
    study = small_study(task=task, model={"name": "unet"})

    found = file.targets(study, tmp_path)

    assert found == MaskFolder(tmp_path / "m", {"255": "lesion"})
    with pytest.raises(Refusal, match="the study needs labels, and the data set has none"):
        file.targets(small_study(), tmp_path)
    with pytest.raises(Refusal, match="the study needs masks, and the data set has none"):
        read(tmp_path).targets(study, tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"policy": {"allow_knownkey": True}}, "did you mean allow_known_key?"),
        ({"data": {"declared": 3}}, "data.chest-xray.declared: unknown key"),
        ({"site": {"nam": "x"}}, "site.nam: unknown key; did you mean name?"),
        ({"device": {"thread": 2}}, "did you mean threads?"),
        ({"top": {"polcy": {}}}, "polcy: unknown key; did you mean policy?"),
        (
            {"data": {"most_patients": 219}},
            "most_patients is 219; should be at least declared_patients, 220",
        ),
        ({"policy": {"max_epsilon_total": 20.5}}, "policy.max_epsilon_total = 20.5"),
        ({"policy": {"max_epsilon_total": float("nan")}}, "policy.max_epsilon_total"),
        ({"data": {"declared_patients": 0}}, "data.chest-xray.declared_patients = 0"),
        ({"data": {"key": "name"}}, "data.chest-xray.key = 'name'"),
        ({"data": {"images": None}}, "data.chest-xray.images: missing"),
        ({"data": {"labels": None}}, "should name a label file (labels), a folder of masks"),
        ({"data": {"key": None}}, "should have key and key_column beside labels"),
        ({"data": {"mask_classes": {"1": "a"}}}, "has mask_classes, but no masks"),
        ({"data": {"split": [0.5, 0.4, 0.0]}}, "they must sum to 1"),
        ({"data": {"split": [1.5, -0.5, 0.0]}}, "data.chest-xray.split"),
        ({"policy": {"max_epsilon_total": None}}, "policy.max_epsilon_total: missing"),
        ({"policy": {"max_epsilon_total": float("inf")}}, "policy.max_epsilon_total"),
        ({"policy": {"spent_before": 20.0}}, "uses up max_epsilon_total 20"),
        ({"policy": {"spent_before": -1.0}}, "policy.spent_before = -1"),
        ({"policy": {"spent_before": float("nan")}}, "policy.spent_before"),
        ({"policy": {"max_epsilon_per_study": 0}}, "policy.max_epsilon_per_study = 0"),
        ({"policy": {"approval": "perhaps"}}, "policy.approval = 'perhaps'"),
        (
            {"policy": {"ranges": {"clip_nrm": [0.1, 1.0]}}},
            "policy.ranges: clip_nrm: unknown key; did you mean clip_norm?",
        ),
        ({"policy": {"ranges": {"clip_norm": [1.0]}}}, "policy.ranges.clip_norm.1: missing"),
        (
            {"policy": {"ranges": {"clip_norm": [2.0, 1.0]}}},
            "policy.ranges: clip_norm = [2, 1]: should be the smallest and the largest number",
        ),
        (
            {"policy": {"ranges": {"clip_norm": [0.0, 1.0]}}},
            "within the range that a study may use: 0.001 to 1000",
        ),
        ({"policy": {"delta": 1e-3}}, "policy.delta 0.001 is too large for data set chest-xray"),
        ({"datasets": {}}, "data: "),
        (
            {"site": {"ignore_in_patient_ids": ["case", "zeros"]}},
            "should be 'unicode', 'blanks', 'case' or 'leading-zeros'",
        ),
    ],
)
def test_a_mistake_is_told_by_its_key(
    tmp_path: Path, changes: dict[str, dict[str, Any]], told: str
) -> None:
    with pytest.raises(SiteError) as caught:
        read(tmp_path, **changes)
    assert told in caught.value.details["found"]


def test_delta_is_held_to_a_tenth_of_one_patient_of_every_data_set(tmp_path: Path) -> None:
    """At most 0.1 / declared_patients: for 220 patients just above 4.5e-4."""
    read(tmp_path, policy={"delta": 4.5e-4})
    with pytest.raises(SiteError, match="cannot be used"):
        read(tmp_path, policy={"delta": 4.6e-4})
    larger = {"chest-xray": DATA, "hand": DATA | {"declared_patients": 10_000}}
    with pytest.raises(SiteError) as caught:
        read(tmp_path, datasets=larger, policy={"delta": 4.5e-4})
    assert "data set hand" in caught.value.details["found"]


def test_a_missing_site_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="site file does not exist"):
        load_site_file(tmp_path / "absent.toml")


def test_where_a_site_keeps_its_state_and_when_it_works_have_careful_defaults(
    tmp_path: Path,
) -> None:
    file = read(tmp_path)
    assert file.site.state == Path("state")
    assert (file.policy.approval_days, file.policy.hours) == (180, None)
    assert file.data["chest-xray"].opt_out is None
    assert (file.device.nice, file.device.memory_limit_mib, file.device.gpu) == (10, None, None)
    assert file.metrics.listen is None
    more = read(tmp_path, policy={"hours": "20:00-06:00"}, data={"opt_out": "out.txt"})
    assert more.policy.hours == "20:00-06:00"
    assert more.data["chest-xray"].opt_out == Path("out.txt")


@pytest.mark.parametrize("hours", ["20-06", "20:00", "24:00-06:00", "06:00-06:00", "20:60-06:00"])
def test_hours_that_are_none_are_named(tmp_path: Path, hours: str) -> None:
    with pytest.raises(SiteError) as caught:
        read(tmp_path, policy={"hours": hours})
    assert "policy.hours" in caught.value.details["found"]


EDGES: tuple[Any, ...] = (
    *(0, -0.0, -1, 0.5, 1, 5e-324, 1e-300, 1e-12, 1e20, 1e300, math.inf, -math.inf, math.nan),
    *(2**31, 2**63, 10**400, True, False, "1", "nan"),
)
NUMBERS = (
    *(("site", "cache_gib"), ("data", "declared_patients"), ("data", "most_patients")),
    *(("data", "split"), ("policy", "max_epsilon_per_study"), ("policy", "max_epsilon_total")),
    *(("policy", "delta"), ("policy", "spent_before"), ("policy", "min_sites")),
    *(("policy", "approval_days"), ("policy", "max_open_studies"), ("policy", "ranges")),
    *(("device", name) for name in ("threads", "memory_mib", "nice", "memory_limit_mib", "gpu")),
)


@pytest.mark.parametrize("place", NUMBERS, ids="-".join)
@pytest.mark.parametrize("value", EDGES, ids=lambda value: repr(value)[:12])
def test_a_number_at_the_edge_is_refused_by_its_name_or_can_be_counted_with(
    place: tuple[str, str], value: float
) -> None:
    section, name = place
    content: dict[str, Any] = {
        "site": {"name": "north"},
        "data": {"chest-xray": dict(DATA)},
        "policy": dict(POLICY),
        "device": {},
    }
    inside = content["data"]["chest-xray"] if section == "data" else content[section]
    several: dict[str, Any] = {
        "split": [value, 1 - value if isinstance(value, float) else value, 0]
    }
    several["ranges"] = {"clip_norm": [value, value]}
    inside[name] = several.get(name, value)
    try:
        file = SiteFile.model_validate(content)
    except ValidationError as refused:
        assert name in str(refused)
        return
    assert not isinstance(value, bool | str)
    data = file.data["chest-xray"]
    assert 1 <= data.most_validated <= data.most_patients
    assert 0 <= file.policy.limits.spent(np.ones(len(ORDERS))) < math.inf
    card = file.device.gpu or 0
    assert isinstance(card, int)
    for number in (file.site.cache_bytes, file.device.memory_limit_mib or 0, card):
        assert 0 <= number < 2**63


UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"


@pytest.mark.parametrize("gpu", [0, 7, UUID, UUID.replace("GPU", "MIG"), "MIG-GPU-8932f937/1/0"])
def test_a_card_is_named_by_its_number_or_its_uuid(tmp_path: Path, gpu: int | str) -> None:
    device = read(tmp_path, device={"gpu": gpu}).device
    assert (device.gpu, device.name) == (gpu, "cuda")
    assert read(tmp_path).device.name == "cpu"


@pytest.mark.parametrize("gpu", ["", "cuda:0", "all", "GPU-", "GPU-8932f937,1", "gpu-8932f937"])
def test_what_names_no_card_is_refused_with_what_to_write(tmp_path: Path, gpu: str) -> None:
    with pytest.raises(SiteError) as caught:
        read(tmp_path, device={"gpu": gpu})
    assert "nvidia-smi -L lists both" in caught.value.details["found"]


def test_short_activations_are_for_a_card_alone(tmp_path: Path) -> None:
    device = {"gpu": 0, "precision": "bfloat16"}
    assert read(tmp_path, device=device).device.precision == "bfloat16"
    with pytest.raises(SiteError) as caught:
        read(tmp_path, device={"precision": "bfloat16"})
    assert "name one with gpu" in caught.value.details["found"]
