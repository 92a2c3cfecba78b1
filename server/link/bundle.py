"""The bundle that a run of ours is started with: the codeless one of :mod:`common.bundle`."""

from __future__ import annotations

from functools import cache

import common.flower  # noqa: F401
from common.bundle import PROJECT, PYPROJECT
from common.files import sha256

# isort: split
# Only after common.flower, which tells Flower to stay off the network.
from flwr.cli.build import build_fab_from_files
from flwr.proto.fab_pb2 import Fab


@cache
def bundle() -> Fab:
    """The bundle, built by Flower's own builder, so that stock tools take it too."""
    content, _ = build_fab_from_files({PROJECT: PYPROJECT.encode()})
    return Fab(hash_str=sha256(content), content=content)
