"""A Comprehensive SR of what a model says about images: TID 1500 Measurement Report (PS3.16).

One measurement group (TID 1501) a finding: its name, the model, a score with a unit, and whether
the class is present (CID 240). Nobody has verified it and it is preliminary (PS3.3, C.17.2). The
template may be extended: a comment at its end says what it is not for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import astuple
from datetime import datetime

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from client.objects.geometry import geometry_of
from client.objects.maker import MANUFACTURER, RESEARCH, Maker, Unmade
from client.objects.modules import closed, code_of, common, label
from client.objects.sources import SourceImage, accepted, made_of_these
from client.objects.units import ucum
from common.scores.finding import Finding


def report(
    sources: Sequence[Dataset], findings: Sequence[Finding], made_by: Maker, *, when: datetime
) -> Dataset:
    """One report about images of a patient.

    Args:
        sources: images of one study, also of several series. As read, with or without pixels.
        findings: at least one.
        made_by: the model.
        when: of the content. It is in the object but not in its UID: the caller gives one that is
            the same when the same is predicted again.

    Returns:
        The data set with its file meta information.

    Raises:
        Unmade: no valid object can be made of these images.
    """
    if not findings:
        raise Unmade("there is no finding to report")
    if not all(_is_known(each) for each in findings):
        raise Unmade("the model gives no number for it")
    found = accepted(sources)
    content = json.dumps([astuple(each) for each in findings]).encode()
    arguments = common("SR", found, content, made_by, when)
    described = [_described(*each) for each in zip(sources, found, strict=True)]
    with made_of_these():
        made = ComprehensiveSR(
            evidence=[each.dataset for each in found],
            content=_content(found, described, findings, made_by, arguments["sop_instance_uid"]),
            is_complete=True,
            is_final=False,
            is_verified=False,
            **arguments,
        )
    return closed(made, found[0], when)


def _content(
    found: Sequence[SourceImage],
    described: Sequence[Dataset],
    findings: Sequence[Finding],
    made_by: Maker,
    instance: str,
) -> Dataset:
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(made_by)),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[
            _group(finding, found, made_by, made_by.uid("finding", instance, str(number)))
            for number, finding in enumerate(findings)
        ],
        referenced_images=described,
    )
    comment = TextContentItem(codes.DCM.Comment, RESEARCH, relationship_type="CONTAINS")
    root = content[0]
    root.ContentSequence.append(comment)
    return root


def _observer(made_by: Maker) -> ObserverContext:
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=made_by.uid("device"),
            name=made_by.name,
            manufacturer_name=MANUFACTURER,
            model_name=f"{MANUFACTURER} {made_by.version}",
            serial_number=made_by.sha256,
        ),
    )


def _group(
    finding: Finding, found: Sequence[SourceImage], made_by: Maker, uid: str
) -> MeasurementsAndQualitativeEvaluations:
    parameters = [made_by.parameters]
    if finding.threshold is not None:
        parameters.append(f"threshold={finding.threshold:g}")
    only = found[0].dataset if len(found) == 1 else None
    evaluations = []
    if finding.present is not None:
        value = codes.cid240.Present if finding.present else codes.cid240.Absent
        evaluations.append(QualitativeEvaluation(codes.DCM.PresenceOfProperty, value))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=uid, identifier=label(finding.name)),
        finding_type=code_of(finding.name),
        # Without its family: a reader would take that code for an evaluation of the image.
        algorithm_id=AlgorithmIdentification(
            made_by.name, made_by.version, parameters, manufacturer=MANUFACTURER
        ),
        measurements=[_measurement(finding)],
        qualitative_evaluations=evaluations,
        # Of several images all are meant, which are in the library.
        source_images=[SourceImageForMeasurementGroup(only.SOPClassUID, only.SOPInstanceUID)]
        if only is not None
        else None,
    )


def _is_known(finding: Finding) -> bool:
    return math.isfinite(finding.score) and (
        not finding.is_probability or 0.0 <= finding.score <= 1.0
    )


def _measurement(finding: Finding) -> Measurement:
    if finding.is_probability:
        return Measurement(codes.DCM.Probability, finding.score, codes.UCUM.NoUnits)
    unit = ucum(finding.unit)
    meaning = label(finding.unit) if finding.unit.strip() else "no units"
    return Measurement(code_of(finding.name), finding.score, CodedConcept(unit, "UCUM", meaning))


def _described(source: Dataset, found: SourceImage) -> Dataset:
    """An image as the library describes it (TID 1600).

    Modality (0008,0060) is only asked to tell whether there are descriptors of a plane or a
    projection to write, each of which is then required: an image without all of them has none.
    """
    made = Dataset()
    made.update(found.dataset)
    place = None
    if found.frames == 1 and "FrameOfReferenceUID" in found.dataset:
        place = geometry_of([source], [1])
    if place is not None:
        place.write(made, 0, 1)
    if place is None or not place.thickness or made.get("Modality") not in ("CT", "MR", "PT"):
        made.Modality = ""
    return made
