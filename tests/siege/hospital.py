"""Thirty moves of an admitted hospital that means harm to the others, or to the figures.

It has keys, archives and a place in the study as any other; what it was asked it answers with
what it likes, and beside that it does at the gateway what it likes.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from client.daemon.fleet import Fleet, new_instance
from client.node_key import load_node_key
from client.requests.handler import answer
from client.site import Site, open_site
from common.errors import ConsiliumError
from common.files import canonical_json
from common.wire.enrolment import INSTANCE_HEADER, CoordinatorCard, read_coordinator_card
from common.wire.flower import Message, RecordDict
from common.wire.messages import LedgerHead, Reply, reply_to_record, request_from_record
from common.wire.signing import SigningKey
from tests.server.superlink.hostile import FORGERS, Forger, push
from tests.siege.move import Move
from tests.siege.stranger import Stranger

# isort: split
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node

Spoil = Callable[["Hospital", Message, Reply], RecordDict | None]
"""Makes what is sent of what was received and the sound reply; None sends nothing more."""
PUSH: Final = "/v1/fleet/push-object"
EARLY: Final = ("offer", "propose")
"""What is asked before a study runs; whoever spoils that is asked no more."""


@dataclass
class Hospital:
    """A hospital in whose name everything is done, with its site open in this process.

    Attributes:
        file: its site file.
        seed: that its keys follow from.
        spoils: what becomes of the next replies, by the purpose that they are for, with names.
        spoiled: how often each was sent.
    """

    file: Path
    seed: int
    spoils: dict[str, deque[tuple[str, Spoil]]] = field(default_factory=lambda: defaultdict(deque))
    spoiled: Counter[str] = field(default_factory=Counter)
    instance: str = field(default_factory=new_instance)
    _early: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        state = self.file.parent / "state"
        self.card: CoordinatorCard = read_coordinator_card(state / "COORDINATOR.json")
        self.node_key = load_node_key(state / "node.key")
        self.outside = Stranger(self.card)
        self.fleet: Fleet | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Answer, until ended."""
        self._thread.start()

    def end(self) -> None:
        """Answer no more."""
        self._ended.set()
        self._thread.join(30)

    @property
    def headers(self) -> dict[str, str]:
        """A new signature, from the process that also has the fleet client."""
        return self.outside.signed(self.node_key) | {INSTANCE_HEADER: self.instance}

    def post(self, path: str, body: bytes, **headers: str) -> bytes:
        """A request that is signed as any other of this site."""
        return self.outside.post(path, body, self.headers, **headers)

    def answers(self, name: str, purpose: str, spoil: Spoil) -> None:
        """Spoil a reply for a purpose, once one is asked for."""
        if all(known != name for known, _ in self.spoils[purpose]):
            self.spoils[purpose].append((name, spoil))

    def _serve(self) -> None:
        with open_site(self.file, known_seed=self.seed, serves=True) as site:
            while not self._ended.is_set():
                self.fleet = Fleet(self.card, self.node_key, self.instance)
                with contextlib.suppress(ConsiliumError):
                    self.fleet.connect()
                    while not self._ended.is_set():
                        message = self.fleet.pull()
                        if message is not None:
                            self._reply(site, self.fleet, message)
                self.fleet.close()
                self._ended.wait(0.5)

    def _reply(self, site: Site, fleet: Fleet, message: Message) -> None:
        request = request_from_record(message.content)
        sound = answer(site, request)
        if sound is None:
            return
        content: RecordDict | None = reply_to_record(sound)
        if due := self._due(request.purpose):
            name, spoil = due
            content = spoil(self, message, sound)
            self.spoiled[name] += 1
        if content is not None:
            fleet.push(Message(content, reply_to=message))

    def _due(self, purpose: str) -> tuple[str, Spoil] | None:
        """What is to become of a reply; every other study is let begin."""
        if purpose == "offer":
            self._early = not self._early
        waiting = self.spoils[purpose]
        if not waiting or (purpose in EARLY and not self._early):
            return None
        return waiting.popleft()

    def signed(self, reply: Reply) -> RecordDict:
        """A reply signed with the key that the site really has."""
        key = SigningKey((self.file.parent / "state" / "signing.key").read_bytes())
        return reply_to_record(reply.with_signature(key.sign(reply.signed_bytes)))


def _changed(**changes: Any) -> Spoil:  # noqa: ANN401 - a reply's fields
    return lambda who, _, reply: who.signed(replace(reply, **changes))


def _arrays(make: Callable[[Any], Any]) -> Spoil:
    def spoil(who: Hospital, _: Message, reply: Reply) -> RecordDict:
        arrays = reply.arrays
        return who.signed(replace(reply, arrays=None if arrays is None else make(arrays)))

    return spoil


def _full(value: int) -> Callable[[Any], Any]:
    return lambda arrays: np.full_like(arrays, np.clip(value, *_range(arrays.dtype)))


def _range(dtype: Any) -> tuple[int, int]:  # noqa: ANN401 - of NumPy
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def _offer(**changes: Any) -> Spoil:  # noqa: ANN401 - an offer's fields
    def spoil(who: Hospital, _: Message, reply: Reply) -> RecordDict:
        document = json.loads(reply.document or "{}") | changes
        return who.signed(replace(reply, document=canonical_json(document).decode()))

    return spoil


def _unsigned(_who: Hospital, _received: Message, reply: Reply) -> RecordDict:
    return reply_to_record(replace(reply, signature=bytes(64)))


def _nothing(_who: Hospital, _received: Message, _reply: Reply) -> None:
    return None


def _rewritten(who: Hospital, received: Message, reply: Reply) -> RecordDict:
    length = request_from_record(received.content).ledger.length
    return who.signed(replace(reply, ledger=LedgerHead(length, "00" * 32)))


def _spoil(name: str, purpose: str, spoil: Spoil, *traces: str) -> Move[Hospital]:
    return Move(name, lambda who: who.answers(name, purpose, spoil), (*traces, "site.absent"))


def _node(who: Hospital) -> int:
    return who.fleet.node_id if who.fleet is not None else 0


def _replays(who: Hospital) -> None:
    headers = who.headers
    body = PullMessagesRequest(node=Node(node_id=_node(who) + 1)).SerializeToString()
    for _ in range(2):
        who.outside.post(body=body, told=headers)


def _many_polls(who: Hospital, number: int = 200) -> None:
    """Each is signed, so each is a site's own connection; and is held, not answered."""
    body = PullMessagesRequest(node=Node(node_id=_node(who))).SerializeToString()
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            told = {"host": "here", "content_length": str(len(body))} | who.headers
            lines = "".join(f"{key.replace('_', '-')}: {text}\r\n" for key, text in told.items())
            with contextlib.suppress(OSError):
                line = stack.enter_context(who.outside.line())
                head = f"POST /v1/fleet/pull-messages HTTP/1.1\r\n{lines}\r\n"
                line.sendall(head.encode() + body)
        time.sleep(2.0)


def _forged(forger: Forger) -> Spoil:
    """Parts that make no reply, brought as the protocol has it."""

    def spoil(who: Hospital, received: Message, _: Reply) -> None:
        if who.fleet is not None:
            push(who.fleet, received, forger(received))

    return spoil


def _floods(who: Hospital) -> None:
    body = PullMessagesRequest(node=Node(node_id=_node(who) + 7)).SerializeToString()
    for _ in range(150):
        who.post("/v1/fleet/pull-messages", body)


OWN: Final = ("node", "rate", "size", "malformed", "slow-body", "replay", "connections", "object")
KNOCKS: Final[tuple[Move[Hospital], ...]] = (
    Move("two hundred polls at once", _many_polls, ("connections",)),
    Move("a hundred and fifty requests in a row", _floods, OWN),
    Move("one signature twice", _replays, ("replay", *OWN)),
    Move("speaks for another node", lambda who: who.post("/v1/fleet/pull-messages",
        PullMessagesRequest(node=Node(node_id=_node(who) + 1)).SerializeToString()), OWN),
    Move("asks for another's object", lambda who: who.post("/v1/fleet/pull-object",
        PullObjectRequest(node=Node(node_id=_node(who)), run_id=1,
                          object_id="ab" * 32).SerializeToString()), OWN),
    Move("brings an object that nobody announced", lambda who: who.post(PUSH,
        PushObjectRequest(node=Node(node_id=_node(who)), run_id=1, object_id="ab" * 32,
                          object_content=b"x" * 1000).SerializeToString()), OWN),
    Move("a giant body", lambda who: who.post(PUSH, bytes(2**23)), OWN),
    Move("a body that is no message", lambda who: who.post(
        "/v1/fleet/pull-messages", b"\xff" * 1000), OWN),
    Move("an unpacked body", lambda who: who.post(
        "/v1/fleet/pull-messages", b"", content_encoding="gzip"), OWN),
)  # fmt: skip
SPOILS: Final[tuple[Move[Hospital], ...]] = (
    _spoil("declares a thousand million patients", "offer", _offer(declared_patients=10**9)),
    _spoil("declares half a patient", "offer", _offer(declared_patients=0.5)),
    _spoil("an offer in another's name", "offer", _offer(site="north")),
    _spoil("an offer that is no document", "offer", _changed(document="[" * 10**5)),
    _spoil("words beside an approval", "propose", _changed(document="P03 has opted out")),
    _spoil("no signature", "train", _unsigned),
    _spoil("another site's name", "train", _changed(site="north")),
    _spoil("another study", "train", _changed(study="other")),
    _spoil("a round that was not asked for", "train", _changed(round=9)),
    _spoil("another plan", "train", _changed(plan_hash="00" * 32)),
    _spoil("the largest numbers there are", "train", _arrays(_full(2**63 - 1))),
    _spoil("the smallest numbers there are", "train", _arrays(_full(-(2**63)))),
    _spoil("a number less", "train", _arrays(lambda arrays: arrays[:-1])),
    _spoil("floats", "train", _arrays(lambda arrays: np.full(arrays.size, np.nan, np.float32))),
    _spoil("nothing", "train", _changed(arrays=None)),
    _spoil("a ledger rewritten", "train", _rewritten),
    _spoil("a code that tells of a patient", "train",
           _changed(code="P03-has-opted-out", arrays=None)),
    _spoil("a document with escapes", "train", _changed(document="\x1b[2Jowned")),
    _spoil("votes of a million million patients", "evaluate", _arrays(_full(2**40))),
    _spoil("votes of nobody", "evaluate", _arrays(_full(-(2**40)))),
    *(_spoil(f"a reply of {forger.__name__.replace('_', ' ')}", "train", _forged(forger))
      for forger in FORGERS),
    _spoil("does not answer", "train", _nothing),
)  # fmt: skip
"""Replies to what it is asked; at the others it knocks unasked."""
SCRIPT: Final = (*KNOCKS, *SPOILS)
