// Reads DICOM objects with dcmjs, a parser of another project, and says in JSON what is in them.
//
//     node read_back.mjs FOLDER_OF_NODE_MODULES OBJECT.dcm ...
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [modules, ...paths] = process.argv.slice(2);
const dcmjs = createRequire(join(modules, "index.js"))("dcmjs");
dcmjs.log.setLevel?.("silent");
const { BitArray, DicomMessage, DicomMetaDictionary } = dcmjs.data;

const list = (value) => (value === undefined || value === null ? [] : [value].flat());
const first = (value) => list(value)[0];
const meaning = (code) => first(code)?.CodeMeaning;

function instances(dataset) {
  const series = list(dataset.ReferencedSeriesSequence).concat(
    list(dataset.CurrentRequestedProcedureEvidenceSequence).flatMap((study) =>
      list(study.ReferencedSeriesSequence),
    ),
  );
  return series
    .flatMap((each) => [...list(each.ReferencedInstanceSequence), ...list(each.ReferencedSOPSequence)])
    .map((each) => each.ReferencedSOPInstanceUID)
    .sort();
}

function segments(dataset) {
  // BitArray.unpack reads the bits of all frames as one row, as PS3.5, 8.1.1 has them.
  const bits = BitArray.unpack(first(dataset.PixelData));
  const size = dataset.Rows * dataset.Columns;
  const shared = first(dataset.SharedFunctionalGroupsSequence);
  const found = list(dataset.SegmentSequence).map((each) => ({
    number: each.SegmentNumber,
    label: each.SegmentLabel,
    pixels: 0,
  }));
  list(dataset.PerFrameFunctionalGroupsSequence).forEach((group, frame) => {
    const item = first(group.SegmentIdentificationSequence ?? shared.SegmentIdentificationSequence);
    const segment = found.find((each) => each.number === item.ReferencedSegmentNumber);
    for (const bit of bits.subarray(frame * size, (frame + 1) * size)) segment.pixels += bit ? 1 : 0;
  });
  return found;
}

function findings(dataset) {
  const named = (item, name) =>
    list(item.ContentSequence).filter((each) => meaning(each.ConceptNameCodeSequence) === name);
  return named(dataset, "Imaging Measurements")
    .flatMap((each) => named(each, "Measurement Group"))
    .map((group) => {
      const number = list(group.ContentSequence).find((each) => each.ValueType === "NUM");
      const measured = first(number.MeasuredValueSequence);
      return {
        name: meaning(named(group, "Finding")[0].ConceptCodeSequence),
        score: Number(measured.NumericValue),
        unit: first(measured.MeasurementUnitsCodeSequence).CodeValue,
        present: meaning(named(group, "Presence of property")[0]?.ConceptCodeSequence) ?? null,
      };
    });
}

function readBack(path) {
  const file = readFileSync(path);
  const read = DicomMessage.readFile(
    file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength),
  );
  const dataset = DicomMetaDictionary.naturalizeDataset(read.dict);
  const name = first(dataset.PatientName);
  return {
    modality: dataset.Modality,
    patient: String(dataset.PatientID),
    name: [name?.Alphabetic, name?.Ideographic, name?.Phonetic].filter(Boolean).join("="),
    study: dataset.StudyInstanceUID,
    series: dataset.SeriesInstanceUID,
    instance: dataset.SOPInstanceUID,
    frameOfReference: dataset.FrameOfReferenceUID ?? null,
    instances: instances(dataset),
    ...(dataset.Modality === "SEG" ? { segments: segments(dataset) } : {}),
    ...(dataset.Modality === "SR" ? { findings: findings(dataset) } : {}),
    ...(dataset.Modality === "OT" ? { bytes: first(dataset.PixelData).byteLength } : {}),
  };
}

console.log(JSON.stringify(paths.map(readBack)));
