"""Backward rules on every kind of node: of half precision, of other functions, and of kernels that a CPU never makes."""

import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import FrameTokenizer, tiny_bert, token_inputs
from tiny_families import FAMILIES, build, scrambled, t5_encoder
from torch.nn import functional

import saliency_bench as sb
from saliency_bench.attribution.backward import RULES, graph, hooks
from saliency_bench.attribution.backward.parts import (
    FUNCTIONS,
    NOT_ZERO,
    _Surgery,
    change_backward,
    noted_inputs,
)
from saliency_bench.core.errors import InputError

HALVES = (torch.bfloat16, torch.float16)
(ITEM,) = token_inputs(5)
IDS = torch.tensor([ITEM["input_ids"]])


# -- half precision -----------------------------------------------------------------------------------------------


def gradient_of(module, rule):
    """The gradient of the first logit at the word embeddings [T D], these, and the parts that were found."""
    model = sb.wrap_model(module, FrameTokenizer(), labels=("a", "b", "c"))
    with model.frozen(), torch.enable_grad(), noted_inputs():
        points = model.embed(IDS).requires_grad_()
        logits = model.output(IDS, None, None, points)
    parts = change_backward(logits, RULES[rule], "test")
    (gradient,) = torch.autograd.grad(logits[0, 0], points)
    return gradient[0], points.detach()[0], parts


def family(name):
    return t5_encoder() if name == "t5 encoder" else build(name)


@pytest.mark.parametrize("name", [*FAMILIES, "t5 encoder"])
def test_in_half_precision_a_rule_finds_the_same_parts(name):
    """T5 clamps its states in float16 alone, far outside of them: no part more."""
    for rule in RULES:
        _, _, expected = gradient_of(family(name).float(), rule)
        for dtype in HALVES:
            gradient, _, found = gradient_of(family(name).to(dtype), rule)
            assert gradient.dtype == dtype and gradient.isfinite().all()
            assert found == expected


def longest(node, known):
    """How many operations follow each other from a node back to a leaf."""
    if node not in known:
        known[node] = 1 + max((longest(n, known) for n, _ in node.next_functions if n), default=0)
    return known[node]


def conservation(dtype):
    """Σ R - F(x) under CP-LRP of a BERT without biases, and the most that rounding makes of it.

    Each operation rounds its result and its gradient once, by at most u relative to itself. So each moves Σ R by at
    most 2 u times the relevance, as magnitudes, that passes through it.
    """
    module = scrambled(tiny_bert(), seed=2).to(dtype)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith(".bias"):
                weight.zero_()
    model = sb.wrap_model(module, FrameTokenizer(), labels=("a", "b", "c"))
    passed = []

    def note(held, gradient):
        if gradient is not None:  # queries and keys have none
            passed.append(float((gradient.double() * held).abs().sum()))

    def watch(_module, _inputs, output):
        if isinstance(output, torch.Tensor) and output.requires_grad:
            held = output.detach().double()
            output.register_hook(partial(note, held))

    handles = [one.register_forward_hook(watch) for one in module.modules()]
    with model.frozen(), torch.enable_grad(), noted_inputs():
        points = model.embed(IDS).requires_grad_()
        logits = model.output(IDS, None, None, points)
    for handle in handles:
        handle.remove()
    change_backward(logits, RULES["cp_lrp"], "test")
    depth = longest(logits.grad_fn, {})
    (gradient,) = torch.autograd.grad(logits[0, 0], points)
    table = module.bert.embeddings
    others = table.position_embeddings.weight[:5] + table.token_type_embeddings.weight[0]
    relevance = gradient[0].double() * (points[0] + others).detach().double()
    gap = float(relevance.sum() - logits[0, 0].detach().double())
    return gap, 2 * depth * torch.finfo(dtype).eps / 2 * max(passed)


@pytest.mark.parametrize("dtype", HALVES)
def test_in_half_precision_cp_lrp_conserves_up_to_rounding(dtype, monkeypatch):
    gap, bound = conservation(dtype)
    assert abs(gap) <= bound
    monkeypatch.setattr(hooks, "ratio", lambda node, function, x: None)
    monkeypatch.setattr(hooks, "constant_deviation", lambda node: None)
    broken, bound = conservation(dtype)
    if dtype == torch.float16:  # eight times finer than bfloat16, whose bound lets this pass
        assert abs(broken) > bound


@pytest.mark.parametrize("dtype", HALVES)
def test_a_quotient_is_rounded_once(dtype):
    """f(x) / x of a half number, in float64, rounded to half."""
    x = torch.linspace(-3, 3, 101, dtype=dtype)[:, None].requires_grad_()
    for function in (functional.gelu, functional.silu, torch.tanh):
        with noted_inputs():
            y = function(x)
        change_backward(y, RULES["attnlrp"], "test")
        (found,) = torch.autograd.grad(y.sum(), x)
        wide = x.detach().double()
        exact = torch.where(wide == 0, found.double(), function(wide) / wide)
        # Half an unit in the last place, and what float32 makes of the function before.
        spacing = torch.finfo(dtype).eps / 2 * exact.abs() * 1.001 + torch.finfo(dtype).tiny
        assert ((found.double() - exact).abs() <= spacing).all()


# -- functions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (functional.elu, None),
        (functional.selu, None),
        (functional.celu, None),
        (functional.relu6, None),
        (lambda x: x.clamp(-0.5, 0.5), None),
        (lambda x: x.clamp(torch.tensor(-0.5), torch.tensor(0.5)), None),
        (lambda x: torch.clamp_min(x, -0.5), None),
        (lambda x: torch.clamp_max(x, 0.5), None),
        (lambda x: x**3, None),
        (functional.softsign, None),
        (lambda x: functional.silu(x * 1, inplace=True), None),
        (lambda x: x.clamp(min=0.5), "Clamp is not 0 at 0"),
        (lambda x: functional.hardtanh(x, 1, 2), "Hardtanh is not 0 at 0"),
        (lambda x: x ** -1, "Reciprocal|Pow is not 0 at 0"),
        (lambda x: 2.0**x, "the input of Pow was not kept"),
        (lambda x: x.abs() ** x, "Pow is a function of more than one activation"),
        (lambda x: functional.elu(x * 1, inplace=True), "the input of Elu was not kept"),
        (functional.glu, "Glu is no operation that the rule knows"),
        (lambda x: functional.threshold(x, 0.1, 0.0), "Threshold is no nonlinearity that the rule"),
        (torch.asinh, "Asinh is no operation that the rule knows"),
        (lambda x: torch._masked_softmax(x, x > 9, -1), "MaskedSoftmax is no operation"),
    ],
)  # fmt: skip
def test_a_function_has_its_quotient_or_is_refused_by_name(function, said):
    x = torch.tensor([[-0.9, -0.3, 0.2, 0.8]], dtype=torch.float64, requires_grad=True)
    with noted_inputs():
        y = function(x)
    if said:
        with pytest.raises(InputError, match=said):
            change_backward(y, RULES["attnlrp"], "test")
        return
    change_backward(y, RULES["attnlrp"], "test")
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, (function(x) / x).detach(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("limit", [0.8, 0.9, math.inf])
def test_a_clamp_is_a_part_where_it_cuts_something_off(limit):
    x = torch.tensor([[-0.9, -0.3, 0.2, 0.8]], dtype=torch.float64, requires_grad=True)
    y = x.clamp(-limit, limit)
    parts = change_backward(y, RULES["attnlrp"], "test")
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert dict(parts) == ({"nonlinearity": 1} if limit < 0.9 else {})
    torch.testing.assert_close(gradient, (y / x).detach(), rtol=1e-14, atol=0)


# -- every node of this PyTorch -----------------------------------------------------------------------------------

HEADER = Path(torch.__file__).parent / "include/torch/csrc/autograd/generated/Functions.h"
#: Nodes that compute a normalisation, a softmax, attention, a product or an activation function, and are refused by name.
#: Attention of ragged tensors has another layout; BatchNorm and GroupNorm are no part of the models that rules are for.
REFUSED = {
    "CudnnAttention", "EfficientAttention", "FlashAttention",
    "BatchNorm", "BatchNormNoUpdate", "BatchNormWithUpdate", "CudnnBatchNorm", "MiopenBatchNorm", "NativeBatchNorm",
    "NativeBatchNormLegit", "NativeBatchNormLegitNoTraining", "NativeGroupNorm", "Renorm", "WeightNormInterface",
    "LogSoftmax", "MaskedSoftmax", "SparseLogSoftmax", "SparseSoftmax",
    "SparseAddmm", "SparseSampledAddmm", "SparseSparseMatmul", "Trilinear",
    "Glu", "Hardshrink", "Softshrink", "RreluWithNoise", "RreluWithNoiseFunctional",
    "Asinh", "Atanh", "Acosh", "Sinh", "Cosh", "Tan", "Asin", "Acos",
}  # fmt: skip
#: They are read where a normalisation is looked for, and are refused elsewhere.
READ = {"LinalgVectorNorm", "Norm", "Std", "Var", "StdMean", "VarMean"}
_PART = re.compile(
    r"Attention|Norm$|Norm[A-Z](?!l)|Softmax|[mM]m$|[mM]v$|bmm$|Matmul|^Mul$|^V?dot$|Dot$|Linear$|^Trilinear$|[eE]lu|swish$|"
    r"^Mish$|^(Log)?Sigmoid$|Hardsigmoid|[tT]anh$|^Erf$|shrink$|^Glu$|sinh$|cosh$|^A?(sin|cos|tan)$|^Softplus$|^Addcmul$"
)


def test_every_node_that_computes_a_part_is_known_or_listed_as_refused():
    if not HEADER.exists():
        pytest.skip("this PyTorch was installed without its headers")
    structs = re.findall(r"struct TORCH_API (\w+?)(?:Backward\d*)? :", HEADER.read_text())
    names = {one for one in structs if "Backward" not in one and not one.startswith("Foreach")}
    assert names >= graph.ATTENTION | graph.NORMS | graph.SOFTMAX
    parts = {one for one in names if _PART.search(one)} - {"LogNormal"}
    handled = (
        graph.ATTENTION | graph.NORMS | graph.SOFTMAX | graph.ELEMENTWISE | graph.HOMOGENEOUS
        | graph.PRODUCTS.keys() | FUNCTIONS.keys() | NOT_ZERO | READ
    )  # fmt: skip
    assert parts - handled == REFUSED & parts
    assert not REFUSED & handled
    assert len(parts) > 60  # the pattern still finds them


# -- kernels of a GPU ---------------------------------------------------------------------------------------------


class Fake:
    """A node of another kernel, with what a node of the CPU's attention has kept."""

    def __init__(self, name, node, bias):
        self._name = f"{name}Backward0"
        self.next_functions = (
            node.next_functions if bias is None else (*node.next_functions[:3], (None, 0))
        )
        self._saved_query, self._saved_key = node._saved_query, node._saved_key
        self._saved_value, self._saved_scale = node._saved_value, node._saved_scale
        self._saved_is_causal = node._saved_is_causal
        if bias is not None:
            self._saved_attn_bias = bias
        self.hooks = []

    def name(self):
        return self._name

    def register_hook(self, hook):
        self.hooks.append(hook)


@pytest.mark.parametrize("name", sorted(graph.ATTENTION - {"ScaledDotProductFlashAttentionForCpu"}))
@pytest.mark.parametrize("rule", RULES)
def test_attention_of_another_kernel_is_changed_as_the_cpus_is(name, rule):
    """Flash attention takes no bias; the others keep theirs under another name and have an input for it."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, 2, 4, 8, dtype=torch.float64, generator=generator).requires_grad_()
        for _ in range(3)
    )
    biased = name != "ScaledDotProductFlashAttention"
    bias = torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=generator) if biased else None
    out = functional.scaled_dot_product_attention(q * 1, k * 1, v * 1, attn_mask=bias)
    fake = Fake(name, out.grad_fn, bias)
    native = torch.autograd.grad(out.sum(), [q, k, v], retain_graph=True)
    surgery = _Surgery(RULES[rule], "test", ())
    places = surgery.visit(fake)
    gradient = torch.ones_like(out)
    given = (*native, None) if biased else native
    (hook,) = fake.hooks
    found = hook(given, (gradient, *[None] * 8))
    parts = change_backward(out, RULES[rule], "test")
    expected = torch.autograd.grad(out.sum(), [q, k, v], allow_unused=True)
    assert {one: parts[one] for one in surgery.parts} == surgery.parts
    assert places == ([2] if rule == "cp_lrp" else [0, 1, 2])
    for one, other in zip(found, expected, strict=False):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-14)


def test_a_fused_rms_norm_has_its_root_mean_square_as_a_constant():
    """The node is made on a GPU alone: a fake keeps what that one keeps."""
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    weight, gradient = (
        torch.tensor([2.0, 1.0, -1.0]).double(),
        torch.tensor([[0.3, 0.1, -0.2]]).double(),
    )
    inverse = 1 / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    class Norm(Fake):
        def __init__(self):
            self._name, self.hooks, self.next_functions = (
                "FusedRmsNormBackward0",
                [],
                ((self, 0), (None, 0)),
            )
            self._saved_result1, self._saved_weight = inverse, weight
            self._saved_normalized_shape = (3,)

    node = Norm()
    surgery = _Surgery(RULES["attnlrp"], "test", ())
    assert surgery.visit(node) == [0] and surgery.parts == {"normalisation": 1}
    (hook,) = node.hooks
    found, other = hook((torch.zeros_like(x), None), (gradient, None))
    assert other is None
    torch.testing.assert_close(found, gradient * weight * inverse, rtol=1e-15, atol=0)
    assert math.isclose(float((found * x).sum()), float((gradient * x * inverse * weight).sum()))
