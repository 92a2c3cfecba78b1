"""Whatever a source's header holds, an object about it is valid and says who it is of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag

from client.objects.capture import capture
from client.objects.maker import Unmade
from client.objects.report import report
from client.objects.segmentation import segmentation
from client.objects.sources import OPTIONAL, TYPE_2, accepted
from client.objects.values import MOST_DEPTH
from common.scores.finding import Finding
from tests.client.objects.object_files import (
    CLASSES,
    MAKER,
    NAMES,
    WHEN,
    complaints,
    image,
    marks,
    named,
    read_again,
    written,
)

PICTURE = np.zeros((5, 4, 3), np.uint8)


def seg_of(source: Dataset) -> Dataset:
    made = segmentation([source], marks(1), CLASSES, MAKER, when=WHEN)
    assert made is not None
    return made


OBJECTS: dict[str, Callable[[Dataset], Dataset]] = {
    "SEG": seg_of,
    "SR": lambda source: report([source], [Finding("腫瘍", 0.5)], MAKER, when=WHEN),
    "SC": lambda source: capture(source, PICTURE, MAKER, "Übersicht", when=WHEN),
}


@pytest.mark.matrix
@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("script", NAMES)
def test_a_name_in_any_script_is_the_same_in_an_object(
    kind: str, script: str, tmp_path: Path
) -> None:
    source = named(image("CT"), script)
    dataset = OBJECTS[kind](source)

    again = read_again(dataset)
    assert again.SpecificCharacterSet == "ISO_IR 192"
    assert str(again.PatientName).rstrip("=") == NAMES[script][1].rstrip("=")
    assert complaints(written(dataset, tmp_path / "object.dcm")) == []


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_a_source_lacks_is_empty(kind: str, tmp_path: Path) -> None:
    source = image("DX", plane=False)
    for keyword in (*TYPE_2, "Manufacturer", "Modality", "InstanceNumber", "PatientOrientation"):
        if keyword in source:
            del source[keyword]
    dataset = OBJECTS[kind](read_again(source))

    assert [dataset[each].is_empty for each in TYPE_2] == [True] * len(TYPE_2)
    assert complaints(written(dataset, tmp_path / "object.dcm")) == []


def test_patient_and_study_are_those_of_the_source() -> None:
    source = image("CT")
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3", "ISO"
    wanted = {
        "IssuerOfPatientID": "North",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "PatientAge": "056Y",
        "PatientWeight": 70.5,
        "AccessionNumber": "A-1",
        "StudyDescription": "Abdomen",
        "ReferringPhysicianName": "Doe^Jane",
    }
    for keyword, value in wanted.items():
        setattr(source, keyword, value)
    source.IssuerOfPatientIDQualifiersSequence = Items([issuer])
    dataset = read_again(seg_of(read_again(source)))

    assert {each: dataset[each].value for each in wanted} == wanted
    assert dataset.PatientID == "P-0042"
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert dataset.IssuerOfPatientIDQualifiersSequence[0] == issuer


ODD = {
    "PatientName": ("LO", "x" * 200, "x" * 64),
    "PatientID": ("LO", "9" * 65, ""),
    "AccessionNumber": ("SH", "1234567890123456789", ""),
    "StudyDescription": ("LO", "y" * 100, "y" * 64),
    "PatientBirthDate": ("DA", "1970.01.02", "19700102"),
    "StudyDate": ("DA", "20261301", ""),
    "StudyTime": ("TM", "12:34:56", "123456"),
    "PatientSex": ("CS", "female", ""),
    "StudyID": ("OB", b"\x00\x01", ""),
    "ReferringPhysicianName": ("PN", "a^b^c^d^e^f", "a^b^c^d^e f"),
}
"""VR and value as a file has them, and what may be in an object."""


@pytest.mark.parametrize("kind", OBJECTS)
def test_odd_values_are_corrected_or_left_out(kind: str, tmp_path: Path) -> None:
    source = image("CT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are meant to be odd
        for keyword, (vr, value, _) in ODD.items():
            source[Tag(keyword)] = DataElement(Tag(keyword), vr, value)
        source.PatientWeight = "1e5"
        dataset = OBJECTS[kind](read_again(source))

    assert {each: str(dataset[each].value or "") for each in ODD} == {
        each: wanted for each, (_, _, wanted) in ODD.items()
    }
    assert complaints(written(dataset, tmp_path / "object.dcm")) == []


def test_an_identifier_is_never_cut() -> None:
    """What is left of a longer one may be another patient's."""
    source = image("CT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is meant to be too long
        source.PatientID = "P-" + "0" * 80

    assert accepted([source])[0].dataset.PatientID == ""


@given(data=st.data())
def test_whatever_a_header_holds_the_outcome_is_valid_elements_or_a_sentence(
    data: st.DataObject,
) -> None:
    source = image("CT")
    for keyword in data.draw(st.sets(st.sampled_from([*TYPE_2, *OPTIONAL, "Rows", "SOPClassUID"]))):
        tag, vr = (
            Tag(keyword),
            data.draw(st.sampled_from(["LO", "UN", "US", "OB", "SH", "DA", None])),
        )
        value = data.draw(st.binary(max_size=90) | st.text(max_size=90).map(str.encode))
        source[tag] = RawDataElement(
            tag, vr, len(value), value, 0, is_implicit_VR=vr is None, is_little_endian=True
        )
    try:
        (found,) = accepted([source])
    except Unmade as verdict:
        assert verdict.reason
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydicom warns of what is not valid
        again = read_again(with_file_meta(found.dataset, source))
        for element in again.iterall():
            str(element.value)


def with_file_meta(dataset: Dataset, source: Dataset) -> Dataset:
    dataset.file_meta = source.file_meta
    return dataset


@pytest.mark.parametrize("kind", OBJECTS)
def test_sequences_within_sequences_are_copied_only_so_deep(kind: str) -> None:
    source, inner = image("CT"), Dataset()
    inner.LocalNamespaceEntityID = "ward"
    for _ in range(12):  # hundreds would take all memory if they were copied
        outer = Dataset()
        outer.LocalNamespaceEntityID = "hospital"
        outer.IssuerOfPatientIDQualifiersSequence = [inner]
        inner = outer
    source.IssuerOfPatientIDQualifiersSequence = [inner]

    found, depth = read_again(OBJECTS[kind](source)), 0
    while "IssuerOfPatientIDQualifiersSequence" in found:
        found, depth = found.IssuerOfPatientIDQualifiersSequence[0], depth + 1

    assert depth == MOST_DEPTH
