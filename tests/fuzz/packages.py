"""Model packages: the file itself, and members that an attacker changed and signed again."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import PackageError
from common.package import archive
from common.package.package import read
from tests.common.package.packages import forged, kept, members, package, signed
from tests.fuzz.mutation import Draw, bytes_of, json_of
from tests.fuzz.target import Target


class Packages(Target):
    """A package that anybody may have sent."""

    errors = (PackageError,)

    def samples(self) -> Sequence[bytes]:
        return [package()]

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        # Spoilt bytes of the file end at the first check: behind it are those of its members.
        inside = members(package())
        name = draw.choice(("", *(each for each in archive.MEMBERS if each != archive.SIGNATURE)))
        if not name:
            return bytes_of(draw, data)
        if name == archive.STATEMENT:
            return signed(inside, json_of(draw, inside[name]))
        spoil = json_of if name == archive.STUDY else bytes_of
        return forged(package(), {name: spoil(draw, inside[name])})

    def take(self, data: bytes) -> str:
        found = read(kept(self.folder, data))
        assert found.weights.size
        return found.statement.name
