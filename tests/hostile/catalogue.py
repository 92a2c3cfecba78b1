"""Everything hostile or broken that a malicious coordinator sends a site, by name.

Plans, numbers, documents, requests, amendments, records and decisions have a module each. In the
order here, all of them can be sent to one site that goes through the sound script between them.
"""

from __future__ import annotations

from typing import Final

from tests.hostile.amendments import AMENDMENTS
from tests.hostile.case import Case
from tests.hostile.decisions import DECISIONS
from tests.hostile.documents import DOCUMENTS
from tests.hostile.numbers import NUMBERS
from tests.hostile.plans import PLANS
from tests.hostile.records import RAW
from tests.hostile.requests import REQUESTS

CASES: Final[tuple[Case, ...]] = tuple(
    sorted(
        (*PLANS, *NUMBERS, *DOCUMENTS, *REQUESTS, *AMENDMENTS, *RAW, *DECISIONS),
        key=lambda case: case.after,
    )
)
NAMED: Final[dict[str, Case]] = {case.name: case for case in CASES}
assert len(NAMED) == len(CASES), "two cases have one name"
