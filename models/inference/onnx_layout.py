"""Rewrites of an ONNX graph that let 8-bit convolutions follow each other channels-last, without reordering.

They compute the same function. ONNX Runtime runs 8-bit convolutions channels-last, but has none that are transposed,
and goes back to planes at every sum whose other side came in planes.
"""

import itertools
from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def split_transposed_convolutions(model: ModelProto) -> int:
    """Replaces transposed convolutions that enlarge by their stride, in place; returns how many there were.

    Each becomes one convolution that computes the ``s x s`` pixels made of a place as channels, which are then moved to
    their places (Shi et al., *Is the deconvolution layer the same as a convolutional layer?*, 2016). A ReLU behind it
    comes before the move. Those that compute an output of the graph stay.
    """
    graph, sides = model.graph, _sides(model)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    readers = {node.input[0]: node for node in graph.node if node.op_type == "Relu"}
    count = 0
    for node in [node for node in graph.node if node.op_type == "ConvTranspose"]:
        relu = readers.get(node.output[0])
        if relu is not None and sum(node.output[0] in each.input for each in graph.node) > 1:
            relu = None
        name, kept = node.output[0], (relu or node).output[0]
        weights = None if kept in outputs or name in outputs else _as_convolution(node, stored, sides)
        if weights is None:
            continue
        weight, bias, stride, pads = weights
        height, width = sides[node.input[0]][2:]
        channels = len(weight) // stride**2
        graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}_weight"))
        graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), f"{name}_bias"))
        inputs = [node.input[0], f"{name}_weight", f"{name}_bias"]
        new = [helper.make_node("Conv", inputs, [f"{name}_conv"], name=f"{name}_conv", pads=pads)]
        if relu is not None:
            new.append(helper.make_node("Relu", [f"{name}_conv"], [f"{name}_relu"], name=f"{name}_relu"))
        moved: list[tuple[str, tuple[int, ...]]] = [
            ("Transpose", TO_LAST),
            ("Reshape", (height, width, stride, stride * channels)),
            ("Transpose", (0, 2, 1, 3)),
            ("Reshape", (1, height * stride, width * stride, channels)),
            ("Transpose", TO_FIRST),
        ]
        new += _chain(graph, new[-1].output[0], kept, moved)
        _replace(graph, [node, *([relu] if relu is not None else [])], new)
        count += 1
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)  # else ONNX Runtime warns of it
    return count


def enter_channels_last(model: ModelProto, made_before: Collection[str], stay: Collection[str]) -> None:
    """Lets those of the tensors ``made_before`` that nodes outside of ``stay`` read be written channels-last once."""
    graph, sides = model.graph, _sides(model)
    for name in sorted(made_before):
        readers = [node for node in graph.node if name in node.input and node.name not in stay]
        shape = sides.get(name, ())
        if not any(node.op_type == "Conv" for node in readers) or len(shape) != 4 or shape[0] != 1:
            continue
        written = f"{name}_last"
        # What is a transposition by name would be moved behind the sums again.
        new = [
            helper.make_node("Einsum", [name], [f"{written}_here"], name=f"{written}_einsum", equation="bchw->bhwc"),
            helper.make_node("Transpose", [f"{written}_here"], [written], name=f"{written}_transpose", perm=TO_FIRST),
        ]
        for node in readers:
            node.input[:] = [written if each == name else each for each in node.input]
        at = min(place for place, node in enumerate(graph.node) if node in readers)
        nodes = list(graph.node)
        del graph.node[:]
        graph.node.extend([*nodes[:at], *new, *nodes[at:]])


def _as_convolution(
    node: NodeProto, stored: dict[str, onnx.TensorProto], sides: dict[str, tuple[int, ...]]
) -> tuple[np.ndarray, np.ndarray, int, list[int]] | None:
    """Weights ``s s O I kh kw`` as ``s*s*O I kh kw``, bias, stride and padding; ``None`` where it has no such form."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if any(name not in stored for name in node.input[1:]) or len(sides.get(node.input[0], ())) != 4:
        return None
    weight = numpy_helper.to_array(stored[node.input[1]]).astype(np.float64)  # I O kh kw
    stride = given.get("strides", [1, 1])
    pads, extra = given.get("pads", [0] * 4), given.get("output_padding", [0, 0])
    kernel = weight.shape[2:]
    plain = given.get("group", 1) == 1 and set(given.get("dilations", [1])) == {1} and "output_shape" not in given
    plain = plain and given.get("auto_pad", b"NOTSET") == b"NOTSET" and sides[node.input[0]][0] == 1
    fits = all(kernel[d] + extra[d] - pads[d] - pads[d + 2] == stride[d] for d in (0, 1))
    if not plain or not fits or len(set(stride)) > 1 or stride[0] < 2:
        return None
    s, taps = stride[0], [_taps(kernel[d], stride[d], pads[d]) for d in (0, 1)]
    low = [min(offset for _, _, offset in taps[d]) for d in (0, 1)]
    high = [max(offset for _, _, offset in taps[d]) for d in (0, 1)]
    low, high = [min(each, 0) for each in low], [max(each, 0) for each in high]
    made, read = weight.shape[1], weight.shape[0]
    split = np.zeros((s, s, made, read, high[0] - low[0] + 1, high[1] - low[1] + 1))
    for (row, tap_y, down), (column, tap_x, right) in itertools.product(*taps):
        split[row, column, :, :, down - low[0], right - low[1]] = weight[:, :, tap_y, tap_x].T
    bias = numpy_helper.to_array(stored[node.input[2]]) if len(node.input) > 2 else np.zeros(made)
    padding = [-low[0], -low[1], high[0], high[1]]
    return split.reshape(-1, *split.shape[3:]), np.tile(bias, s * s), s, padding


def _taps(kernel: int, stride: int, pad: int) -> list[tuple[int, int, int]]:
    """For each place among ``stride``: the tap of the kernel that reaches it, and from which input beside its own."""
    found = []
    for place, tap in itertools.product(range(stride), range(kernel)):
        offset, rest = divmod(place + pad - tap, stride)
        if rest == 0:
            found.append((place, tap, offset))
    return found


def _chain(
    graph: onnx.GraphProto, read: str, written: str, steps: Sequence[tuple[str, tuple[int, ...]]]
) -> list[NodeProto]:
    """Transpositions and reshapes, one behind the other."""
    nodes = []
    for number, (kind, numbers) in enumerate(steps):
        to = written if number == len(steps) - 1 else f"{written}_to_{kind}_{number}"
        name = f"{written}_by_{kind}_{number}"
        if kind == "Transpose":
            nodes.append(helper.make_node(kind, [read], [to], name=name, perm=numbers))
        else:
            graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), f"{name}_shape"))
            nodes.append(helper.make_node(kind, [read, f"{name}_shape"], [to], name=name))
        read = to
    return nodes


def _replace(graph: onnx.GraphProto, old: list[NodeProto], new: list[NodeProto]) -> None:
    """Puts nodes in the place of the first of some others; nodes are known by what they write."""
    gone = {node.output[0] for node in old}
    kept: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] == old[0].output[0]:
            kept += new
        elif node.output[0] not in gone:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _sides(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in between, inputs and outputs included."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
