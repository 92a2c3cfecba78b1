from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from highdicom.sr import (
    CodedConcept,
    ComprehensiveSR,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset

from client.objects.maker import RESEARCH, Unmade
from client.objects.report import report
from common.scores.finding import Finding
from simulations.hospitals.dicom_writer import to_bytes
from tests.client.objects.object_files import (
    MAKER,
    WHEN,
    complaints,
    image,
    many_frames,
    read_again,
    series,
    written,
)

FINDINGS = (
    Finding("pneumonia", 0.83, present=True, threshold=0.5),
    Finding("Erguß", 0.125, present=False, threshold=0.4),
    Finding("nothing decided", 0.5),
    Finding("age", 63.25, unit="years"),
    Finding("volume", -12.5, unit="mL"),
    Finding("points", 3.0, unit=""),
)
IMAGES: dict[str, Callable[[], list[Dataset]]] = {
    "CT series": lambda: series("CT"),
    "frames of one MR": lambda: [many_frames()],
    "DX": lambda: [image("DX", plane=False)],
    "US": lambda: [image("US", plane=False)],
    "CT without a place": lambda: [image("CT", plane=False)],
    "two series": lambda: [*series("CT"), image("DX", plane=False)],
}


def made(images: list[Dataset], findings: tuple[Finding, ...] = FINDINGS) -> Dataset:
    return read_again(report(images, findings, MAKER, when=WHEN))


@pytest.mark.parametrize("kind", IMAGES)
def test_a_validator_finds_no_error(kind: str, tmp_path: Path) -> None:
    assert complaints(written(made(IMAGES[kind]()), tmp_path / "sr.dcm")) == []


def evaluations(group: MeasurementsAndQualitativeEvaluations) -> list[CodedConcept]:
    values = [each.value for each in group.get_qualitative_evaluations()]
    return [each for each in values if isinstance(each, CodedConcept)]


def test_highdicom_reads_what_was_found() -> None:
    content = ComprehensiveSR.from_dataset(made(series("CT"))).content
    assert isinstance(content, MeasurementReport)
    groups = content.get_image_measurement_groups()

    kinds = [group.finding_type for group in groups]
    assert [kind.meaning for kind in kinds if kind] == [each.name for each in FINDINGS]
    measured = [group.get_measurements() for group in groups]
    assert [(each[0].value, each[0].unit.value) for each in measured] == [
        (0.83, "1"),
        (0.125, "1"),
        (0.5, "1"),
        (63.25, "{years}"),
        (-12.5, "mL"),
        (3.0, "1"),
    ]
    presence = [[each.meaning for each in evaluations(group)] for group in groups]
    assert presence == [["Present"], ["Absent"], [], [], [], []]


def test_presence_and_probability_have_the_standard_s_codes() -> None:
    """CID 240 and the DICOM Controlled Terminology (PS3.16, annex D)."""
    content = ComprehensiveSR.from_dataset(made(series("CT"))).content
    assert isinstance(content, MeasurementReport)
    first, second, *_ = content.get_image_measurement_groups()

    values = [evaluations(group)[0] for group in (first, second)]
    assert [(each.value, each.scheme_designator) for each in values] == [
        ("52101004", "SCT"),
        ("272519000", "SCT"),
    ]
    name = first.get_measurements()[0].name
    assert (name.value, name.scheme_designator) == ("122157", "DCM")


def test_it_is_preliminary_and_says_that_it_is_for_research_only() -> None:
    dataset = made(series("CT"))

    assert dataset.VerificationFlag == "UNVERIFIED"
    assert (dataset.CompletionFlag, dataset.PreliminaryFlag) == ("COMPLETE", "PRELIMINARY")
    assert dataset.ContentQualification == "RESEARCH"
    comment = dataset.ContentSequence[-1]
    assert comment.ConceptNameCodeSequence[0].CodeMeaning == "Comment"
    assert comment.TextValue == RESEARCH


def test_it_names_the_model_its_hash_and_the_threshold() -> None:
    items = leaves(made(series("CT"), FINDINGS[:1]))

    assert {
        *(MAKER.name, MAKER.version),
        *(f"package_sha256={MAKER.sha256}", "threshold=0.5"),
    } <= {str(each.TextValue) for each in items if "TextValue" in each}


def leaves(item: Dataset) -> list[Dataset]:
    return [item, *(leaf for each in item.get("ContentSequence", []) for leaf in leaves(each))]


@pytest.mark.parametrize("kind", IMAGES)
def test_all_images_are_in_its_library_and_its_evidence(kind: str) -> None:
    images = IMAGES[kind]()
    wanted = {each.SOPInstanceUID for each in images}
    dataset = made(images)

    evidence = dataset.CurrentRequestedProcedureEvidenceSequence
    assert {
        item.ReferencedSOPInstanceUID
        for study in evidence
        for group in study.ReferencedSeriesSequence
        for item in group.ReferencedSOPSequence
    } == wanted
    assert {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in leaves(dataset)
        if item.get("ValueType") == "IMAGE"
    } == wanted


def test_the_same_prediction_gives_the_same_bytes() -> None:
    assert to_bytes(made(series("CT"))) == to_bytes(made(series("CT")))
    assert made(series("CT")).SOPInstanceUID != made(series("CT"), FINDINGS[:2]).SOPInstanceUID


def test_a_report_of_nothing_is_not_made() -> None:
    with pytest.raises(Unmade, match="no finding"):
        report(series("CT"), (), MAKER, when=WHEN)


def test_images_of_two_studies_are_told() -> None:
    images = series("CT")
    images[1].StudyInstanceUID = "1.2.3"

    with pytest.raises(Unmade, match="several studies"):
        report(images, FINDINGS, MAKER, when=WHEN)


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.1, 1.1])
def test_what_is_no_probability_is_not_reported(score: float) -> None:
    with pytest.raises(Unmade, match="no number"):
        made([image("DX", plane=False)], (Finding("pneumonia", score),))
