"""The models that a study can name: a new one is a file, and a line here."""

from __future__ import annotations

from typing import Annotated, Any, Final, get_args

from pydantic import BeforeValidator, Field

from common.models.cnn import CnnSpec
from common.models.efficientnet_lite import EfficientNetLite0Spec
from common.models.monai import (
    DenseNet121Spec,
    EfficientNetB0Spec,
    ResNet18Spec,
    ResNet50Spec,
    SEResNet50Spec,
)
from common.models.resunet import ResUNetSpec
from common.models.scattering import ScatteringSpec
from common.models.spec import ModelSpec
from common.models.unet import UNetSpec
from common.models.vit import ViTSpec

_Any = (
    ScatteringSpec
    | CnnSpec
    | ResNet18Spec
    | ResNet50Spec
    | SEResNet50Spec
    | DenseNet121Spec
    | EfficientNetB0Spec
    | EfficientNetLite0Spec
    | ViTSpec
    | UNetSpec
    | ResUNetSpec
)
MODELS: Final[tuple[type[ModelSpec], ...]] = get_args(_Any)
_BY_NAME: Final = {kind.model_fields["name"].default: kind for kind in MODELS}
_LEFT_OUT: Final = ScatteringSpec()


def _of_one_model(given: Any) -> Any:  # noqa: ANN401 - whatever the file holds
    """Write out the name that is left out, and refuse a setting that another model has."""
    if not isinstance(given, dict):
        return given
    named = {"name": _LEFT_OUT.name} | given
    own = _BY_NAME.get(named["name"]) if isinstance(named["name"], str) else None
    for key in given:
        owners = [name for name, kind in _BY_NAME.items() if key in kind.model_fields]
        if own is not None and owners and key not in own.model_fields:
            of = " and ".join(filter(None, [", ".join(owners[:-1]), owners[-1]]))
            said = "the model is" if "name" in given else "without a name the model is"
            raise ValueError(f"{key} is a setting of {of}; {said} {named['name']}")
    return named


AnyModel = Annotated[_Any, Field(discriminator="name"), BeforeValidator(_of_one_model)]
"""``[model]`` of a study file."""
