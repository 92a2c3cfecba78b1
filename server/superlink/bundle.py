"""The bundle that our runs are started with: the codeless one of :mod:`common.wire.bundle`.

It carries no Python at all, so that no code reaches a site through Flower.
"""

from __future__ import annotations

from functools import cache

import common.wire.flower  # noqa: F401
from common.files import sha256
from common.wire.bundle import PROJECT, PYPROJECT

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.cli.build import build_fab_from_files
from flwr.proto.fab_pb2 import Fab


@cache
def bundle() -> Fab:
    """The bundle, built by Flower's own builder, so that stock tools take it too."""
    content, _ = build_fab_from_files({PROJECT: PYPROJECT.encode()})
    return Fab(hash_str=sha256(content), content=content)
