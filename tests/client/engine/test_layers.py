"""What cannot be trained privately is refused by name, and nothing is skipped."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from client.engine.alone import is_alone, settled
from client.engine.choice import measured
from client.engine.clipped import Patients, clipped_sum
from client.engine.layers import refusing, rule_of, served
from client.engine.probe import require_sound
from common.errors import ModelError
from common.numerics import EngineChoice
from tests.client.engine.loop import Net, exact, loss, patients_of, require_same

REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "batch normalisation": (lambda: nn.BatchNorm1d(4), (4,), "mixes the patients"),
    "batch normalisation of images": (lambda: nn.BatchNorm2d(4), (4, 3, 3), "mixes the patients"),
    "batch normalisation without weights": (
        lambda: nn.BatchNorm1d(4, affine=False),
        (4,),
        "mixes the patients",
    ),
    "running statistics": (
        lambda: nn.InstanceNorm1d(4, track_running_stats=True),
        (4, 3),
        "keeps statistics over patients",
    ),
    "dropout": (lambda: nn.Dropout(0.1), (4,), "random numbers"),
    "dropout of channels": (lambda: nn.Dropout2d(0.1), (4, 3, 3), "random numbers"),
    "alpha dropout": (lambda: nn.AlphaDropout(0.1), (4,), "random numbers"),
    "recurrent dropout": (lambda: nn.LSTM(4, 4, 2, dropout=0.1), (3, 4), "random numbers"),
}


def named(layer: nn.Module) -> nn.Module:
    """A model in which the layer is called ``body.middle``."""
    body = nn.Sequential(OrderedDict(first=nn.Identity(), middle=layer))
    return nn.Sequential(OrderedDict(body=body, scale=nn.PReLU()))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_privately_is_refused_by_name(name: str) -> None:
    build, shape, why = REFUSED[name]
    model = named(build()).double()
    with pytest.raises(ModelError, match=rf"{why}(.|\n)*module body\.middle"):
        clipped_sum(model, patients_of(*shape), loss, 1.0, EngineChoice())


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_within_a_module_that_no_rule_knows(name: str) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.middle = nn.Parameter(torch.ones(1)), REFUSED[name][0]()

    with pytest.raises(ModelError, match=r"module 0\.middle"):
        list(served(nn.Sequential(Holder())))


@pytest.mark.parametrize(
    "settings",
    [{"max_norm": 1.0}, {"scale_grad_by_freq": True}],
    ids=lambda given: next(iter(given)),
)
def test_tables_that_depend_on_the_batch_are_refused_by_name(settings: dict[str, object]) -> None:
    model = named(nn.Embedding(5, 3, **settings)).double()  # type: ignore[arg-type] # as given
    with pytest.raises(ModelError, match=r"other patients(.|\n)*module body\.middle"):
        clipped_sum(model, patients_of(3, words=5), loss, 1.0, EngineChoice())


def test_weights_that_two_modules_share_are_refused_by_both_names() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    with pytest.raises(ModelError, match=r"parameter with 0(.|\n)*module 2\b"):
        clipped_sum(model, patients_of(4), loss, 1.0, EngineChoice())


def test_one_module_that_stands_in_two_places_is_used_twice() -> None:
    def build() -> nn.Module:
        layer = nn.Linear(4, 4)
        return nn.Sequential(layer, nn.Tanh(), layer)

    require_same(exact(build), patients_of(4, items=2))


def test_dropout_that_drops_nothing_is_served() -> None:
    def build() -> nn.Module:
        drop = nn.Dropout(0.5).eval()
        reader = nn.GRU(4, 3, 2, dropout=0.5, batch_first=True).eval()
        last = Net(lambda net, value: net.reader(value)[0], reader=reader)
        return nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 4), drop, last)

    require_same(exact(build), patients_of(3, 4, items=2))


def test_a_known_layer_called_in_another_way_is_refused_by_name() -> None:
    def build() -> nn.Module:
        up = nn.ConvTranspose2d(2, 2, 3, stride=2)
        return Net(lambda net, value: net.up(value, output_size=[8, 8]), up=up)

    with pytest.raises(ModelError, match=r"module up(.|\n)*output_size"):
        clipped_sum(exact(build), patients_of(2, 3, 3), loss, 1.0, EngineChoice())


def test_every_module_that_holds_parameters_is_served_once() -> None:
    model = named(nn.Sequential(nn.Linear(2, 2), nn.TransformerEncoderLayer(4, 2, dropout=0.0)))
    found = [parameter for _, module in served(model) for parameter in module.parameters()]
    assert {id(each) for each in found} == {id(each) for each in model.parameters()}
    assert len(found) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 2, 3, padding_mode="circular", padding=1),
        nn.Conv2d(2, 2, 2, padding="same"),
        nn.RMSNorm(2),
        nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)),
        nn.MultiheadAttention(2, 1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_no_rule_serves_what_it_would_not_compute(layer: nn.Module) -> None:
    assert rule_of(layer) is None


class Failing(nn.Module):
    """Raises what a graphics card's libraries say, on the way there or on the way back."""

    def __init__(self, said: str, *, back: bool) -> None:
        super().__init__()
        self.said, self.back = said, back

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        if not self.back:
            raise RuntimeError(self.said)
        found: torch.Tensor = _FailingBack.apply(value, self.said)  # type: ignore[no-untyped-call] # torch's is untyped
        return found


class _FailingBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, said: str) -> torch.Tensor:  # noqa: ANN401 - torch's context is untyped
        ctx.said = said
        return value.clone()

    @staticmethod
    def backward(ctx: Any, _gradient: torch.Tensor) -> Any:  # noqa: ANN401 - as above
        raise RuntimeError(ctx.said)


CHOICE = EngineChoice(tile=4)
OFFERED: dict[str, Callable[[nn.Module, Patients], object]] = {
    "timing kernels": lambda model, some: measured(model, some, loss, CHOICE, seconds=10.0),
    "choosing kernels": lambda model, some: settled(model, some, loss, CHOICE),
    "trying whether patients are alone": lambda model, some: is_alone(model, some, loss, CHOICE),
    "the probe": lambda model, some: require_sound(model, some, loss, CHOICE),
}


@pytest.mark.parametrize("back", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("said", "what"),
    [
        (
            "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but "
            "you set 'torch.use_deterministic_algorithms(True)'",
            "does not give the same bits each time",
        ),
        ("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED", "libraries of this device fail"),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `x`", "libraries of this device"),
        ("GET was unable to find an engine to execute this computation", "libraries of this"),
    ],
)
@pytest.mark.parametrize("work", OFFERED)
def test_what_a_device_cannot_compute_is_refused_by_the_modules_name(
    work: str, said: str, what: str, back: bool
) -> None:
    model = named(Failing(said, back=back)).float()
    model = nn.Sequential(nn.Linear(4, 4), model, nn.Linear(4, 2))
    drawn = patients_of(4, count=3)
    patients = Patients(drawn.inputs.float(), drawn.targets)
    with pytest.raises(ModelError, match=rf"{what}(.|\n)*module 1\.body\.middle") as caught:
        OFFERED[work](model, patients)
    assert said.split(maxsplit=1)[0] in caught.value.details["found"]
    assert not any(each._forward_hooks for each in model.modules())  # noqa: SLF001 - no public way


def test_another_error_stays_what_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 2), Failing("something else", back=True))
    drawn = patients_of(4, count=3)
    patients = Patients(drawn.inputs.float(), drawn.targets)
    with pytest.raises(RuntimeError, match="something else"):
        is_alone(model, patients, loss, CHOICE)
    with pytest.raises(torch.OutOfMemoryError):
        refusing(model, _out_of_memory)


def _out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory; CUBLAS_STATUS_ALLOC_FAILED")
