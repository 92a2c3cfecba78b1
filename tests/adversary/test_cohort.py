"""Each patient's place in the cohort follows from that patient alone.

What is a patient's are the files that bear the patient's identifiers and the rows that name one
of these. A row that names images of two patients, under one copied UID, is about both.

Two archives differ in one patient, whose part is made to look as bad as it can. Whoever else is
there has the same label, digest, part and pixels in both, to the last bit, and reading them is an
error in neither: a mess is one patient's, and no mess is the site's.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.cohort import Cohort, Split, load_cohort
from client.data.labels import KEYS, Key, LabelFile
from client.data.masks.sources import MaskFolder
from client.data.persons import Persons
from client.data.pseudonyms import Pseudonyms
from tests.adversary.archives import (
    ALIAS,
    CLASSES,
    MASK_MESSES,
    MESSES,
    NEWCOMER,
    Mess,
    Part,
    others,
    plain,
)

PSEUDONYMS = Pseudonyms(bytes(range(32)))
SPLIT = Split(0.5, 0.3, 0.2)
OWN = frozenset(map(PSEUDONYMS.of, (NEWCOMER, ALIAS)))

Place = tuple[int | float, str, str, tuple[bytes, ...]]


def cohort_of(folder: Path, key: Key | None, *, without: frozenset[str] = frozenset()) -> Cohort:
    labels = LabelFile(folder / "labels.csv", key, key, "label") if key else None
    return load_cohort(
        folder / "images",
        labels or MaskFolder(folder / "masks"),
        pseudonyms=PSEUDONYMS,
        classes=CLASSES,
        modalities=("CR",),
        image_size=(8, 8),
        channels=1,
        split=SPLIT,
        cache=folder.parent / "cache",
        without=without,
        persons=Persons(folder / "same-person.csv", PSEUDONYMS).read().persons,
    )


def places(cohort: Cohort, *, of: frozenset[str] | None = None) -> dict[str, Place]:
    """Label, digest, part, pixels and masks of each patient but the newcomer, or of these alone."""
    return {
        each.pseudonym: (
            each.label,
            each.digest,
            SPLIT.part_of(each.pseudonym),
            tuple(
                array[row].tobytes()
                for array in (cohort.images, cohort.masks)
                if array is not None
                for row in each.images
            ),
        )
        for each in cohort.patients
        if (each.pseudonym in of if of else each.pseudonym not in OWN)
    }


def read(
    root: Path, archive: Part, *, masks: bool, without: frozenset[str] = frozenset()
) -> Cohort:
    """An archive's cohort. All stand in one place in turn, with what the last one left cached."""
    archive.write(root / "site")
    try:
        return cohort_of(root / "site", None if masks else archive.key, without=without)
    finally:
        shutil.rmtree(root / "site")


def hold(root: Path, key: Key, messes: list[Mess], seed: int, *, masks: bool) -> None:
    """Read archives with and without the newcomer, and hold everybody's places side by side."""
    draws = random.Random(seed)
    rest, own = others(draws, key), Part(key)
    for mess in messes:
        mess(draws, rest, own)
    rest.rows += own.rows_about(rest)
    rest.masks |= own.masks_about(rest)
    archives = {
        "without": rest,
        "with": rest | own,
        "rows alone": rest | Part(key, rows=own.rows, joined=own.joined, masks=own.masks),
        "alone": own | Part(key, rows=rest.rows, masks=rest.masks),
    }
    order = draws.sample(sorted(archives), len(archives))
    found = {name: read(root, archives[name], masks=masks) for name in order}

    expected = places(found["without"])
    assert places(found["with"]) == expected
    assert places(found["rows alone"]) == expected
    assert places(read(root, archives["with"], masks=masks, without=OWN)) == expected
    assert places(found["with"], of=OWN) == places(found["alone"], of=OWN)
    shutil.rmtree(root / "cache")
    assert places(read(root, archives["with"], masks=masks)) == expected


def drawn(key: Key, messes: list[Mess], seed: int, *, masks: bool = False) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hold(Path(folder), key, messes, seed, masks=masks)


@pytest.mark.parametrize("mess", MESSES, ids=lambda mess: mess.__name__)
def test_no_mess_of_one_patient_changes_anothers_place(mess: Mess) -> None:
    for number, key in enumerate(KEYS):
        drawn(key, [plain, mess], number)


@pytest.mark.parametrize("mess", MASK_MESSES, ids=lambda mess: mess.__name__)
def test_no_mess_of_one_patients_masks_changes_anothers_place(mess: Mess) -> None:
    drawn(KEYS[0], [plain, mess], 1, masks=True)


MASKED = (*MESSES, *MASK_MESSES)
ARCHIVES = given(
    st.sampled_from(KEYS),
    st.lists(st.sampled_from(MESSES), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
MASKED_ARCHIVES = given(
    st.lists(st.sampled_from(MASKED), min_size=1, max_size=4), st.integers(0, 2**32)
)


@settings(max_examples=settings().max_examples // 6)
@ARCHIVES
def test_nor_do_several_at_once(key: Key, messes: list[Mess], seed: int) -> None:
    drawn(key, messes, seed)


@pytest.mark.long
@settings(max_examples=60)
@ARCHIVES
def test_nor_do_many_more(key: Key, messes: list[Mess], seed: int) -> None:
    drawn(key, messes, seed)


@pytest.mark.long
@settings(max_examples=20)
@MASKED_ARCHIVES
def test_nor_do_many_more_where_there_are_masks(messes: list[Mess], seed: int) -> None:
    drawn(KEYS[0], [plain, *messes], seed, masks=True)
