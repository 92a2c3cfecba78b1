"""What a coordinator sends a site: objects, requests, and the documents in them.

A request is changed as it travels (Protocol Buffers). A document, as a plan, is changed and sent
under its own hash, as an attacker would. The site stands at one of several steps of a study, and is
replaced by a fresh one now and then.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from client.requests.handler import answer_record
from client.site import Site
from common.documents import read_json
from common.errors import Refusal, RefusalCode
from common.files import canonical_json, sha256
from common.wire.flower import (
    Message,
    RecordDict,
    identify,
    message_bytes,
    message_from_bytes,
    message_from_objects,
)
from common.wire.messages import (
    OK,
    Purpose,
    Request,
    reply_from_record,
    request_from_record,
    request_to_record,
)
from tests.fuzz.mutation import LARGE, Draw, bytes_of, proto_of, text_of, tree_of
from tests.fuzz.target import Target
from tests.hostile.amendments import AMENDMENTS
from tests.hostile.case import Case
from tests.hostile.records import RAW
from tests.hostile.standing import STEPS, Standing, stand

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_children_ids_from_object_content,
    no_object_id_recompute,
)

PURPOSES: Final[tuple[Purpose, ...]] = ("offer", "propose", "amend", "train", "evaluate", "close")
RENEWED: Final = 150
"""Inputs after which a site is replaced."""


def record_bytes(content: RecordDict) -> bytes:
    """A message's content as it travels."""
    return recorddict_to_proto(content).SerializeToString()


class Requests(Target):
    """A request, however malformed; two bytes before it name the site's step and the purpose."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in ("kept", "open"):  # of a process that died
            shutil.rmtree(folder / name, ignore_errors=True)
        self.standing: Standing = stand(folder / "kept")
        self.open: dict[int, Site] = {}
        self.stack = ExitStack()
        self.taken = 0

    def samples(self) -> Sequence[bytes]:
        return [framed(*each) for each in self._sound() if _travels(each[2])]

    def _sound(self) -> Iterator[tuple[int, Purpose, RecordDict]]:
        for done in range(STEPS + 1):
            sound = self.standing.sound.at(done)
            receipt = sound.receipt(sound.ledger, sound.seal)
            for request in (
                sound.train(),
                sound.train(**receipt),
                sound.evaluate(),
                sound.close(),
                sound.proposal(),
                sound.offer(),
            ):
                yield done, request.purpose, request_to_record(request)
        for case in (AMENDMENTS[0], *RAW):
            yield case.after, *case.build(self.standing.sound.at(case.after))

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        step, purpose, content = data[0], data[1], data[2:]
        if draw.random() < 0.1:
            purpose = draw.randrange(len(PURPOSES))
        if draw.random() < 0.3:
            step = draw.randrange(STEPS + 1)
        if draw.random() < 0.1:
            return bytes([step, purpose]) + bytes_of(draw, content)
        proto = RecordDictProto.FromString(content)
        proto_of(draw, proto)
        return bytes([step, purpose]) + proto.SerializeToString()

    def take(self, data: bytes) -> str:
        try:
            proto = RecordDictProto.FromString(data[2:])
            content = recorddict_from_proto(proto)
        except Exception:  # noqa: BLE001 - Flower's own reader; see Objects for ours
            return "no record"
        purpose = PURPOSES[data[1] % len(PURPOSES)]
        site = self._site(data[0] % (STEPS + 1))
        answer = answer_record(site, content, purpose)
        if answer is None:
            return "silence"
        reply = reply_from_record(answer)
        assert reply.code in {OK, *RefusalCode}, "a code that is not in the list"
        return reply.code

    def _site(self, step: int) -> Site:
        self.taken += 1
        if self.taken % RENEWED == 0:
            self.stack.close()
            self.open.clear()
            shutil.rmtree(self.folder / "open")
        if step not in self.open:
            case = Case("", "", lambda sound: ("close", request_to_record(sound.close())), "", step)
            (self.folder / "open").mkdir(exist_ok=True)
            place = self.folder / "open" / str(step)
            _, self.open[step], _ = self.stack.enter_context(self.standing.at(case, place))
        return self.open[step]


def _travels(content: RecordDict) -> bool:
    """Some hostile records have no form in Protocol Buffers."""
    try:
        record_bytes(content)
    except Exception:  # noqa: BLE001 - Flower's own writer
        return False
    return True


def framed(step: int, purpose: Purpose, content: RecordDict) -> bytes:
    """A message's content with the step of the site that it is for, and its own purpose."""
    return bytes([step, PURPOSES.index(purpose)]) + record_bytes(content)


class Documents(Requests):
    """A study, plan or amendment that says anything, in a request that is right in all else."""

    def _sound(self) -> Iterator[tuple[int, Purpose, RecordDict]]:
        for done in (0, 1, STEPS):
            sound = self.standing.sound.at(done)
            for request in (sound.proposal(), sound.offer()):
                yield done, request.purpose, request_to_record(request)
            yield done, *AMENDMENTS[0].build(sound)

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        content = recorddict_from_proto(RecordDictProto.FromString(data[2:]))
        request = request_from_record(content)
        text = self._changed(draw, request.document)
        changed = Request(
            study=_name(text) or request.study,
            plan_hash=sha256(text.encode("utf-8", "replace"))
            if request.purpose == "propose"
            else request.plan_hash,
            round=0,
            purpose=request.purpose,
            document=text.encode("utf-8", "replace").decode(),
            ledger=request.ledger,
        )
        return framed(data[0], request.purpose, request_to_record(changed))

    def _changed(self, draw: random.Random, text: str) -> str:
        if draw.random() < 0.1:
            return text_of(draw, text)
        tree = json.loads(text)
        if draw.random() < 0.5:
            tree = tree_of(draw, tree)
        else:
            numbers = list(_numbers(tree))
            for _ in range(draw.choice((1, 1, 2, 4))):
                holder, key = draw.choice(numbers)
                near = holder[key] * draw.choice((0, -1, 2, 10, 1000)) + draw.choice((0, 1))
                holder[key] = draw.choice((near, near, draw.choice(LARGE[:-1])))
        try:
            return canonical_json(tree).decode()
        except ValueError:
            return json.dumps(tree)


def _numbers(holder: object) -> Iterator[tuple[dict[str, float], str]]:
    if isinstance(holder, dict):
        for key, value in holder.items():
            if isinstance(value, dict):
                yield from _numbers(value)
            elif isinstance(value, int | float):
                yield holder, key


def _name(text: str) -> str | None:
    """The study that a document is about, if it is one that a request can name."""
    try:
        tree = read_json(text)
        name = tree.get("study", {}).get("study", {}).get("name") or tree["study"]["name"]
    except Exception:  # noqa: BLE001 - it may hold anything
        return None
    return name if isinstance(name, str) and name.isascii() and name.isalnum() else None


class Objects(Target):
    """The objects that a message is put together from."""

    def samples(self) -> Sequence[bytes]:
        identify(1)
        content = request_to_record(Request("small", "a" * 64, 0, "propose", document="{}"))
        message = Message(content, 1, "query.propose")
        message.metadata.__dict__["_message_id"] = "asked"
        with no_object_id_recompute():
            parts = get_all_nested_objects(message)
            return [_packed(message.object_id, [each.deflate() for each in parts.values()])]

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        parts = [bytes.fromhex(each) for each in json.loads(data)]
        place = draw.randrange(len(parts))
        old = sha256(parts[place])
        parts[place] = bytes_of(draw, parts[place])
        if draw.random() < 0.9:  # under its own identifier, and named by it
            new = sha256(parts[place])
            parts = [each.replace(old.encode(), new.encode()) for each in parts]
        return json.dumps([each.hex() for each in parts]).encode()

    def take(self, data: bytes) -> str:
        parts = [bytes.fromhex(each) for each in json.loads(data)]
        named = {sha256(each): each for each in parts}
        try:
            children = {
                child
                for each in parts
                for child in get_object_children_ids_from_object_content(each)
            }
        except ValueError:
            children = set()
        top = next((each for each in named if each not in children), next(iter(named)))
        try:
            message = message_from_objects(top, dict(named))
        except ValueError:
            return "no message"
        again = message_from_bytes(message_bytes(message))
        if again.has_error():
            return "an error"
        try:
            request_from_record(again.content)
        except Refusal:
            return "no request"
        return "a request"


def _packed(top: str, parts: Sequence[bytes]) -> bytes:
    first = [each for each in parts if sha256(each) == top]
    rest = [each for each in parts if sha256(each) != top]
    return json.dumps([each.hex() for each in first + rest]).encode()
