"""Every way to divide patients: a closed list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from common.errors import DataError
from common.settings import checked
from simulations.partitions.dirichlet import Dirichlet
from simulations.partitions.iid import Iid
from simulations.partitions.natural import Natural
from simulations.partitions.noisy import Noisy
from simulations.partitions.own import Own
from simulations.partitions.partition import Partitioning
from simulations.partitions.quantity import Quantity
from simulations.partitions.shards import Shards

PARTITIONS: Final[dict[str, type[Partitioning]]] = {
    each.kind: each for each in (Dirichlet, Iid, Natural, Noisy, Own, Quantity, Shards)
}


def partitioning(kind: str, options: Mapping[str, Any]) -> Partitioning:
    """A way to divide patients, by its name and options.

    Raises:
        DataError: there is none of this name, or an option is wrong.
    """
    found = PARTITIONS.get(kind)
    if found is None:
        raise DataError(
            "there is no such way to divide patients",
            where="--partition",
            found=kind,
            wanted=", ".join(PARTITIONS),
            remedy="choose one of these",
        )
    return checked(dict(options), Path(f"--partition {kind}"), found, DataError)
