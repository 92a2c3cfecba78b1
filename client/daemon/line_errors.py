"""What can be wrong with the line to the coordinator, each with what to do about it.

LinkError
├── Offline       it cannot be reached, or the line broke
├── Skewed        this machine's clock is wrong
├── NotValidNow   by this machine's clock, the certificate there is not valid now
├── NotAdmitted   it does not let this site in
├── Untrusted     another machine answers at its address
├── ForeignCode   a run brings code
└── Unreadable    what came is no message
"""

from __future__ import annotations

import contextlib
import datetime
import ssl
from collections.abc import Generator
from typing import Final

import httpx
from cryptography import x509

from client.daemon import bounded
from client.daemon.conditions import UNREACHED
from common.documents import read_json
from common.errors import LinkError
from common.wire.enrolment import split_address
from common.wire.transfer import Gone, NotYet

# isort: split
# Only after common.wire, which tells Flower to stay off the network.
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

LONGEST_CODE: Final = 64
"""Characters of a reason that are shown."""
SET_THE_CLOCK: Final = "set the clock with NTP: timedatectl set-ntp true"
LOOK_SECONDS: Final = 5.0
"""For reading the dates of a certificate that is not valid now; without them, the error is shorter.
"""
Dates = tuple[datetime.datetime, datetime.datetime]
_MINUTE: Final = "%Y-%m-%d %H:%M"
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (x509_vfy.h).
_NOT_YET, _EXPIRED = 9, 10


class Offline(LinkError):  # noqa: N818 - a state of the line, by its name
    """The coordinator cannot be reached, or the line broke; connect again after a while."""


class Skewed(LinkError):  # noqa: N818 - a state of the line, by its name
    """This machine's clock is wrong.

    Args:
        seconds: by how much it is ahead of the coordinator's; negative where it is behind.
        restarted: whether it would do, but the coordinator started more recently than that.
    """

    def __init__(self, seconds: float, *, restarted: bool = False) -> None:
        self.seconds = seconds
        way = "ahead of" if seconds > 0 else "behind"
        super().__init__(
            "this machine's clock is wrong, so the coordinator accepts no signature from it",
            found=f"{abs(seconds):.0f} s {way} the coordinator's"
            + (", which has just started and refuses what was signed before" if restarted else ""),
            wanted=f"at most {SYSTEM_TIME_TOLERANCE} s ahead and {TIMESTAMP_TOLERANCE} s behind",
            remedy=f"{SET_THE_CLOCK}; it then connects by itself",
        )


class NotValidNow(LinkError):  # noqa: N818 - a state of the line, by its name
    """By this machine's clock, the coordinator's certificate is not valid now.

    Args:
        address: of the coordinator.
        expired: whether the certificate's time is over, and not still to come.
        dates: from when and until when it is valid; None if they cannot be read.
    """

    def __init__(self, address: str, *, expired: bool, dates: Dates | None) -> None:
        now = datetime.datetime.now(datetime.UTC)
        found, wanted = f"the time here is {now:{_MINUTE}} UTC", None
        if dates is not None:
            off = now - dates[1] if expired else dates[0] - now
            found += f", at least {_in_words(off)} {'ahead' if expired else 'behind'}"
            wanted = f"a time from {dates[0]:{_MINUTE}} to {dates[1]:{_MINUTE}} UTC"
        super().__init__(
            "by this machine's clock, the coordinator's certificate "
            + ("has expired" if expired else "is not valid yet"),
            where=address,
            found=found,
            wanted=wanted,
            remedy=f"{SET_THE_CLOCK}; it then connects by itself"
            + ("; if the clock is right, tell the coordinator" if expired else ""),
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
def translated(address: str, ahead: float = 0.0) -> Generator[None]:
    """Raise as a :class:`LinkError` what calls of the coordinator raise.

    Args:
        address: of the coordinator.
        ahead: seconds that this machine's clock was ahead of the coordinator's when it connected.
    """
    try:
        yield
    except httpx.HTTPStatusError as cause:
        raise _explain(cause.response, address, ahead) from cause
    except httpx.HTTPError as cause:
        refused = _refused_certificate(cause)
        if refused is not None and refused.verify_code in (_NOT_YET, _EXPIRED):
            expired = refused.verify_code == _EXPIRED
            raise NotValidNow(address, expired=expired, dates=_dates_of(address)) from cause
        if refused is not None:
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


def _explain(answer: httpx.Response, address: str, measured: float) -> LinkError:
    """The error for an answer of the gateway that is not a success."""
    try:  # of the bytes: as text, it would be decoded in any way that the answer names
        told = read_json(answer.content)
        code, ahead = str(told["code"])[:LONGEST_CODE], float(told.get("ahead", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        code, ahead = str(answer.status_code), 0.0
    if code == "clock":
        return Skewed(ahead)
    # What a slow clock signs now seems to be from before a coordinator that has just started.
    if code == "replay" and measured < -SYSTEM_TIME_TOLERANCE:
        return Skewed(measured, restarted=True)
    # node: it was deactivated meanwhile. replay: a signature came twice. A new connection helps.
    if answer.status_code == 401 and code not in ("node", "replay"):
        return NotAdmitted(code)
    return Offline(
        "the coordinator did not accept a request",
        where=address,
        found=f"{answer.status_code} {code}",
        remedy="nothing, if it continues by itself: the site connects again",
    )


def _refused_certificate(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Why TLS found the other side's certificate wrong, where it did."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _dates_of(address: str) -> Dates | None:
    """From when and until when the certificate at an address is valid.

    Nothing checks it: it is for a person to compare with the clock, and decides nothing.
    """
    host, port = split_address(address)
    try:
        pem = ssl.get_server_certificate((host, port), timeout=LOOK_SECONDS)
        shown = x509.load_pem_x509_certificate(pem.encode())
        return shown.not_valid_before_utc, shown.not_valid_after_utc
    except (OSError, ValueError):  # nobody there now, or no certificate with dates that exist
        return None


def _in_words(length: datetime.timedelta) -> str:
    """A length of time in its largest unit, rounded down."""
    seconds = max(0, int(length.total_seconds()))
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"
