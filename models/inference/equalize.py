"""Cross-channel equalization of an ONNX graph: like ranges, so that one 8-bit scale fits a whole tensor.

Between two convolutions a channel may be divided by any positive factor if the weights that read it are multiplied by
the same: ReLU, max-pooling, sums and concatenations preserve it (Nagel et al., *Data-Free Quantization Through Weight
Equalization and Bias Correction*, 2019, section 4.1). The graph computes the same function. Factors balance the
activations' range against the weights' (Xiao et al., *SmoothQuant*, 2023, equation 4).
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

PASSES_THROUGH = ("Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Concat", "Identity")
CONVOLUTIONS = ("Conv", "ConvTranspose")
# Share of the imbalance that moves from the activations into the weights, which have a scale per channel already.
MIGRATION = 0.75
FACTORS = (0.03, 30.0)
LEAST_RANGE = 1e-3  # of a channel that is almost always 0


Feed = Mapping[str, np.ndarray]  # a graph's inputs by name


def equalize(model: ModelProto, inputs: Iterable[Feed]) -> None:
    """Rescales the channels inside ``model``, in place, by their ranges over ``inputs``.

    Channels that reach an input or an output of the graph, or an operation that is unknown here, keep their scale.
    """
    graph = _Graph(model)
    names = graph.convolution_inputs()
    if not names:  # such as of a decoder of linear layers alone
        return
    factors = graph.factors(_channel_ranges(model, names, inputs))
    for node in graph.nodes:
        if node.op_type in (*CONVOLUTIONS, "BatchNormalization"):
            graph.rescale(node, factors)


class _Graph:
    """All channels of all tensors, numbered, and which of them must share a factor."""

    def __init__(self, model: ModelProto):
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.nodes = list(model.graph.node)
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.channels: dict[str, np.ndarray] = {}  # of a tensor B C H W: the numbers of its channels
        self.count = 0
        for value in (*graph.input, *graph.value_info, *graph.output):
            sides = value.type.tensor_type.shape.dim
            if len(sides) == 4 and value.name not in self.stored and value.name not in self.channels:
                self.channels[value.name] = np.arange(self.count, self.count + sides[1].dim_value)
                self.count += sides[1].dim_value
        self._uses = Counter(name for node in self.nodes for name in node.input)
        self.group = self._groups()
        fixed = [self._of(value.name) for value in (*model.graph.input, *model.graph.output)]
        fixed += [
            self._of(name) for node in self.nodes if self._is_opaque(node) for name in (*node.input, *node.output)
        ]
        self.fixed = np.zeros(self.count, bool)
        self.fixed[self.group[np.concatenate(fixed)]] = True

    def convolution_inputs(self) -> list[str]:
        return list(dict.fromkeys(node.input[0] for node in self.nodes if node.op_type in CONVOLUTIONS))

    def factors(self, ranges: dict[str, np.ndarray]) -> np.ndarray:
        """The divisor of each channel."""
        activations, weights = np.zeros(self.count), np.zeros(self.count)
        for name, largest in ranges.items():
            np.maximum.at(activations, self.group[self._of(name)], largest)
        for node in self.nodes:
            if node.op_type in CONVOLUTIONS and self._knows(node):
                weight = np.abs(self._array(node.input[1]))
                if node.op_type == "Conv":  # O I kh kw
                    weight = weight / np.maximum(weight.max(axis=(1, 2, 3), keepdims=True), 1e-12)
                    largest = weight.max(axis=(0, 2, 3))
                else:  # I O kh kw
                    largest = (weight / max(weight.max(), 1e-12)).max(axis=(1, 2, 3))
                np.maximum.at(weights, self.group[self._of(node.input[0])], largest)
        factors = np.ones(self.count)
        free = (activations > 0) & (weights > 0) & ~self.fixed
        factors[free] = np.maximum(activations[free], LEAST_RANGE) ** MIGRATION / weights[free] ** (1 - MIGRATION)
        for name in ranges:  # on average tensors keep their ranges
            groups = np.unique(self.group[self._of(name)])
            groups = groups[free[groups]]
            if len(groups):
                factors[groups] /= np.exp(np.log(factors[groups]).mean())
        return factors.clip(*FACTORS)[self.group]

    def rescale(self, node: NodeProto, factors: np.ndarray) -> None:
        """Multiplies a convolution's or batch norm's weights by the input's factors, divides by the output's."""
        if not self._knows(node):
            return
        read, written = factors[self._of(node.input[0])], factors[self._of(node.output[0])]
        if node.op_type == "BatchNormalization":
            weight, bias, mean = (self._array(name) for name in node.input[1:4])
            self._store(node.input[1], weight * read / written)
            self._store(node.input[2], bias / written)
            self._store(node.input[3], mean / read)
            return
        column, row = ((1, -1, 1, 1), (-1, 1, 1, 1)) if node.op_type == "Conv" else ((-1, 1, 1, 1), (1, -1, 1, 1))
        weight = self._array(node.input[1])
        self._store(node.input[1], weight * read.reshape(column) / written.reshape(row))
        if len(node.input) > 2:
            self._store(node.input[2], self._array(node.input[2]) / written)

    def _groups(self) -> np.ndarray:
        """For each channel the smallest number of those that share its factor."""
        pairs = []
        for node in self.nodes:
            if node.op_type not in PASSES_THROUGH or self._is_opaque(node):
                continue
            inputs, output = [self._of(name) for name in node.input], self._of(node.output[0])
            pairs += [(np.concatenate(inputs), output)] if node.op_type == "Concat" else [(x, output) for x in inputs]
        group, before = np.arange(self.count), None
        while before is None or (group != before).any():
            before = group.copy()
            for first, second in pairs:
                group[first] = group[second] = np.minimum(group[first], group[second])
            group = group[group]
        return group

    def _is_opaque(self, node: NodeProto) -> bool:
        """Whether the inputs and outputs of this node must keep their scale."""
        if node.op_type in PASSES_THROUGH:
            sizes = [len(self._of(name)) for name in node.input]
            count = len(self._of(node.output[0]))
            return count == 0 or (sum(sizes) != count if node.op_type == "Concat" else set(sizes) != {count})
        return not self._knows(node)

    def _knows(self, node: NodeProto) -> bool:
        """Whether this is an ungrouped convolution or a batch norm with stored weights that no other node reads."""
        if node.op_type not in (*CONVOLUTIONS, "BatchNormalization"):
            return False
        grouped = any(attribute.name == "group" and attribute.i != 1 for attribute in node.attribute)
        own = all(name in self.stored and self._uses[name] == 1 for name in node.input[1:])
        return own and not grouped and node.input[0] in self.channels and node.output[0] in self.channels

    def _of(self, name: str) -> np.ndarray:
        return self.channels.get(name, np.arange(0))

    def _array(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.stored[name]).astype(np.float64)

    def _store(self, name: str, values: np.ndarray) -> None:
        self.stored[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def _channel_ranges(model: ModelProto, names: list[str], inputs: Iterable[Feed]) -> dict[str, np.ndarray]:
    """The largest absolute value of each channel of some tensors."""
    import onnxruntime

    measured = ModelProto()
    measured.CopyFrom(model)
    graph = measured.graph
    del graph.output[:]
    graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3]), "all_but_channels"))
    for number, name in enumerate(names):
        graph.node.append(helper.make_node("Abs", [name], [f"absolute_{number}"]))
        reduced = [f"absolute_{number}", "all_but_channels"]
        graph.node.append(helper.make_node("ReduceMax", reduced, [f"range_{number}"], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(f"range_{number}", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(measured.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [session.run(None, dict(each)) for each in inputs]
    return {name: np.max([each[number] for each in found], axis=0) for number, name in enumerate(names)}
