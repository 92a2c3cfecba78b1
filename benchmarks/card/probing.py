"""The engine's probe at the shapes of studies: what a card passes, with which kernels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from client.training.tuning import check, modelled
from common.devices.device import DeviceName, Precision
from common.errors import ModelError
from common.numerics import EngineChoice
from common.study.study_file import Study

MEMORY: Final = 8 * 2**30


@dataclass(frozen=True)
class Case:
    """A study's shape.

    Attributes:
        model: by its name in a study file.
        side: height and width of an image.
        precision: of activations.
    """

    model: str
    side: int
    precision: Precision

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.model}, {self.side}x{self.side}, {self.precision}"


_MODELS: Final = (
    *(("cnn", 64), ("scattering", 64), ("resnet18", 64), ("resnet18", 224)),
    *(("densenet121", 224), ("unet", 128), ("resunet", 128)),
)
_PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "bfloat16")
CASES: Final = tuple(
    Case(model, side, precision) for model, side in _MODELS for precision in _PRECISIONS
)


def study_of(case: Case) -> Study:
    """A study of that shape."""
    dense = case.model in {"unet", "resunet"}
    task = {"kind": "segmentation", "classes": ["lesion"]} if dense else {"classes": ["no", "yes"]}
    return Study.model_validate(
        {
            "study": {"name": "probe", "title": "What a card passes"},
            "task": task,
            "data": {
                "dataset": "made-up",
                "modalities": ["DX"],
                "image_size": [case.side, case.side],
            },
            "model": {"name": case.model},
            "training": {"batch_size": 64},
            "privacy": {"mode": "patient", "epsilon": 4.0, "delta": 1e-5},
            "aggregation": {"min_sites": 2},
        }
    )


def probed(case: Case, device: DeviceName = "cuda") -> dict[str, Any]:
    """The tile and the kernels that took another's place, or why the model is refused there."""
    blank = EngineChoice(device=device, precision=case.precision)
    found: dict[str, Any] = {"case": asdict(case), "tile": 0, "replaced": {}, "refused": ""}
    try:
        choice = modelled(study_of(case), MEMORY, blank=blank)
        check(study_of(case), choice)
    except ModelError as error:
        return found | {"refused": f"{error.what} ({error.details.get('where', '')})"}
    return found | {"tile": choice.tile, "replaced": choice.kernels}
