"""Write the scales of an ONNX graph's resizes down, so that nobody computes their sizes at every frame."""

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray


def fix_scales(model: onnx.ModelProto, example: NDArray[np.float32]) -> None:
    """Give every Resize to a whole multiple of its size the multiple as a constant, in place; nodes that nobody reads leave.

    example: (frame, channel, height, width), an input of the height and width that the graph is for. What torch writes
    computes the sizes from shapes, and onnxruntime has a faster kernel where the scales are known: at 80x160 pixels
    EfficientNet-Lite0 takes 3.6 instead of 3.7 ms, and what pruning leaves of it 1.4 instead of 1.6. The outputs stay as
    they are but for rounding.
    """
    resizes = [node for node in model.graph.node if node.op_type == "Resize" and len(node.input) == 4]
    if not resizes:
        return
    shapes = _shapes(model, [name for node in resizes for name in (node.input[0], node.output[0])], example)
    for node in resizes:
        given, made = shapes[node.input[0]], shapes[node.output[0]]
        if (made % given == 0).all():
            scales = onnx.numpy_helper.from_array((made / given).astype(np.float32), f"{node.output[0]}_scales")
            model.graph.initializer.append(scales)
            del node.input[2:]
            node.input.append(scales.name)
    _drop_unread(model.graph)


def _shapes(model: onnx.ModelProto, names: list[str], example: NDArray[np.float32]) -> dict[str, NDArray[np.int64]]:
    """Run a copy of the model that gives the named tensors too, and return their shapes."""
    told = onnx.ModelProto()
    told.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in outputs)
    session = onnxruntime.InferenceSession(told.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(names, {model.graph.input[0].name: example})
    return {name: np.array(value.shape) for name, value in zip(names, found, strict=True)}


def _drop_unread(graph: onnx.GraphProto) -> None:
    kept: list[onnx.NodeProto] = []
    read = {output.name for output in graph.output}
    for node in reversed(graph.node):  # readers come after what they read
        if read.intersection(node.output):
            kept.append(node)
            read |= _reads(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _reads(node: onnx.NodeProto) -> set[str]:
    """Name what a node reads, in the branches of a condition or a loop too."""
    inner = [each for part in node.attribute if part.HasField("g") for each in part.g.node]
    return set(node.input).union(*map(_reads, inner))
