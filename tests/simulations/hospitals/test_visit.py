from __future__ import annotations

import pytest

from client.data.labels import KEYS, Key
from simulations.hospitals.visit import GAP, Slice, Visit


def test_two_images_share_a_visit_and_the_third_is_a_later_one() -> None:
    first, second, third = (Visit("north", 0, 1, number) for number in (1, 2, 3))
    assert first.study == second.study != third.study
    assert first.date == second.date < third.date
    assert len({each.instance for each in (first, second, third)}) == 3
    assert first.patient == third.patient == "NORTH-00001"


def test_identifiers_depend_on_seed_archive_and_patient() -> None:
    visits = [Visit("north", 0, 1), Visit("north", 1, 1), Visit("east", 0, 1), Visit("north", 0, 2)]
    assert len({each.instance for each in visits}) == 4
    assert len({each.study for each in visits}) == 4


@pytest.mark.parametrize("kind", KEYS)
def test_a_label_file_names_an_image_by_each_kind_of_key(kind: Key) -> None:
    visit = Visit("east", 0, 7, 3)
    pattern = "{patient}/ST{visit:03d}/IM{number:03d}"
    expected = {
        "SOPInstanceUID": visit.instance,
        "StudyInstanceUID": visit.study,
        "PatientID": "EAST-00007",
        "filename": "EAST-00007/ST002/IM003",
    }
    assert visit.key(kind, pattern) == expected[kind]


def test_what_is_described_can_be_changed_by_name() -> None:
    instance = Visit("north", 0, 1).describe("north", burned_in=True, patient="")
    assert instance.burned_in
    assert instance.patient == ""
    assert instance.site == "north"


def test_slices_are_one_examination_and_lie_above_each_other() -> None:
    """Four columns of 90 mm: the middle of the first pixel is 135 mm from the patient's middle."""
    first, third = (Slice("north", 0, 1, number, shape=(6, 4)) for number in (1, 3))
    assert (first.study, first.date) == (third.study, third.date)
    assert first.describe("north").series == third.describe("north").series
    assert first.plane.frame == third.plane.frame
    assert first.plane.spacing == (90.0, 90.0)
    assert first.plane.position == (-135.0, -225.0, 0.0)
    assert third.plane.position == (-135.0, -225.0, 2 * GAP)
    assert third.describe("north").plane == third.plane
