"""``vit``: a Vision Transformer of MONAI's blocks (Dosovitskiy et al. 2021, arXiv:2010.11929).

An image is cut into patches, each becomes a token, and every token of an image attends to every
other of that image. The default is the tiny form of Touvron et al. 2021 (arXiv:2012.12877).
Without dropout, whose random numbers would be nobody's. MONAI's own class also gives the tokens of
every block; its class token and its positions are parameters of a whole network there, which the
private engine would have to take as one layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self

from pydantic import model_validator

from common.bounded import Bound
from common.models.spec import BLOCKS, ModelSpec, Shape, require_multiple
from common.tasks.task import Heads

if TYPE_CHECKING:
    from torch import nn

PATCH: Final = Bound(
    *("model.patch", "patch", "pixels of a side of a patch", 2, 64, (4, 32)),
    why="work grows with the fourth power of how small patches are; larger ones blur what is seen",
)
FEATURES: Final = Bound(
    *("model.features", "features", "numbers that a patch becomes", 1, 4096, (32, 1024)),
    why="wider layers do not fit in memory",
)
HEADS: Final = Bound(
    *("model.heads", "heads", "heads of an attention", 1, 64, (1, 16)),
    why="each head has its share of the features, of which little is left",
)


class ViTSpec(ModelSpec):
    """``[model]`` of a Vision Transformer.

    Attributes:
        patch: pixels of a side of a patch; it divides the image's height and width.
        features: numbers of each token, a multiple of heads; inside a block four times as many.
        blocks: of attention and a small dense network.
        heads: attentions of a block, side by side.
    """

    tokens: ClassVar[bool] = True
    bounds: ClassVar[tuple[Bound, ...]] = (PATCH, FEATURES, BLOCKS, HEADS)

    name: Literal["vit"] = "vit"
    patch: Annotated[int, PATCH] = 16
    features: Annotated[int, FEATURES] = 192
    blocks: Annotated[int, BLOCKS] = 12
    heads: Annotated[int, HEADS] = 3

    @model_validator(mode="after")
    def _every_head_has_as_many_features(self) -> Self:
        if self.features % self.heads:
            raise ValueError(
                f"features is {self.features}, heads {self.heads}; features should be a multiple "
                "of heads"
            )
        return self

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`ModelSpec.build`."""
        require_multiple(self.name, shape, self.patch)

        from torch import nn

        from common.models.blocks import FirstToken, Tokens

        places = (shape.height // self.patch) * (shape.width // self.patch)
        return nn.Sequential(
            nn.Conv2d(shape.channels, self.features, kernel_size=self.patch, stride=self.patch),
            Tokens(places, self.features),
            *(self._block() for _ in range(self.blocks)),
            FirstToken(),
            nn.LayerNorm(self.features),
            nn.Linear(self.features, heads.outputs),
        )

    def _block(self) -> nn.Module:
        from monai.networks.blocks import TransformerBlock
        from torch import nn

        # Queries, keys and values apart: together, MONAI has the three along the first dimension,
        # which is the batch's, and three patients would look as if they met there.
        block = TransformerBlock(
            self.features, 4 * self.features, self.heads, qkv_bias=True, use_combined_linear=False
        )
        # MONAI makes it though nothing attends to another image: noise for weights without use.
        block.add_module("norm_cross_attn", nn.Identity())
        return block
