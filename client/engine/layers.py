"""Which rule serves which module of a model, and which modules are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torch import nn

from client.engine.convolution import ConvolutionRule, is_even
from client.engine.linear import EmbeddingRule, LinearRule
from client.engine.normalisation import GroupRule, LayerRule, PReluRule
from client.engine.rule import Layer, Rule
from common.errors import ModelError

_CONVOLUTIONS: Final = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_INSTANCE_NORMS: Final = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_RULES: Final[dict[type[nn.Module], Rule]] = {
    nn.Linear: LinearRule(),
    nn.Embedding: EmbeddingRule(),
    nn.GroupNorm: GroupRule(),
    nn.LayerNorm: LayerRule(),
    nn.PReLU: PReluRule(),
    **dict.fromkeys(_CONVOLUTIONS, ConvolutionRule()),
    **dict.fromkeys(_INSTANCE_NORMS, GroupRule()),
}
RECURRENT: Final = (nn.LSTM, nn.GRU, nn.RNN)
_DROPOUTS: Final = (nn.modules.dropout._DropoutNd,)  # noqa: SLF001 - no public base class
_APPROXIMATE: Final = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.GLU,
    nn.LogSigmoid,
    nn.LogSoftmax,
    nn.Mish,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softmax,
    nn.Softmin,
    nn.Softplus,
    nn.Tanh,
    nn.Tanhshrink,
)
"""Built on exponentials. The library computes most of an array with vector instructions and the
last numbers, also of a thread's share, with another routine that rounds differently."""
_BATCH_NORMS: Final = (nn.modules.batchnorm._BatchNorm,)  # noqa: SLF001 - no public base class


def served(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that must be watched, by name: outermost ones that hold parameters.

    Raises:
        ModelError: names a module in which patients meet or chance is not the study's.
    """
    seen: dict[int, str] = {}
    for name, module in _holders("", model):
        for _, parameter in module.named_parameters():
            if seen.setdefault(id(parameter), name) != name:
                raise _refused(name, f"shares a parameter with {seen[id(parameter)]}", "one each")
        yield name, module


def _holders(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    _refuse(name, module)
    if any(True for _ in module.parameters(recurse=False)):
        # A module with parameters of its own may use its children's in any way: all are one layer.
        for inner, child in module.named_modules(prefix=name):
            _refuse(inner, child)
        yield name, module
        return
    children = dict(module.named_children())  # one that stands in two places is one module
    for child_name, child in children.items():
        yield from _holders(f"{name}.{child_name}" if name else child_name, child)


def approximate(model: nn.Module) -> Iterator[nn.Module]:
    """Every module, outside those that hold parameters, whose function is not rounded exactly."""
    if any(True for _ in model.parameters(recurse=False)):
        return
    if isinstance(model, _APPROXIMATE):
        yield model
    for child in dict(model.named_children()).values():
        yield from approximate(child)


def _refuse(name: str, module: nn.Module) -> None:
    for parameter_name, parameter in module.named_parameters(recurse=False):
        if not parameter.requires_grad:
            raise _refused(name, f"holds a parameter that is fixed, {parameter_name}", "a buffer")
    if isinstance(module, _BATCH_NORMS):
        raise _refused(
            name, "mixes the patients of a batch", "group, layer or instance normalisation"
        )
    if isinstance(module, _INSTANCE_NORMS) and module.track_running_stats:
        # Running statistics are computed from patients, and are neither clipped nor noised.
        raise _refused(name, "keeps statistics over patients", "track_running_stats=False")
    dropped = module.p if isinstance(module, _DROPOUTS) else 0.0
    if isinstance(module, RECURRENT):
        dropped = module.dropout
    if dropped and module.training:
        raise _refused(name, "uses random numbers of its own (dropout)", "no dropout")
    if isinstance(module, nn.Embedding) and (module.scale_grad_by_freq or module.max_norm):
        wanted = "scale_grad_by_freq=False and max_norm=None"
        raise _refused(name, "depends on the other patients of a batch", wanted)


def _refused(name: str, what: str, wanted: str) -> ModelError:
    return ModelError(
        f"a module cannot be trained privately: it {what}",
        where=f"module {name or 'the model itself'}",
        wanted=wanted,
        remedy="replace the module in the model",
    )


def rule_of(module: nn.Module) -> Rule | None:
    """The rule that serves a module, or None where it must go through ``torch.func``.

    A subclass that computes in another way than its base is not served by the base's rule.
    """
    # _conv_forward too: that is where a subclass of Conv2d may standardise its weight, for example.
    kind = next((kind for kind in _RULES if isinstance(module, kind)), None)
    if kind is None or type(module).forward is not kind.forward:
        return None
    if getattr(type(module), "_conv_forward", None) is not getattr(kind, "_conv_forward", None):
        return None
    if isinstance(module, _CONVOLUTIONS) and not is_even(module):
        return None
    own = dict(module.named_parameters())
    return _RULES[kind] if set(own) <= {"weight", "bias"} and "weight" in own else None


def layer_of(name: str, module: nn.Module, rule: Rule) -> Layer:
    """A module that is one layer."""
    return Layer(name, rule, module, dict(module.named_parameters(recurse=False)))


def dense(name: str, weight: nn.Parameter, bias: nn.Parameter | None) -> Layer:
    """A dense layer that is a part of a module."""
    parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return Layer(name, _RULES[nn.Linear], None, parameters)
