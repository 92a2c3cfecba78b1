"""The ONNX graph of a model, with what comes before it: made, and held to be only that.

The graph takes images in [0, 1] at the study's size, and contains all that follows: the study's
constants, the network, and what makes its outputs readable. What comes before, from a DICOM file to
such an image, is said exactly by :func:`preprocessing`, which the graph carries.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from common.errors import PackageError
from common.models.spec import Shape

if TYPE_CHECKING:
    import onnx
    import torch

    from common.study.study_file import Study

INPUT: Final = "image"
OUTPUT: Final = "scores"
OPSET: Final = 20
_OPERATORS: Final = (
    "Add AveragePool Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose Div Einsum Elu "
    "Erf Flatten Gather Gelu Gemm GlobalAveragePool Identity InstanceNormalization "
    "LayerNormalization Log MatMul MaxPool Mul PRelu Pad Pow Relu Reshape Resize Shape Sigmoid "
    "Slice Softmax Sqrt Sub Tanh Transpose Unsqueeze"
)
OPERATORS: Final = frozenset(_OPERATORS.split())
"""What the graphs of our models and tasks are made of: none has a graph within, or goes on for as
long as its input says."""
STATED: Final = "consilium.preprocessing"
"""Key of the graph's own metadata with what :func:`preprocessing` says."""


def preprocessing(study: Study) -> dict[str, Any]:
    """What is done with a DICOM image before and in the graph, in order."""
    data = study.data
    size = f"{data.image_size[0]} x {data.image_size[1]}"
    if data.spacing is None:
        place = f"scaled to fit {size}, proportions kept, zeros around"
    else:
        spacing = " x ".join(f"{each:g}" for each in data.spacing)
        place = f"scaled to {spacing} mm (rows, columns), then cropped or padded to {size}"
    colour = "one channel: luminance of colour (ITU-R BT.601)"
    return {
        "before": [
            "pixels as a display shows them: Modality LUT, VOI LUT or window, inverse of "
            "MONOCHROME1 (DICOM PS3.3, C.7.6.3, C.11), over their range to [0, 1]",
            colour if data.channels == 1 else "three channels: grey fills all alike",
            f"{place}; antialiased bilinear filter (Pillow)",
            "rounded to float16",
        ],
        "within": [f"(image - {data.mean!r}) / {data.std!r}", "network", "readable scores"],
        "input": {"name": INPUT, "dtype": "float32", "shape": ["n", *study.shape]},
        "output": {"name": OUTPUT, "dtype": "float32", "dense": study.heads.dense},
    }


def export(study: Study, model: torch.nn.Module) -> bytes:
    """The graph.

    Args:
        study: whose constants and task belong to it.
        model: the network with its weights.

    Raises:
        PackageError: the network is of parts that no graph of ours has.
    """
    import onnx
    import torch

    made, model_of = io.BytesIO(), f"[model] {study.model.name}"
    try:
        # Without gradients: the network is run once, and its arrays would be kept.
        with _silent(), torch.no_grad():
            # Traced: the exporter that goes through torch.export takes 10 to 40 times as long here
            # (DenseNet-121: 45 s and 4 s), and so would the end of every study. Torch calls tracing
            # the older way; the tests hold either to the model's scores.
            torch.onnx.export(
                whole(study, model),
                (torch.zeros(1, *Shape(*study.shape)),),
                made,  # type: ignore[arg-type] # a file object, as its text says
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "n"}, OUTPUT: {0: "n"}},
            )
    except RuntimeError as cause:  # torch's own errors are such
        raise _unwritten(model_of, str(cause).partition("\n")[0]) from cause
    found = onnx.load_model_from_string(made.getvalue())
    _forget_sources(found)
    stated = found.metadata_props.add()
    stated.key, stated.value = STATED, json.dumps(preprocessing(study), sort_keys=True)
    graph = bytes(found.SerializeToString(deterministic=True))
    if (why := fault(graph)) is not None:
        raise _unwritten(model_of, why)
    return graph


def _unwritten(model: str, why: str) -> PackageError:
    return PackageError(
        "the model cannot be written as an ONNX graph",
        where=model,
        found=why,
        remedy="report this; the operators of graphs are listed in common/package/graph.py",
    )


def whole(study: Study, model: torch.nn.Module) -> torch.nn.Module:
    """From an image in [0, 1] to readable scores, as one module."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return study.task.readable(self.model((image - study.data.mean) / study.data.std))

    return Whole()


def fault(data: bytes) -> str | None:
    """Why a graph is not one that :func:`export` makes; None where nothing is wrong.

    A graph is data, but can name files beside it, and operators of which a runtime has the code.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # noqa: BLE001 - protobuf's own errors; whatever it is, it is no graph
        return "model.onnx is no ONNX graph"
    reasons = (why for why, found in _reasons(model) if found)
    why = next(reasons, None)
    if why is None:
        try:
            # Not in full: inferring shapes of a hostile graph can crash the process, or never end.
            onnx.checker.check_model(model)
        except Exception:  # noqa: BLE001 - the checker's own errors, from C++
            why = "model.onnx is not a valid ONNX graph"
    return why


def _reasons(model: onnx.ModelProto) -> Iterator[tuple[str, bool]]:
    """What a graph must not be, and whether it is; each is looked at if none before it holds."""
    import onnx

    outside = (
        each.data_location == onnx.TensorProto.EXTERNAL or bool(each.external_data)
        for each in _tensors(model)
    )
    yield "model.onnx names a file outside the package (ONNX external data)", any(outside)
    domains = {each.domain for each in model.opset_import}
    foreign = any(domains | {each.domain for each in _nodes(model.graph)})
    extra = bool(model.functions or model.training_info)
    yield "model.onnx has operators that are not ONNX's own", foreign or extra
    unknown = sorted({each.op_type for each in _nodes(model.graph)} - OPERATORS)
    yield (
        f"model.onnx has operators of no model of ours: {', '.join(unknown)[:100]!a}",
        bool(unknown),
    )
    given = [each.name for each in model.graph.input]
    yield f"model.onnx does not take one input named {INPUT}", given != [INPUT]
    images = [each.type.tensor_type.shape.dim[0] for each in model.graph.input if _shaped(each)]
    yield "model.onnx takes a fixed number of images", not all(each.dim_param for each in images)
    made = [each.name for each in model.graph.output]
    yield f"model.onnx does not give one output named {OUTPUT}", made != [OUTPUT]


def _shaped(value: onnx.ValueInfoProto) -> bool:
    return len(value.type.tensor_type.shape.dim) > 0


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its nodes."""
    waiting = [graph]
    while waiting:
        found = waiting.pop()
        for node in found.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs
        yield found


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for each in _graphs(graph):
        yield from each.node


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a model, wherever it stands."""
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)


def _forget_sources(model: onnx.ModelProto) -> None:
    """Leave out where in which file of this machine each node came from."""
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in _graphs(model.graph):
        del graph.metadata_props[:]
        graph.doc_string = ""
        for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
            for each in part:
                each.doc_string = ""
                del each.metadata_props[:]


@contextmanager
def _silent() -> Iterator[None]:
    """Torch's exporter warns of optional packages that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
