"""The same coordinator and the same clients for both engines."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np

from common.wire.flower import Array, ArrayRecord, ClientApp, ConfigRecord, Context, RecordDict
from common.wire.flower import Message as FlowerMessage

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.serverapp import Grid

Kind = Literal["nothing", "cnn"]
IMAGES, STEPS, BATCH = 64, 2, 32


def exchange(grid: Grid, parameters: int, rounds: int) -> tuple[list[float], float]:
    """Seconds of each round, and when the first one ended."""
    rng, times, ended = np.random.default_rng(0), [], 0.0
    nodes = list(grid.get_node_ids())
    for number in range(rounds):
        shared = ArrayRecord({"flat": Array(rng.random(parameters, dtype=np.float32))})
        start = time.perf_counter()
        messages = [
            FlowerMessage(
                RecordDict({"arrays": shared, "config": ConfigRecord({"round": number})}),
                node,
                "train",
                group_id=str(number),
            )
            for node in nodes
        ]
        replies = list(grid.send_and_receive(messages))
        times.append(time.perf_counter() - start)
        found = {reply.content["arrays"]["flat"].numpy().size for reply in replies}  # type: ignore[union-attr]
        assert len(replies) == len(nodes)
        assert found == {parameters}
        ended = ended or time.time()
    return times, ended


def app_of(kind: Kind) -> ClientApp:
    """A client that sends back what it got, or that trains a small CNN for two steps."""
    app = ClientApp()

    @app.train()
    def train(message: FlowerMessage, _: Context) -> FlowerMessage:
        arrays = message.content["arrays"]
        if kind == "cnn":
            arrays = ArrayRecord({"flat": Array(_trained(arrays["flat"].numpy()))})  # type: ignore[union-attr]
        return FlowerMessage(RecordDict({"arrays": arrays}), reply_to=message)

    return app


def _trained(flat: np.ndarray) -> np.ndarray:
    import torch
    from torch import nn

    torch.set_num_threads(1)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 2)),
    )
    nn.utils.vector_to_parameters(
        torch.from_numpy(flat[: size_of_cnn()].copy()), model.parameters()
    )
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(IMAGES, 1, 28, 28, generator=draws)
    labels = torch.randint(0, 2, (IMAGES,), generator=draws)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimiser.step()
    found: np.ndarray = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    return found


def size_of_cnn() -> int:
    """Its parameters."""
    return 16 * 10 + 32 * (16 * 9 + 1) + 2 * (32 * 7 * 7 + 1)
