"""What people write and mail: label files, lists of patients, site files, cards; and documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from client.data.archive import Found
from client.data.dicom import Header
from client.data.labels import KEYS, LabelFile, guess_key, read_labels
from client.data.persons import Persons
from client.data.pseudonyms import Pseudonyms
from client.records.opt_out import OptOuts
from client.sitefile import load_site_file
from common.control.rpc_errors import decode, encode
from common.documents import read_json
from common.errors import (
    ConsiliumError,
    CoordinatorError,
    LabelError,
    Refusal,
    RefusalCode,
    SiteError,
    StudyError,
)
from common.wire.bundle import foreign
from common.wire.enrolment import read_coordinator_card, read_site_card
from server.superlink.bundle import bundle
from tests.fuzz.mutation import Draw, bytes_of, json_of, text_of
from tests.fuzz.settings import Settings, toml
from tests.fuzz.target import Target, require_help

CLASSES: Final = ("normal", "pneumonia")
ROWS: Final = ("1.2.3,normal", "1.2.4,pneumonia", '"1.2.5",pneumonia', "1.2.6,normal")
_CELLS: Final = (
    "00123", '="00123"', "123.0", "1.23E+05", "\u00a000123", "images/x.dcm", "C:\\x\\y.dcm", "",
    '"',    '""', '"a', "a,b", "#", "sep=;", "Ã¤", "\x00", "NORMAL", "normal ", "1", "NA", "=cmd()",
)  # fmt: skip
SITE: Final[dict[str, Any]] = {
    "site": {"name": "north", "cache_gib": 2.5},
    "data": {
        "chest-xray": {
            "images": "images", "labels": "labels.csv", "key": "SOPInstanceUID",
            "key_column": "SOPInstanceUID", "declared_patients": 20, "split": [0.75, 0.25, 0.0],
        }
    },
    "policy": {
        "max_epsilon_per_study": 8.0, "max_epsilon_total": 20.0, "delta": 1e-5,
        "spent_before": 0.5, "hours": "20:00-06:00", "approval": "automatic",
        "ranges": {"rounds": [1, 100]},
    },
    "device": {"threads": 1, "kernels": "modelled", "memory_mib": 1024},
    "metrics": {"listen": "localhost:9000"},
}  # fmt: skip


class Labels(Target):
    """A label file: read for a study, and checked for a person."""

    errors = (LabelError,)

    def samples(self) -> Sequence[bytes]:
        text = "SOPInstanceUID,label\n" + "\n".join(ROWS) + "\n"
        forms = (
            text,
            text.replace(",", ";"),
            text.replace(",", "\t"),
            text.replace("\n", "\r\n"),
            text.replace("SOPInstanceUID", "PatientID"),
            text.replace("SOPInstanceUID,label", "filename,label,age"),
            "sep=,\n# made by hand\n" + text,
            "",
        )
        encodings = ("utf-8", "utf-8-sig", "utf-16", "latin-1")
        written = [each.encode(encoding) for each in forms for encoding in encodings]
        return [*written, b"PK\x03\x04\x14\x00xl/workbook.xml", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"]

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        if draw.random() < 0.3:
            return bytes_of(draw, data)
        text = data.decode("utf-8", "surrogateescape")
        if draw.random() < 0.5:
            lines = text.splitlines() or [""]
            place = draw.randrange(len(lines))
            cells = lines[place].split(",")
            cells[draw.randrange(len(cells))] = draw.choice(_CELLS)
            lines[place] = draw.choice((",", ";", "\t", ",,")).join(cells)
            text = draw.choice(("\n", "\r", "\r\n")).join(lines)
        else:
            text = text_of(draw, text)
        return text.encode("utf-8", "surrogateescape" if text.isprintable() else "replace")

    def take(self, data: bytes) -> str:
        path = self.folder / "labels.csv"
        path.write_bytes(data)
        said: set[str] = set()
        for key in KEYS:
            file = LabelFile(path, key, key, "label")
            for classes in (CLASSES, None):
                try:
                    labels = read_labels(file, classes)
                    rows = [row for each in _FILES for row in labels.about(each)]
                    assert all(labels.label(row) in (None, *range(50)) for row in rows)
                    labels.require_sound()
                    said.add("sound")
                except LabelError as error:
                    require_help(error)
                    said.add("faulty")
        guess_key(path, "label")
        return " and ".join(sorted(said))


_FILES: Final = tuple(
    Found(f"{name}.dcm", "0" * 64, Header(name, name, name, "DX", (), False, 8, 8, 1))
    for name in ("1.2.3", "00123")
)


class Lists(Target):
    """Lists of PatientIDs: who opted out, and who is one person."""

    errors = (SiteError,)

    def samples(self) -> Sequence[bytes]:
        text = "# comment\nP01\nP02 P03\n\nMüller\n"
        return [text.encode(each) for each in ("utf-8", "utf-8-sig", "latin-1", "utf-16")]

    def take(self, data: bytes) -> str:
        path = self.folder / "list.txt"
        path.write_bytes(data)
        pseudonyms = Pseudonyms(bytes(32))
        joined = Persons(path, pseudonyms).read()
        assert set(joined.persons.values()) <= set(joined.persons)
        lists = OptOuts([path], self.folder, pseudonyms, Persons(None, pseudonyms))
        before = lists.read().pseudonyms
        lists.add(["P77"])
        assert before | {pseudonyms.of("P77")} == lists.read().pseudonyms, (
            "another list than before"
        )
        return "read"


class SiteFiles(Settings):
    """A site file."""

    errors = (SiteError,)
    document = SITE

    def samples(self) -> Sequence[bytes]:
        tables = dict(SITE)
        tables["data"] = {"x": SITE["data"]["chest-xray"]}
        return [toml(SITE).encode(), toml(tables).encode()]

    def take(self, data: bytes) -> str:
        path = self.folder / "site.toml"
        path.write_bytes(data)
        file = load_site_file(path)
        for name, dataset in file.data.items():
            file.label_file(name, self.folder)
            assert dataset.most_validated >= 1
            assert dataset.most_patients >= dataset.declared_patients
            assert dataset.parts
        assert file.policy.limits
        assert file.site.cache_bytes >= 0
        return "read"


class Cards(Target):
    """The cards that come by mail."""

    errors = (SiteError, CoordinatorError)

    def samples(self) -> Sequence[bytes]:
        return [path.read_bytes() for path in sorted((Path(__file__).parent / "cards").iterdir())]

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        return json_of(draw, data)

    def take(self, data: bytes) -> str:
        path = self.folder / "CARD.json"
        path.write_bytes(data)
        try:
            assert read_site_card(path).fingerprint
        except SiteError as error:
            require_help(error)
        else:
            return "site"
        assert read_coordinator_card(path).fingerprint
        return "coordinator"


class Bundles(Target):
    """The bundle that Flower sends."""

    def samples(self) -> Sequence[bytes]:
        return [bundle().content]

    def take(self, data: bytes) -> str:
        said = foreign(data)
        assert said is None or said
        return "ours" if said is None else "foreign"


class Errors(Target):
    """An error that a daemon tells a command line through the control socket."""

    errors = (ConsiliumError,)

    def samples(self) -> Sequence[bytes]:
        refusal = Refusal.of_public(
            RefusalCode.POLICY, "what", where="a", found="b", wanted="c", remedy="d"
        )
        return [encode(StudyError("what", where="here", remedy="do")), encode(refusal)]

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        return json_of(draw, data)

    def take(self, data: bytes) -> str:
        error = decode(data)
        assert isinstance(error, ConsiliumError)
        assert error.render()
        return type(error).__name__


class Json(Target):
    """The reader of every document."""

    def samples(self) -> Sequence[bytes]:
        return [b'{"a": [1, 2.5, null, true, "\xc3\xa9"], "b": {}}']

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        return json_of(draw, data)

    def take(self, data: bytes) -> str:
        try:
            read_json(data)
        except ValueError:
            return "unreadable"
        return "read"
