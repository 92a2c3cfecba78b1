from __future__ import annotations

import pytest

from client.data.label_files.spelling import class_of, clean, columns_called, unquoted


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("\u00a0P1 ", "P1"),
        ("\ufeffP1\u200b", "P1"),
        ("\u202aC:\\x.dcm", "C:\\x.dcm"),
        ("P\u00a01", "P\u00a01"),
        ('="00123"', "00123"),
        (' =" P1 " ', "P1"),
        ('="say ""hi"""', '="say ""hi"""'),
        ("=P1", "=P1"),
        ("0012.0", "0012.0"),
    ],
)
def test_what_nobody_sees_is_left_out_and_nothing_else(cell: str, text: str) -> None:
    assert unquoted(cell) == (text if cell != '="say ""hi"""' else 'say ""hi""')
    assert clean(clean(cell)) == clean(cell)


@pytest.mark.parametrize(
    "name", ["Patient ID", "patient_id", "PATIENTID", "Patient-Id ", "#PatientID"]
)
def test_a_column_may_be_spelled_in_another_way(name: str) -> None:
    assert columns_called(["age", name], "PatientID") == [1]


def test_the_exact_name_of_a_column_is_taken_before_other_spellings() -> None:
    assert columns_called(["patient_id", "PatientID"], "PatientID") == [1]
    assert columns_called(["patient_id", "Patient ID"], "PatientID") == [0, 1]
    assert columns_called(["", "-", "labels", "label\udcdf"], "label") == []
    assert columns_called(["", "-"], "?") == []


@pytest.mark.parametrize(
    ("label", "classes", "place"),
    [
        ("Yes", ("no", "yes"), 1),
        ("no \u00a0 finding", ("No finding", "finding"), 0),
        ("1.0", ("0", "1"), 1),
        ("1.5", ("0", "1"), None),
        ("1.0", ("1", "1.0"), 1),
        ("1.00", ("1", "1.0"), None),
        ("1,000000", ("0", "1"), 1),
        ("1,000", ("1", "1000"), None),
        ("1.000", ("1", "2"), None),
        ("A", ("a", "A"), 1),
        ("\u00c4", ("\u00e4", "a"), 0),
        ("yes", ("Yes", "YES"), None),
        ("y", ("yes", "no"), None),
    ],
)
def test_a_label_is_a_class_only_if_it_can_be_no_other(
    label: str, classes: tuple[str, ...], place: int | None
) -> None:
    assert class_of(label, classes) == place
