"""Applies a rule at each node of a graph, from the outputs back along everything that relevance passes through."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from saliency_bench.attribution.backward import graph, hooks
from saliency_bench.attribution.backward.graph import Edge, Node, Origins, live, operation
from saliency_bench.attribution.backward.rules import (
    KEY,
    NONLINEARITY,
    NORM,
    PLAIN,
    PRODUCT,
    SOFTMAX,
    Rule,
)
from saliency_bench.core.errors import InputError

#: The key of the input of a tanh in the metadata of its node, which keeps only the output.
_INPUT = "saliency_bench: input"
_TANH = (torch.tanh, Tensor.tanh, functional.tanh)

Function = Callable[[Tensor], Tensor]


class _Notes(TorchFunctionMode):
    """Records the input of every tanh at its node. The function is called without a change."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function with the same arguments."""
        result = func(*args, **(kwargs or {}))
        if func in _TANH and result.grad_fn is not None:
            x = args[0] if args else next(iter(kwargs.values()))
            result.grad_fn.metadata[_INPUT] = x, x._version
        return result


@contextmanager
def noted_inputs() -> Iterator[None]:
    """While open, this thread's graphs keep the inputs that `change_backward` needs and autograd does not keep."""
    with _Notes():
        yield


def change_backward(
    outputs: Tensor, rule: Rule, name: str, without: Collection[str] = ()
) -> Counter[str]:
    """Puts a rule on the graph of some outputs, which was recorded inside `noted_inputs`.

    Args:
        outputs: the tensor whose gradient will be taken.
        rule: the rule for the backward pass.
        name: of the model, for messages.
        without: parts at which the gradient is not changed, to measure their effect.

    Returns:
        The number of places of each part at which the rule changes the gradient.

    Raises:
        InputError: there is an operation that the rule does not cover.
    """
    changed = changed_nodes(outputs, rule, name, without)
    return sum((parts for _, parts in changed), Counter[str]())


def changed_nodes(
    outputs: Tensor, rule: Rule, name: str, without: Collection[str] = ()
) -> list[tuple[Node, Counter[str]]]:
    """Puts a rule on a graph like `change_backward`; returns the changed nodes, with the number of each part at it."""
    surgery = _Surgery(rule, name, without)
    changed: list[tuple[Node, Counter[str]]] = []
    waiting: list[Node] = [outputs.grad_fn]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        surgery.parts = Counter()
        waiting += [node.next_functions[place][0] for place in surgery.visit(node)]
        if surgery.parts:
            changed.append((node, surgery.parts))
    if not any(operation(node) == graph.LEAF for node in seen):
        raise surgery.refused(
            "on every path to the words there is a part that it takes as a constant"
        )
    return changed


class _Surgery:
    """One rule on one graph. `visit` hooks a node and returns the inputs that relevance is passed to.

    `parts` counts the parts at the last node, if the caller clears it before each visit.
    """

    def __init__(self, rule: Rule, name: str, without: Collection[str]) -> None:
        self.rule, self.name, self.without = rule, name, without
        self.parts: Counter[str] = Counter()
        self.origins = Origins()

    def visit(self, node: Node) -> list[int]:
        """Hooks a node; returns its inputs that relevance is passed to."""
        name = operation(node)
        if name in graph.LINEAR:
            return live(node)
        if name in graph.PRODUCTS:
            return self._product(node, name)
        if name == "Div":
            return self._quotient(node)
        if name in graph.NORMS:
            self._change(NORM, partial(hooks.constant_deviation, node))
            return [0]
        if name in graph.SOFTMAX:
            return self._softmax(node)
        if name in graph.ATTENTION:
            return self._attention(node)
        if name in graph.ELEMENTWISE:
            return self._elementwise(node, name)
        raise self.refused(f"{name} is no operation that the rule knows")

    def _change(self, part: str, hook: Callable[[], None]) -> None:
        self.parts[part] += 1
        if part not in self.without:
            hook()

    def _cut(self, part: str, node: Node, *places: int) -> list[int]:
        """Takes some inputs as constants."""
        self._change(part, partial(hooks.multiply, node, dict.fromkeys(places, 0.0)))
        return [place for place in live(node) if place not in places]

    def _product(self, node: Node, name: str) -> list[int]:
        factors, edges = graph.PRODUCTS[name], node.next_functions
        if len(edges) <= factors[1] or not {*factors} <= {*live(node)}:
            return live(node)  # a product with a constant
        a, b = (edges[place] for place in factors)
        if name == "Mul":
            for x, deviation in ((0, 1), (1, 0)):
                source = graph.normalised_by(edges[deviation])
                if source is not None and graph.centred(edges[x]) == source:
                    return self._cut(NORM, node, deviation)
            if common := self.origins.common(a, b):
                return self._composite(node, common)
        if self.rule.product == "half":
            self._change(PRODUCT, partial(hooks.multiply, node, dict.fromkeys(factors, 0.5)))
            return live(node)
        gates = [(place, part) for place in factors if (part := self._made_by(edges[place]))]
        if len(gates) != 1:
            raise self.refused(
                f"{name} multiplies two activations, and {'both are' if gates else 'neither is'} a gate that a "
                "nonlinearity or a softmax made"
            )
        ((gate, part),) = gates
        return self._cut(part, node, gate)

    def _made_by(self, edge: Edge) -> str | None:
        """The part that made a factor, back through operations that only move or scale it; None where it is no part."""
        node, _ = [*graph.backwards(edge)][-1]
        name = operation(node)
        if name in graph.SOFTMAX:
            return SOFTMAX
        if name in graph.ELEMENTWISE | graph.HOMOGENEOUS:
            return PRODUCT
        composite = name == "Mul" and len(live(node)) == 2
        return PRODUCT if composite and self.origins.common(*node.next_functions) else None

    def _quotient(self, node: Node) -> list[int]:
        places, edges = live(node), node.next_functions
        if places == [0]:
            return places
        if places == [0, 1]:
            source = graph.normalised_by(edges[1])
            if source is not None and graph.centred(edges[0]) == source:
                return self._cut(NORM, node, 1)
            if common := self.origins.common(*edges):
                return self._composite(node, common)
        raise self.refused("it divides by an activation that is no deviation of what is divided")

    def _composite(self, node: Node, common: Edge) -> list[int]:
        """Handles a function of one tensor that is a product of two: for f(x) = x φ(x), f(x) / x is φ(x), a constant."""
        if self.rule.nonlinearity is None:
            return live(node)
        for factor, rest in ((0, 1), (1, 0)):
            if operation(node) == "Div" and factor:
                break
            if self.origins.of(node.next_functions[factor])[common]:
                return self._cut(NONLINEARITY, node, rest)
        raise self.refused("it multiplies two functions of one tensor, neither a multiple of it")

    def _softmax(self, node: Node) -> list[int]:
        if self.rule.softmax == "constant":
            return self._cut(SOFTMAX, node, 0)
        if self.rule.softmax == "tempered":
            self._change(SOFTMAX, partial(hooks.tempered_softmax, node))
        return [0]

    def _attention(self, node: Node) -> list[int]:
        """Handles two products with a softmax between them, as one operation."""
        places = live(node)
        scores = [place for place in places if place != 2]
        if self.rule.softmax == "constant" and scores:
            return self._cut(SOFTMAX, node, *scores)
        of_values = 0.5 if scores and 2 in places else 1.0
        of_scores = of_values * (0.5 if {0, 1} <= {*places} else 1.0)
        if PRODUCT in self.without:
            of_values = of_scores = 1.0
        factors = {0: of_scores, 1: of_scores, 2: of_values, 3: of_values}
        if products := (of_values != 1) + (of_scores != of_values):
            self.parts[PRODUCT] += products
        if self.rule.softmax == "tempered" and scores:
            self.parts[SOFTMAX] += 1
            if SOFTMAX not in self.without:
                if 3 in places:
                    raise self.refused("it adds an activation to the products of query and key")
                hooks.tempered_attention(node, of_scores, of_values)
                return places
        hooks.multiply(node, factors)
        return places

    def _elementwise(self, node: Node, name: str) -> list[int]:
        if self.rule.nonlinearity is None:
            return live(node)
        if live(node) != [0]:
            raise self.refused(f"{name} is a function of more than one activation")
        not_zero = self.refused(f"{name} is not 0 at 0, so that f(x) / x has no limit there")
        if name in NOT_ZERO:
            raise not_zero
        function, x = self._function(node, name)
        if name in WITH_NUMBERS and function(x.new_zeros(())).any():
            raise not_zero
        if name in CLAMPS and torch.equal(function(x.detach()), x):
            return [0]  # no number is outside the bounds: the identity, which is no part
        self._change(NONLINEARITY, partial(hooks.ratio, node, function, x))
        return [0]

    def _function(self, node: Node, name: str) -> tuple[Function, Tensor]:
        """The function that a node has computed, and its input."""
        if name == "Tanh":
            x, version = node.metadata.get(_INPUT, (None, 0))
            if x is None or x._version != version:
                raise self.refused(
                    "the input of a tanh was not kept: it is applied in place, or not by PyTorch's own"
                )
            return torch.tanh, x
        if name not in FUNCTIONS:
            raise self.refused(f"{name} is no nonlinearity that the rule knows")
        x = getattr(node, "_saved_self", None)
        if not isinstance(x, Tensor):
            raise self.refused(
                f"the input of {name} was not kept: it is applied in place, or is an exponent"
            )
        return FUNCTIONS[name](node), x

    def refused(self, reason: str) -> InputError:
        """The error about an operation that the rule does not cover."""
        return InputError(
            f"{KEY}={self.rule.name}: {self.name} cannot be explained by this rule: {reason}. Use {KEY}={PLAIN}."
        )


#: Functions that are not 0 at 0.
NOT_ZERO = frozenset({"Cos", "Exp", "Hardsigmoid", "LogSigmoid", "Sigmoid", "Softplus"})

#: Functions that are the identity between their bounds and on them, with a gradient of 1.
CLAMPS = frozenset({"Clamp", "ClampMax", "ClampMin"})

#: Functions whose numbers decide whether they are 0 at 0.
WITH_NUMBERS = CLAMPS | {"Hardtanh", "Pow"}

#: The functions whose nodes keep what they were applied to, by operation.
FUNCTIONS: Mapping[str, Callable[[Node], Function]] = {
    "Atan": lambda node: torch.atan,
    "Celu": lambda node: partial(functional.celu, alpha=node._saved_alpha),
    "Clamp": lambda node: partial(torch.clamp, min=node._saved_min, max=node._saved_max),
    "ClampMax": lambda node: partial(torch.clamp, max=node._saved_max),
    "ClampMin": lambda node: partial(torch.clamp, min=node._saved_min),
    "Elu": lambda node: partial(
        torch.ops.aten.elu,
        alpha=node._saved_alpha,
        scale=node._saved_scale,
        input_scale=node._saved_input_scale,
    ),
    "Erf": lambda node: torch.erf,
    "Expm1": lambda node: torch.expm1,
    "Gelu": lambda node: partial(functional.gelu, approximate=node._saved_approximate),
    "Hardswish": lambda node: functional.hardswish,
    "Hardtanh": lambda node: partial(
        functional.hardtanh, min_val=node._saved_min_val, max_val=node._saved_max_val
    ),
    "Log1P": lambda node: torch.log1p,
    "Mish": lambda node: functional.mish,
    "Pow": lambda node: partial(torch.pow, exponent=node._saved_exponent),
    "Silu": lambda node: functional.silu,
    "Sin": lambda node: torch.sin,
}
