"""Which rule serves which module of a model, and which modules are refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

import torch
from torch import nn
from torch.autograd.graph import Node

from client.engine.convolution import ConvolutionRule, is_even
from client.engine.linear import EmbeddingRule, LinearRule
from client.engine.normalisation import GroupRule, LayerRule, PReluRule
from client.engine.rule import Layer, Rule
from common.errors import ModelError

T = TypeVar("T")
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
_NOT_REPEATED: Final = "does not have a deterministic implementation"
_OF_A_LIBRARY: Final = re.compile(r"CUDNN_STATUS_\w+|CUBLAS_STATUS_\w+|unable to find an engine")
"""What torch says where cuDNN or cuBLAS cannot do what it was asked for."""


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
        fixed = [own for own, each in module.named_parameters() if not each.requires_grad]
        if fixed and any(each.requires_grad for each in module.parameters()):
            raise _refused(name, f"is trained but for {fixed[0]}", "all of it trained, or frozen")
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


def refusing(model: nn.Module, work: Callable[[], T]) -> T:
    """What some work with a model gives; what its device cannot compute is refused by name.

    Args:
        model: whose forward and backward it runs, or those of copies.
        work: done a second time where it fails, to find out in which module.

    Raises:
        ModelError: an operation does not repeat its bits on this device, or the device's library
            fails on it.
    """
    try:
        return work()
    except torch.OutOfMemoryError:
        raise  # the machine's fault, not the model's
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        if _NOT_REPEATED in said:
            raise ModelError(
                "an operation of the model does not give the same bits each time on this device",
                where=_failing(model, work),
                found=said[:200],
                wanted="operations with a deterministic form",
                remedy="replace the module in the model, or remove the line gpu in [device] to "
                "compute on the processor",
            ) from error
        if _OF_A_LIBRARY.search(said):
            raise ModelError(
                "the libraries of this device fail on an operation of the model",
                where=_failing(model, work),
                found=said[:200],
                wanted="operations that cuDNN and cuBLAS compute on this card",
                remedy="update the driver; lower memory_mib if other programs use the card; or "
                "remove the line gpu in [device] to compute on the processor",
            ) from error
        raise


def _failing(model: nn.Module, work: Callable[[], object]) -> str:
    """Where work fails when it is done again."""
    within: list[str] = []
    back = ["the model itself"]
    known: set[Node] = set()  # kept, or another node would be taken for one of them

    def enter(name: str, *_: object) -> None:
        within.append(f"module {name or 'the model itself'}")

    def arrive(name: str, _: object) -> None:
        back[0] = f"module {name or 'the model itself'}, or an operation just before it"

    def leave(name: str, _module: nn.Module, _given: object, output: object) -> None:
        within.pop()
        node = output.grad_fn if isinstance(output, torch.Tensor) else None
        # A module that gives what its last child gives is not asked: the innermost is named.
        if node is not None and node not in known:
            known.add(node)
            node.register_prehook(partial(arrive, name))

    hooks: list[Any] = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(enter, name)))
        hooks.append(module.register_forward_hook(partial(leave, name)))
    try:
        work()
    except RuntimeError:
        return within[-1] if within else back[0]
    finally:
        for hook in hooks:
            hook.remove()
    return "the model itself"
