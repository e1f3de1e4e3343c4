"""The nodes of an autograd graph by what they compute, from PyTorch's names for them; modules and classes do not matter."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

#: A node of the graph, and one of its outputs: the tensor that an operation made.
Node = Any
Edge = tuple[Node, int]

_NAME = re.compile(r"(?:torch::autograd::)?(.*?)(?:Backwards?\d*)?")

#: Operations that move numbers, or leave some of them out.
MOVES = frozenset({
    "Alias", "AsStrided", "Chunk", "Clone", "ConstantPadNd", "Copy", "Diagonal", "Expand", "Flip", "Gather", "Index",
    "IndexSelect", "LiftFresh", "MaskedFill", "MaskedSelect", "NativeDropout", "Narrow", "Permute", "Repeat",
    "RepeatInterleave", "ReshapeAlias", "Roll", "Select", "SelectScatter", "Slice", "SliceScatter", "Split",
    "SplitWithSizes", "Squeeze", "Sort", "T", "ToCopy", "Topk", "Transpose", "Tril", "Triu", "Unbind", "Unfold",
    "UnsafeSplit", "UnsafeView", "Unsqueeze", "View", "ViewAsComplex", "ViewAsReal", "Where",
})  # fmt: skip

#: Operations that add numbers up. Together with those above they are linear in all of their inputs.
SUMS = frozenset({
    "Add", "AvgPool1D", "AvgPool2D", "Cat", "Col2Im", "Cumsum", "FftC2C", "FftC2R", "FftR2C", "Im2Col", "IndexAdd", "IndexCopy", "IndexPut",
    "Mean", "Neg", "Real", "Rsub", "Scatter", "ScatterAdd", "Stack", "Sub", "Sum", "Trace",
})  # fmt: skip

#: Functions with f(c x) = c f(x) for c > 0, so that f(x) / x is their gradient.
HOMOGENEOUS = frozenset({
    "Abs", "Amax", "LeakyRelu", "Max", "MaxPool1D", "MaxPool2DWithIndices", "Maximum", "Minimum", "PreluKernel", "Relu",
})  # fmt: skip

#: The start of the graph: the tensors that gradients are taken for.
LEAF = "AccumulateGrad"

LINEAR = MOVES | SUMS | HOMOGENEOUS | {LEAF}

#: Products, with the two inputs that are factors. They are linear where only one factor needs a gradient.
PRODUCTS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("Bmm", "Dot", "GroupedMm", "Matmul", "Mm", "Mul", "Mv", "Vdot"), (0, 1)),
    **dict.fromkeys(("Convolution", "Linear", "MkldnnLinear"), (0, 1)),
    **dict.fromkeys(("Addbmm", "Addcmul", "Addmm", "Addmv", "Baddbmm"), (1, 2)),
}

#: Functions of single numbers, besides the homogeneous ones.
ELEMENTWISE = frozenset({
    "Atan", "Celu", "Clamp", "ClampMax", "ClampMin", "Cos", "Elu", "Erf", "Exp", "Expm1", "Gelu", "Hardsigmoid",
    "Hardswish", "Hardtanh", "Log", "Log1P", "LogSigmoid", "Mish", "Pow", "Reciprocal", "Rsqrt", "Sigmoid", "Silu",
    "Sin", "Softplus", "Sqrt", "Tanh", "Threshold",
})  # fmt: skip

SOFTMAX = frozenset({"Softmax", "SafeSoftmax"})

#: Attention as one operation of query, key and value, and of a fourth input that is added to their products, if any.
#: All but the first occur only on other devices than a CPU.
ATTENTION = frozenset({
    "ScaledDotProductFlashAttentionForCpu", "ScaledDotProductFlashAttention", "ScaledDotProductEfficientAttention",
    "ScaledDotProductCudnnAttention", "ScaledDotProductFusedAttentionOverrideable",
})  # fmt: skip

#: LayerNorm and RMSNorm as one operation; the second occurs only on a GPU.
NORMS = frozenset({"NativeLayerNorm", "FusedRmsNorm"})


def operation(node: Node) -> str:
    """The operation of a node: "Mul" for `MulBackward0`."""
    match = _NAME.fullmatch(node.name())
    return match.group(1) if match else str(node.name())


def live(node: Node) -> list[int]:
    """The inputs of a node that need a gradient."""
    return [place for place, (before, _) in enumerate(node.next_functions) if before is not None]


def scaled(node: Node, name: str) -> int | None:
    """The only input of which a node is a multiple, number by number; None for other operations."""
    places = live(node)
    if name in ("Mul", "Neg", "ToCopy", "Clone", "Alias") and len(places) == 1:
        return places[0]
    return 0 if name == "Div" and places == [0] else None


class Origins:
    """The tensors of which others are functions, number by number; searched once for each tensor of one graph."""

    def __init__(self) -> None:
        self._of: dict[Edge, dict[Edge, bool]] = {}

    def of(self, edge: Edge) -> dict[Edge, bool]:
        """The tensors of which an edge is a function, number by number, nearest first, and whether it is a multiple of each."""
        if edge not in self._of:
            self._of[edge] = {edge: True} | self._further(edge[0])
        return self._of[edge]

    def common(self, a: Edge, b: Edge) -> Edge | None:
        """The nearest tensor of which both are functions."""
        of_b = self.of(b)
        return next((edge for edge in self.of(a) if edge in of_b), None)

    def _further(self, node: Node) -> dict[Edge, bool]:
        name, edges = operation(node), node.next_functions
        if (place := scaled(node, name)) is not None:
            return self.of(edges[place])
        places = live(node)
        if len(places) == 1 and name in (ELEMENTWISE | HOMOGENEOUS | {"Add", "Sub", "Rsub", "Div"}):
            return dict.fromkeys(self.of(edges[places[0]]), False)
        if len(places) == 2 and name in ("Add", "Sub", "Mul", "Div"):
            a, b = (self.of(edges[place]) for place in places)
            sums = name in ("Add", "Sub")
            return {edge: sums and a[edge] and b[edge] for edge in a if edge in b}
        return {}


def normalised_by(edge: Edge) -> Edge | None:
    """The tensor whose standard deviation or root mean square, or its reciprocal, an edge is; None for other edges."""
    node, _ = _source(edge, MOVES | {"Add", "ClampMin", "Clamp", "Mul", "Div"})
    name = operation(node)
    inputs = node.next_functions
    if name in ("Std", "LinalgVectorNorm", "Norm"):
        return centred(inputs[0])
    if name == "Reciprocal":
        return normalised_by(inputs[0])
    if name in ("Rsqrt", "Sqrt") or (name == "Pow" and _exponent(node) in (0.5, -0.5)):
        return _mean_square(inputs[0])
    return None


def _mean_square(edge: Edge) -> Edge | None:
    node, _ = _source(edge, MOVES | {"Add", "ClampMin", "Clamp", "Mul", "Div"})
    name = operation(node)
    if name == "Var":
        return centred(node.next_functions[0])
    if name not in ("Mean", "Sum"):
        return None
    square, _ = _source(node.next_functions[0], MOVES)
    inputs = square.next_functions
    if operation(square) == "Pow" and _exponent(square) == 2:
        return centred(inputs[0])
    if operation(square) == "Mul" and len(inputs) == 2 and inputs[0] == inputs[1]:
        return centred(inputs[0])
    return None


def _exponent(power: Node) -> float | None:
    """The exponent of a power, where it is one number."""
    value = power._saved_exponent
    return None if isinstance(value, Tensor) and value.numel() != 1 else float(value)


def centred(edge: Edge) -> Edge:
    """The tensor itself where an edge is that tensor minus its own mean, in another type or not."""
    edge = _source(edge, frozenset({"ToCopy", "Clone", "Alias"}))
    node = edge[0]
    if operation(node) == "Sub" and len(live(node)) == 2:
        whole, mean = node.next_functions
        averaged, _ = _source(mean, MOVES)
        if operation(averaged) == "Mean":
            whole = _source(whole, frozenset({"ToCopy", "Clone", "Alias"}))
            if centred(averaged.next_functions[0]) == whole:
                return whole
    return edge


def _source(edge: Edge, through: frozenset[str]) -> Edge:
    """The origin of an edge, back through operations with one input that needs a gradient."""
    while operation(edge[0]) in through and len(places := live(edge[0])) == 1:
        edge = edge[0].next_functions[places[0]]
    return edge


def backwards(edge: Edge) -> Iterator[Edge]:
    """The edge, and the tensors of which it is a part, a multiple or a rearrangement, nearest first."""
    while True:
        yield edge
        node = edge[0]
        places, name = live(node), operation(node)
        if len(places) != 1 or not (name in MOVES or scaled(node, name) is not None):
            return
        edge = node.next_functions[places[0]]
