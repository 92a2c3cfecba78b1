"""The graphics card as a device: what is said where there is none, and how its bits are pinned."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from common.devices import cuda
from common.devices.cuda import ENVIRONMENT, MIB, Cuda, profile_of
from common.devices.device import Device, failed
from common.devices.devices import DEVICES
from common.errors import SiteError
from common.numerics import EngineChoice, differences, record

CUDA = DEVICES["cuda"]
there = pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card is at hand")
absent = pytest.mark.skipif(torch.cuda.is_available(), reason="a graphics card is at hand")


def test_a_plan_that_names_it_is_read_without_torch() -> None:
    program = "import sys, common.plan, common.devices.cuda; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the CUDA build of torch; what it would ask the card is for each test to say."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@absent
def test_without_the_cuda_build_the_error_says_what_to_install_or_to_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    for ask in (CUDA.card, lambda: CUDA.require(0), lambda: CUDA.hold(0), lambda: CUDA.repeat(1)):
        with pytest.raises(SiteError, match="cannot compute on a graphics card") as caught:
            ask()
        assert "remove the line gpu" in caught.value.details["do"]
    with pytest.raises(SiteError, match="cannot compute"):
        record(1, EngineChoice(device="cuda"))


@absent
@pytest.mark.usefixtures("built")
def test_a_card_that_is_not_there_is_named_with_what_to_write_instead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(SiteError, match="is not there") as caught:
        CUDA.require(MIB)
    assert "gpu = 7" in caught.value.details["found"]
    assert "for example gpu = 0" in caught.value.details["do"]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, built: None) -> dict[str, int]:
    """A card of 8 GiB, of which other programs have taken 3; torch on it."""
    del built
    # What pins a card's bits holds for a whole process, and this one has other tests.
    monkeypatch.setattr(cuda, "_pin", lambda: None)
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, ENVIRONMENT[name])
    monkeypatch.setattr(Cuda, "require_computing", lambda _: None)
    state = {"total": 8 * 1024 * MIB, "free": 5 * 1024 * MIB, "reserved": 0, "bound": 0}

    whole = torch.empty

    def empty(size: Any, *rest: Any, **settings: Any) -> torch.Tensor | None:  # noqa: ANN401
        if settings.get("device") is None:  # the processor's
            return whole(size, *rest, **settings)
        if size > MIB:  # as torch does, in multiples of 2 MiB; two of 1 MiB share a segment
            size = -(-size // (2 * MIB)) * 2 * MIB
        else:
            state["small"] = state.get("small", 0) + size
        if size > state["free"] or state["reserved"] + size > state["bound"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        state["free"] -= size
        state["reserved"] += size
        return None

    properties = SimpleNamespace(
        total_memory=state["total"],
        name="NVIDIA A100 80GB PCIe MIG 1g.10gb",
        multi_processor_count=14,
    )

    def bound(share: float, _: int) -> None:
        state["bound"] = int(share * state["total"])

    for name, given in {
        "set_per_process_memory_fraction": bound,
        "is_available": lambda: True,
        "get_device_properties": lambda _: properties,
        "memory_reserved": lambda _: state["reserved"],
        "mem_get_info": lambda _: (state["free"], state["total"]),
    }.items():
        monkeypatch.setattr(torch.cuda, name, given)
    monkeypatch.setattr(torch, "empty", empty)
    return state


def test_memory_is_taken_once_and_kept(card: dict[str, int]) -> None:
    CUDA.hold(4096 * MIB)
    assert card["reserved"] == 4096 * MIB
    CUDA.hold(4096 * MIB)
    CUDA.hold(2048 * MIB)
    assert card["reserved"] == 4096 * MIB
    CUDA.hold(4608 * MIB)
    assert card["reserved"] == 4608 * MIB


@pytest.mark.parametrize("memory", [33, 1000, 1001, 4097])
def test_what_is_held_is_all_that_the_process_may_take(card: dict[str, int], memory: int) -> None:
    """Small tensors have memory of their own: of what is held there is some for them."""
    CUDA.hold(memory * MIB)
    assert memory * MIB <= card["bound"] < (memory + 2) * MIB
    assert card["bound"] - card["reserved"] < 3 * MIB  # less than another segment, and a MiB
    assert card["reserved"] <= memory * MIB
    small = card.get("small", 0)
    assert card["reserved"] / 16 - 2 * MIB <= small <= card["reserved"] / 16


def test_memory_that_is_hardly_more_than_torch_takes_at_once_is_not_held(
    card: dict[str, int],
) -> None:
    CUDA.hold(16 * MIB)
    assert card["reserved"] == 0
    assert card["bound"] < 18 * MIB


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("asked", ["get_device_properties", "mem_get_info"])
def test_what_the_driver_says_is_said_in_words(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    def failing(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: all CUDA-capable devices are busy\nmore")

    monkeypatch.setattr(torch.cuda, asked, failing)
    with pytest.raises(SiteError, match="does not compute") as caught:
        CUDA.hold(4096 * MIB)
    assert caught.value.details["found"] == (
        "AcceleratorError: CUDA error: all CUDA-capable devices are busy"
    )
    assert "remove the line gpu" in caught.value.details["do"]


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.usefixtures("card")
def test_a_card_that_is_there_must_compute(monkeypatch: pytest.MonkeyPatch, wrong: bool) -> None:
    monkeypatch.setattr(Cuda, "require_computing", Device.require_computing)
    monkeypatch.setattr(Cuda, "move", lambda _, tensor: tensor.clone().add_(int(wrong)))
    if not wrong:
        CUDA.require(MIB)
        return
    with pytest.raises(SiteError, match="is there, but it does not compute") as caught:
        CUDA.require(MIB)
    assert caught.value.details["found"].startswith("another product")


@pytest.mark.usefixtures("card")
def test_a_process_that_has_not_used_a_card_has_not_lost_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(_: object) -> None:
        raise failed(None)

    monkeypatch.setattr(Cuda, "require_computing", failing)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert not CUDA.is_lost()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert CUDA.is_lost()


class Held:
    """What a frame holds, in a cycle as hooks make them."""

    def __init__(self, kept: list[weakref.ref[Held]]) -> None:
        self.itself = self
        kept.append(weakref.ref(self))


def test_an_error_lets_go_of_what_its_frames_held() -> None:
    """Also those of the error that it came from; where it was raised is still told."""
    kept: list[weakref.ref[Held]] = []

    def fails() -> None:
        held = Held(kept)
        raise RuntimeError(f"out of memory with {type(held)}")

    def translates() -> None:
        held = Held(kept)
        try:
            fails()
        except RuntimeError as error:
            raise ValueError(f"in words, with {type(held)}") from error

    with pytest.raises(ValueError, match="in words") as caught:
        translates()
    assert all(one() is not None for one in kept)
    CUDA.let_go(caught.value)
    assert [one() for one in kept] == [None, None]
    assert "in fails" in "".join(traceback.format_exception(caught.value))


class Copied:
    """An event; notes when it is recorded and waited for."""

    log: ClassVar[list[str]] = []
    made: ClassVar[int] = 0

    def __init__(self, *, blocking: bool) -> None:
        assert blocking
        self.name = f"{Copied.made}"
        Copied.made += 1

    def record(self) -> None:
        self.log.append(f"record {self.name}")

    def synchronize(self) -> None:
        self.log.append(f"wait {self.name}")


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the pinned buffers that were made, where the processor stands for the card."""
    sizes: list[int] = []

    def taken(size: int) -> torch.Tensor:
        sizes.append(size)
        return torch.empty(size, dtype=torch.uint8)

    monkeypatch.setattr(cuda, "HERE", "cpu")
    monkeypatch.setattr(cuda, "_pinned", taken)
    monkeypatch.setattr(torch.cuda, "Event", Copied)
    Copied.log.clear()
    Copied.made = 0
    return sizes


def test_what_is_moved_arrives_as_it_is_and_its_layout_too(pinned: list[int]) -> None:
    staging = cuda.Staging()
    tensors = (
        torch.randn(2, 3, 4, 5),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(6, 4).T,
        torch.randn(8, 6)[::2],
        torch.zeros(3).expand(4, 3),
        torch.arange(7),
        torch.tensor([True, False, True]),
        torch.randn(5).half(),
        torch.tensor(2.5, dtype=torch.float64),
        torch.empty(0, 3),
    )
    moved = [staging.moved(each) for each in tensors]
    for one, other in zip(tensors, moved, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
        assert other.data_ptr() != one.data_ptr() or not one.numel()
    assert moved[1].is_contiguous(memory_format=torch.channels_last)
    assert moved[2].stride() == tensors[2].stride()
    assert pinned == [480] * cuda.SLOTS


def test_pinned_memory_follows_from_the_largest_tensor_alone(pinned: list[int]) -> None:
    """However many come after it, and however small."""
    staging = cuda.Staging()
    staging.moved(torch.zeros(10))
    staging.moved(torch.zeros(1000))
    assert pinned == [40] * cuda.SLOTS + [4000] * cuda.SLOTS
    for size in range(1000):
        staging.moved(torch.zeros(size))
    assert len(pinned) == 2 * cuda.SLOTS


@pytest.mark.usefixtures("pinned")
def test_a_buffer_is_used_again_only_when_its_copy_is_done() -> None:
    """So the processor is never farther ahead than the ring is long."""
    staging = cuda.Staging()
    staging.moved(torch.zeros(9))
    Copied.log.clear()
    for _ in range(2 * cuda.SLOTS):
        staging.moved(torch.zeros(9))
    turns = [(2 + turn) % cuda.SLOTS for turn in range(2 * cuda.SLOTS)]
    assert Copied.log == [f"{what} {turn}" for turn in turns for what in ("wait", "record")]
    Copied.log.clear()
    staging.moved(torch.zeros(99))  # all of them go: nothing may still be read
    assert Copied.log[: cuda.SLOTS] == [f"wait {slot}" for slot in range(cuda.SLOTS)]


def test_a_card_whose_memory_others_have_taken_is_an_error_before_any_round(
    card: dict[str, int],
) -> None:
    CUDA.require(6144 * MIB)
    with pytest.raises(SiteError, match="less memory") as caught:
        CUDA.hold(6144 * MIB)
    assert caught.value.details["found"] == "5120 MiB free"
    assert caught.value.details["wanted"] == "6144 MiB"
    assert "write memory_mib = 4608 or less" in caught.value.details["do"]
    assert card["reserved"] == 0


@pytest.mark.usefixtures("card")
def test_a_card_that_is_too_small_is_an_error_whoever_uses_it() -> None:
    with pytest.raises(SiteError, match="less memory") as caught:
        CUDA.require(9000 * MIB)
    assert caught.value.details["found"] == "8192 MiB in all"


@pytest.mark.usefixtures("card")
def test_the_record_says_which_card_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "driver_version", lambda: "580.95.05")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    cuda.described.cache_clear()
    found = CUDA.card()
    cuda.described.cache_clear()
    assert found is not None
    assert str(found) == (
        "NVIDIA A100 80GB PCIe MIG 1g.10gb, 14 multiprocessors, MIG 1g.10gb, driver 580.95.05, "
        "CUDA 13.0, cuDNN 91900"
    )
    ours = record(1, EngineChoice())
    on_it = ours.model_copy(update={"card": found})
    updated = ours.model_copy(update={"card": found.model_copy(update={"driver": "581.0"})})
    assert differences(on_it, on_it) == {}
    assert set(differences(on_it, updated)) == {"card"}
    assert "driver 581.0" in differences(on_it, updated)["card"][1]
    assert differences(ours, on_it)["card"][0] == "none: the processor computes"


def test_without_the_drivers_library_the_error_says_how_a_container_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "NVML", "libnvidia-ml.so.absent")
    with pytest.raises(SiteError, match="driver cannot be read") as caught:
        cuda.driver_version()
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in caught.value.details["do"]


@pytest.mark.parametrize(
    ("name", "profile"),
    [("NVIDIA H100 80GB HBM3", "none"), ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "3g.40gb")],
)
def test_a_slice_of_a_card_is_told_by_its_name(name: str, profile: str) -> None:
    assert profile_of(name) == profile


def test_algorithms_and_precision_are_pinned() -> None:
    """In a process of its own: they are the process's."""
    program = """
import torch
from common.devices.devices import DEVICES
torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.fp32_precision = "tf32"
DEVICES["cuda"].set_threads(1)
cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
assert torch.are_deterministic_algorithms_enabled()
assert cudnn.deterministic and not cudnn.benchmark
assert {products.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision} == {"ieee"}
assert not products.allow_bf16_reduced_precision_reduction
assert not products.allow_fp16_reduced_precision_reduction
assert not torch.backends.cuda.flash_sdp_enabled()
assert not torch.backends.cuda.mem_efficient_sdp_enabled()
assert torch.backends.cuda.math_sdp_enabled()
import os
print(os.environ["CUBLAS_WORKSPACE_CONFIG"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ":4096:8"), done.stderr


pytestmark = pytest.mark.filterwarnings("ignore:Can't initialize NVML")


@pytest.mark.cuda
@there
class TestOnACard:
    """What only a card can show."""

    @pytest.fixture(autouse=True)
    def _alone(self) -> Iterator[None]:
        """The process has other tests: nothing is kept of them, and no bound is left to them."""
        CUDA.release()
        yield
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
        CUDA.release()

    def test_it_is_there_and_says_what_it_is(self) -> None:
        CUDA.require(MIB)
        found = CUDA.card()
        assert found is not None
        assert found.driver[0].isdigit()
        assert found.multiprocessors >= 1

    def test_memory_that_is_held_is_there_for_what_comes(self) -> None:
        CUDA.hold(256 * MIB)
        assert torch.cuda.memory_reserved(0) >= 256 * MIB

    def test_what_is_moved_arrives_also_while_the_card_computes(self) -> None:
        CUDA.repeat(1)
        busy = CUDA.move(torch.randn(2048, 2048))
        for number in range(20):
            busy = busy @ busy / busy.norm()
            given = torch.full((1000, 1000), float(number))
            moved = CUDA.move(given)
            assert moved.is_cuda
            assert CUDA.move(moved) is moved
            assert torch.equal((moved + 0).cpu(), given)

    def test_what_tensors_of_any_size_take_is_within_what_is_held(self) -> None:
        """Also while the processor is ahead: no tensor that is moved takes memory of its own."""
        CUDA.hold(512 * MIB)
        held = torch.cuda.memory_reserved(0)
        weights = CUDA.move(torch.randn(1024, 1024))
        for number in range(200):
            moved = CUDA.move(torch.randn(1 + number % 64, 1024))
            for _ in range(10):
                moved = moved @ weights / 32
        CUDA.finish()
        assert torch.cuda.memory_reserved(0) == held
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(600 * MIB, dtype=torch.uint8, device="cuda:0")

    def test_it_computes(self) -> None:
        CUDA.require_computing()
        assert not CUDA.is_lost()

    def test_the_same_product_has_the_same_bits(self) -> None:
        CUDA.repeat(1)
        assert {key: os.environ[key] for key in ENVIRONMENT} == ENVIRONMENT
        model = nn.Conv2d(3, 8, 3)
        CUDA.place(model, "channels_last")
        image = CUDA.move(torch.randn(4, 3, 16, 16))

        def once() -> Any:  # noqa: ANN401 - two tensors
            output = model(image)
            model.zero_grad()
            output.square().sum().backward()
            assert model.weight.grad is not None
            return output.detach().clone(), model.weight.grad.clone()

        first, second = once(), once()
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))

    def test_float32_is_multiplied_as_float32(self) -> None:
        CUDA.repeat(1)
        left, right = (torch.randn(256, 256) for _ in range(2))
        found = (CUDA.move(left) @ CUDA.move(right)).cpu().double()
        exact = left.double() @ right.double()
        assert float((found - exact).norm() / exact.norm()) < 1e-6


def test_it_is_a_device_like_any_other() -> None:
    assert isinstance(CUDA, Cuda)
    assert CUDA.is_apart
    assert not DEVICES["cpu"].is_apart
    assert CUDA.tried_work > DEVICES["cpu"].tried_work
