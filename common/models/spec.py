"""What a model's file declares: its settings, and how a network is built from them.

No torch when this is imported: a study file is read by processes that compute nothing. So
``build`` imports what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from common.bounded import Bound
from common.errors import ModelError
from common.models.initial import Arrays, Initial
from common.settings import Section
from common.tasks.task import Heads
from common.text import Words

if TYPE_CHECKING:
    from torch import nn


class Shape(NamedTuple):
    """Of an image that enters a model: channels, and pixels of its sides."""

    channels: int
    height: int
    width: int


ADAPTERS: Final = Bound(
    *("model.adapters", "adapters", "rank of the adapter of a frozen layer", 1, 256, (1, 16)),
    why="a wider adapter has as many weights as the layer",
)


PROJECTION: Final = Bound(
    *("model.projection", "projection", "numbers of an image that reach the head", 1, 4096),
    *((4, 512), "what is projected has few dimensions; no network of ours has more to begin with"),
)


class ModelSpec(Section):
    """``[model]``: the settings of one kind of network.

    Attributes:
        name: of the kind.
        initial: public weights that training begins with; left out, they follow from the seed.
        trainable: parts that are trained, ``head``, ``norms`` or names of modules; left out, all.
            The others are frozen, and reach a site once, with the plan.
        adapters: rank of the low-rank adapters beside frozen layers, which are trained
            too; left out, none.
        projection: numbers to which the features of an image are projected, linearly, before the
            head, and which are then brought to one length; left out, none.
    """

    dense: ClassVar[bool] = False
    """Whether it puts out numbers for each pixel; otherwise, for each image."""
    tokens: ClassVar[bool] = False
    """Whether an image becomes a row of tokens at once, of which none keeps its own place."""
    bounds: ClassVar[tuple[Bound, ...]] = ()
    """Of its numbers; models may share some."""

    name: str
    # Not written where they are left out: a plan's hash keys its noise, and older ones lack them.
    initial: Initial | None = Field(default=None, exclude_if=lambda given: given is None)
    trainable: tuple[Words, ...] = Field(
        default=(), max_length=64, exclude_if=lambda given: not given
    )
    adapters: Annotated[int, ADAPTERS] | None = Field(
        default=None, exclude_if=lambda given: given is None
    )

    projection: Annotated[int, PROJECTION] | None = Field(
        default=None, exclude_if=lambda given: given is None
    )

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.adapters and not self.trainable:
            raise ValueError(
                "adapters stand beside frozen layers, and without trainable none is frozen; "
                'write trainable = ["head"]'
            )
        return self

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """The network, in training mode, its weights not yet meaningful.

        It maps float32 (items, channels, height, width) to (items, outputs) or, dense, to
        (items, outputs, height, width).

        Raises:
            ModelError: the settings or the image size do not fit.
        """
        raise NotImplementedError

    def translated(self, arrays: Arrays) -> Arrays:
        """A public checkpoint's arrays under the names, and in the form, of this model's weights.

        Args:
            arrays: float32, by name; those that are already in that form stay.
        """
        return arrays


WIDTHS: Final = Bound(
    *("model.widths", "widths", "channels of a convolution", 1, 4096, (1, 512)),
    why="wider layers do not fit in memory",
)
GROUPS: Final = Bound(
    *("model.groups", "groups", "groups of a group normalisation", 1, 4096, (1, 64)),
    why="there cannot be more groups than channels",
)
BLOCKS: Final = Bound(
    *("model.blocks", "blocks", "blocks of the network", 1, 48, (1, 24)),
    why="more of them only make the network deeper",
)
RESIDUAL_UNITS: Final = Bound(
    *("model.residual_units", "residual_units", "convolutions of a residual block", 1, 8, (0, 4)),
    why="0 leaves residual blocks out; more of them only make the network deeper",
    zero=True,
)


def _explain_batch_norm(norm: object) -> object:
    if norm == "batch":
        raise ValueError(
            "batch normalisation mixes the patients of a batch, so that no gradient belongs to "
            'one patient; "group" or another norm of the model can be trained privately'
        )
    return norm


NotBatch: Final = BeforeValidator(_explain_batch_norm)
Width = Annotated[int, WIDTHS]
Groups = Annotated[int, GROUPS] | None
ImageNorm = Annotated[Literal["group", "instance"], NotBatch]
"""Normalisations of one image that leave no statistics behind."""
Activation = Literal["relu", "tanh", "elu", "gelu", "silu"]


def require_multiple(name: str, shape: Shape, step: int) -> None:
    """Refuse an image whose sides a network cannot halve and double to the pixel.

    Raises:
        ModelError: names sizes that fit.
    """
    if shape.height % step or shape.width % step:
        below, above = (
            "x".join(str(max(1, side // step + more) * step) for side in shape[1:])
            for more in (0, 1)
        )
        raise ModelError(
            "the model cannot take images of this size",
            where=f"[data] image_size, [model] {name}",
            found=f"{shape.height}x{shape.width}",
            wanted=f"sides that are multiples of {step}, such as {below} or {above}",
            remedy="change image_size, or use fewer widths, smaller strides or smaller patches",
        )


def too_small(name: str, shape: Shape, fits: int | None) -> ModelError:
    """The error for an image that does not survive a network's pooling.

    Args:
        name: of the model.
        shape: of the image.
        fits: pixels of a side that would.
    """
    return ModelError(
        "the model cannot take images of this size",
        where=f"[data] image_size, [model] {name}",
        found=f"{shape.height}x{shape.width}",
        wanted=f"{fits}x{fits} or larger" if fits else "a size that is large enough to pool",
        remedy="increase image_size, or use fewer widths or scales",
    )
