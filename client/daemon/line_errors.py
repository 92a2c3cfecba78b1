"""What can be wrong with the line to the coordinator, each with what to do about it.

LinkError
├── Offline       it cannot be reached, or the line broke
├── Skewed        this machine's clock is wrong
├── NotAdmitted   it does not let this site in
├── Untrusted     another machine answers at its address
├── ForeignCode   a run brings code
└── Unreadable    what came is no message
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Generator
from typing import Final

import httpx

from client.daemon import bounded
from client.daemon.conditions import UNREACHED
from common.documents import read_json
from common.errors import LinkError
from common.wire.transfer import Gone, NotYet

# isort: split
# Only after common.wire, which tells Flower to stay off the network.
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

LONGEST_CODE: Final = 64
"""Characters of a reason that are shown."""


class Offline(LinkError):  # noqa: N818 - a state of the line, by its name
    """The coordinator cannot be reached, or the line broke; connect again after a while."""


class Skewed(LinkError):  # noqa: N818 - a state of the line, by its name
    """This machine's clock is wrong.

    Attributes:
        seconds: by how much it is ahead of the coordinator's; negative where it is behind.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        way = "ahead of" if seconds > 0 else "behind"
        super().__init__(
            "this machine's clock is wrong, so the coordinator accepts no signature from it",
            found=f"{abs(seconds):.0f} s {way} the coordinator's",
            wanted=f"at most {SYSTEM_TIME_TOLERANCE} s ahead and {TIMESTAMP_TOLERANCE} s behind",
            remedy="set the clock with NTP: timedatectl set-ntp true; it then connects by itself",
        )


class NotAdmitted(LinkError):  # noqa: N818 - a state of the line, by its name
    """The coordinator does not let this site in.

    Attributes:
        code: the gateway's reason.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        remedies = {
            "unknown-key": "send SITE.json to the coordinator, and ask to be admitted",
            "suspended": "ask the coordinator, who has suspended this site",
        }
        super().__init__(
            "the coordinator does not let this site in",
            found=code,
            remedy=remedies.get(
                code, "ask the coordinator for its newest COORDINATOR.json, and join again"
            ),
        )


class Untrusted(LinkError):  # noqa: N818 - a state of the line, by its name
    """The machine at the coordinator's address is not the coordinator."""


class ForeignCode(LinkError):  # noqa: N818 - a state of the line, by its name
    """A run brings something with it that is not installed here."""


class Unreadable(LinkError):  # noqa: N818 - a state of the line, by its name
    """What came is not a message.

    Attributes:
        message_id: its name, as its sender gave it.
        size: of what came, bytes.
    """

    def __init__(self, message_id: str, size: int) -> None:
        self.message_id, self.size = message_id[:64], size
        super().__init__("what came is no message", found=f"{size} bytes")


@contextlib.contextmanager
def translated(address: str) -> Generator[None]:
    """Raise as a :class:`LinkError` what calls of the coordinator raise.

    Args:
        address: of the coordinator.
    """
    try:
        yield
    except httpx.HTTPStatusError as cause:
        raise _explain(cause.response, address) from cause
    except httpx.HTTPError as cause:
        if _untrusted(cause):
            raise Untrusted(
                "the machine at the coordinator's address has no certificate of the coordinator's "
                "authority",
                where=address,
                remedy="compare the fingerprint of COORDINATOR.json by telephone; no proxy between "
                "may open TLS",
            ) from cause
        raise offline(address, _broken(cause)) from cause
    except NotYet as cause:
        raise offline(address, "part of a request did not come") from cause
    except Gone as cause:
        raise offline(address, "part of a message was lost") from cause
    except (ValueError, KeyError) as cause:
        raise offline(address, "an answer that cannot be read") from cause


def offline(address: str, found: str) -> Offline:
    """The error for a line that does not work now."""
    return Offline(
        UNREACHED,
        where=address,
        found=found,
        remedy="nothing, if it worked before: the site tries again by itself",
    )


def _broken(error: httpx.HTTPError) -> str:
    """What happened to a line, in words."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError):
        return "no answer at this address"
    if isinstance(error, httpx.DecodingError) or isinstance(error.__cause__, bounded.Endless):
        return str(error)
    return "the line broke"


def _explain(answer: httpx.Response, address: str) -> LinkError:
    """The error for an answer of the gateway that is not a success."""
    try:  # of the bytes: as text, it would be decoded in any way that the answer names
        told = read_json(answer.content)
        code, ahead = str(told["code"])[:LONGEST_CODE], float(told.get("ahead", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        code, ahead = str(answer.status_code), 0.0
    if code == "clock":
        return Skewed(ahead)
    # node: it was deactivated meanwhile. replay: a signature came twice. A new connection helps.
    if answer.status_code == 401 and code not in ("node", "replay"):
        return NotAdmitted(code)
    return Offline(
        "the coordinator did not accept a request",
        where=address,
        found=f"{answer.status_code} {code}",
        remedy="nothing, if it continues by itself: the site connects again",
    )


def _untrusted(error: BaseException | None) -> bool:
    """Whether TLS failed because the other side has the wrong certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
