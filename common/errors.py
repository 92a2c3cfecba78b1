"""Every error a person can cause, in one tree and one form.

::

    ConsiliumError            exit code 2: a person can fix it
    ├── StudyError            the study file
    ├── SiteError             the site file and its policy
    ├── LabelError            the label file
    ├── DataError             images, cohorts, caches
    ├── ModelError            a model that cannot be built or trained privately
    ├── PrivacyError          a privacy target that cannot be reached
    ├── CheckpointError       checkpoints and run folders
    ├── PackageError          a model package that is not opened
    ├── RoundError            a round that could not be completed
    ├── CoordinatorError      the coordinator's settings, store or service
    ├── LinkError             the other side cannot be reached, or does not accept us
    └── Refusal               a site says no; carries a code from a closed list

An error is an instruction: it names what is wrong, where, the value found, the
value wanted and what to do. Messages never hold a patient's identifier: they are
printed and logged.
"""

from __future__ import annotations

import errno
import os
import pwd
from enum import StrEnum
from typing import Final, TypeVar

EXIT_CODE: Final = 2
"""What a command line exits with after a :class:`ConsiliumError`."""


class ConsiliumError(Exception):
    """Something that a person can fix.

    Args:
        what: one sentence, without a full stop, that says what is wrong.
        where: the file, key, tag, row or study concerned.
        found: the value found.
        wanted: the value or values that would have been accepted.
        remedy: what to do now.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object | None = None,
        found: object | None = None,
        wanted: object | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.details: dict[str, str] = {
            name: str(value)
            for name, value in (
                ("where", where),
                ("found", found),
                ("wanted", wanted),
                ("do", remedy),
            )
            if value is not None
        }
        super().__init__(self.render())

    def render(self) -> str:
        """The message as it is shown: the sentence, then one line a detail.

        A detail of several lines is indented to its column. So no value can begin a line and look
        like a detail of its own.
        """
        return "\n".join((self.what, *(_aligned(*each) for each in self.details.items())))


def _aligned(name: str, value: str) -> str:
    # A file name may hold a line break, and what follows it could look like our own "do:".
    first, *more = value.split("\n")
    column = " " * 10
    lines = (line if line.startswith(column) else column + line.lstrip(" ") for line in more)
    return "\n".join((f"  {name + ':':<7} {first}", *lines))


Kind = TypeVar("Kind", bound=ConsiliumError)

_NO_RIGHTS: Final = (
    "this user may not read or write this file or folder",
    "run the command as the user who owns it (for a daemon: the user that runs it, with sudo -u), "
    "or give this user, and no other user, access",
)
_FULL: Final = (
    "there is no space for this file",
    "free disk space, or raise the limit (quota, ulimit -f); then run the command again",
)
_NO_FOLDER: Final = (
    "a file, or a link that leads nowhere, is where a folder should be",
    "check the path and that its disk is mounted; move the file or link away, or name another "
    "folder",
)
_ABSENT: Final = (
    "this file or folder cannot be used",
    "check the path and that its disk is mounted, then run the command again",
)
_OF_SYSTEM: Final = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _NO_RIGHTS),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), _NO_FOLDER),
    **dict.fromkeys(
        (errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO), _ABSENT
    ),
}


def is_of_system(error: OSError) -> bool:
    """Whether an error of the operating system is about files, and so for a person to fix."""
    return error.errno in _OF_SYSTEM


def of_system(
    error: OSError, kind: type[Kind], what: str | None = None, *, where: object | None = None
) -> Kind:
    """What the operating system refused, as an instruction.

    Args:
        error: as it was raised.
        kind: of the error that is made of it.
        what: in place of the sentence that follows from the error.
        where: in place of the file that the error names.
    """
    sentence, remedy = _OF_SYSTEM.get(error.errno or 0, _ABSENT)
    found = error.strerror or str(error)
    if sentence is _NO_RIGHTS[0]:
        found += f", user {_user()}"
    return kind(what or sentence, where=where or error.filename, found=found, remedy=remedy)


def _user() -> str:
    number = os.geteuid()
    try:
        return f"{number} ({pwd.getpwuid(number).pw_name})"
    except KeyError:  # in a container a user need not have a name
        return str(number)


class StudyError(ConsiliumError):
    """The study file cannot be used."""


class SiteError(ConsiliumError):
    """The site file, its policy or its state cannot be used."""


class LabelError(ConsiliumError):
    """The label file cannot be used."""


class DataError(ConsiliumError):
    """Images, a cohort or a cache cannot be used."""


class ModelError(ConsiliumError):
    """A model cannot be built, or cannot be trained privately."""


class PrivacyError(ConsiliumError):
    """A privacy target cannot be reached."""


class CheckpointError(ConsiliumError):
    """A checkpoint or a run folder cannot be used."""


class PackageError(ConsiliumError):
    """A model package that cannot be opened, or does not fit what is asked of it."""


class RoundError(ConsiliumError):
    """A round could not be completed."""


class CoordinatorError(ConsiliumError):
    """The coordinator's settings, store or service cannot be used."""


class LinkError(ConsiliumError):
    """The other side cannot be reached, or does not accept us."""


class RefusalCode(StrEnum):
    """The closed list of reasons that may leave a site. No text and no count goes with a code.

    No code reveals anything about a patient: each follows from messages, plans, the site file, the
    clock, a person's decision or what the site has sent before; the line below a code says which.
    What follows from images, labels, lists of patients or accounts, and every failure at the site,
    has no code: the site sends nothing, and tells its own administrator.
    """

    MALFORMED = "malformed"
    """The message alone, or a study's model, which is tried on made-up numbers."""
    WRONG_PLAN = "wrong-plan"
    """The message against the plan and the site's public numbers."""
    NOT_APPROVED = "not-approved"
    """What the coordinator has proposed and closed."""
    PENDING = "pending"
    """The site file asks a person, who has not decided; said before any patient is read."""
    DENIED = "denied"
    """A person has decided. What a person thought of stays outside epsilon, as with a stop."""
    POLICY = "policy"
    """The plan against the site file, and how many plans of this coordinator run or wait."""
    DATA_UNAVAILABLE = "data-unavailable"
    """The site file has no such data set, or declares too few patients: both are public."""
    ROUND_OUT_OF_ORDER = "round-out-of-order"
    """The rounds that were asked for before."""
    ROUND_CONFLICT = "round-conflict"
    """The arrays that this round was asked for with before."""
    LEDGER_BEHIND = "ledger-behind"
    """Heads that the site has sealed before, or a ledger that the request names; the ledger has
    one charge a round, for any number of patients."""
    NUMERICS = "numerics"
    """The versions, the processor and the settings of the machine."""


class Refusal(ConsiliumError):
    """A site declines a request. Only :attr:`code` leaves the site; the rest is logged there.

    Attributes:
        public: whether its details are public numbers and settings, which the site's logs may hold.
    """

    public = False

    def __init__(
        self,
        code: RefusalCode,
        what: str,
        *,
        where: object | None = None,
        found: object | None = None,
        wanted: object | None = None,
        remedy: str | None = None,
    ) -> None:
        self.code = code
        super().__init__(what, where=where, found=found, wanted=wanted, remedy=remedy)

    @classmethod
    def of_public(
        cls,
        code: RefusalCode,
        what: str,
        *,
        where: object,
        found: object,
        wanted: object,
        remedy: str | None = None,
    ) -> Refusal:
        """A refusal that concerns public numbers and settings alone."""
        refusal = cls(code, what, where=where, found=found, wanted=wanted, remedy=remedy)
        refusal.public = True
        return refusal
