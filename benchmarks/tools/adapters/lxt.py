"""lxt: gradient × input after its `monkey_patch`, which stays for the rest of the process."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import transformers  # noqa: F401 - looks for torchvision itself, before its replacement
from torch import nn

from benchmarks.tools import models
from benchmarks.tools.adapters import shared
from benchmarks.tools.cases import Case, apart
from benchmarks.tools.laws import Explain, Map, Subject

# It imports torchvision's transformer, to patch it; no vision model is explained here.
_VISION = "torchvision.models.vision_transformer"
with shared.stand_ins({"torchvision": {}, "torchvision.models": {}, _VISION: {"nn": nn}}):
    from lxt.efficient import monkey_patch, patches
    from lxt.efficient.models import bert, gpt2, llama
    from lxt.efficient.rules import divide_gradient

FILES = {"bert": bert, "gpt2": gpt2, "llama_lm": llama}


def opened(case: Case, module: Any, tokenizer: Any) -> Subject:
    """Patched as its pages say, before the model is made; a part is left out of the patches, in another process."""
    plain = {text: shared.output(module, tokenizer, text) for text in (*models.PAIR, models.LONG)}

    def patched(part: str = "") -> Any:
        file, patch_map = _patches(case, part)
        monkey_patch(file, patch_map)
        again = models.build(case.model, case.attention)
        again.load_state_dict(module.state_dict())
        return again

    ruled = cache(patched)

    def without(part: str) -> Explain:
        return lambda texts: apart(lambda: shared.input_x_gradient(patched(part), tokenizer, texts))

    def explain(texts: Sequence[str]) -> list[Map]:
        return shared.input_x_gradient(ruled(), tokenizer, texts)

    softmax = "softmax keeps a part of the relevance, as its paper has it"
    return Subject(
        explain,
        change=lambda text: plain[text],
        total=lambda text: shared.whole_relevance(ruled(), tokenizer, text),
        parts={part: without(part) for part in _parts(case)},
        output=lambda text: (shared.output(ruled(), tokenizer, text), plain[text]),
        reasons={"complete": "no sum to F(x) − F(x′) is promised"},
        unpromised={"conserve": softmax} if case.method == "attnlrp" else {},
    )


def _parts(case: Case) -> tuple[str, ...]:
    if case.model != "llama_lm":
        return ("norm", "nonlinearity", "attention")
    if case.method == "cp_lrp":  # a constant gate has its nonlinearity inside
        return ("norm", "gate", "attention")
    return ("norm", "nonlinearity", "gate", "attention")


def _patches(case: Case, part: str) -> tuple[Any, dict[Any, Any]]:
    """The file of transformers and lxt's map of patches, without a part: a class less, or a function that does nothing."""
    name = case.model.removesuffix("_lm")
    file = import_module(f"transformers.models.{name}.modeling_{name}")
    own = FILES[case.model]
    patch_map = dict(own.attnLRP if case.method == "attnlrp" else own.cp_LRP)
    classes = {
        ("bert", "norm"): "LayerNorm",
        ("gpt2", "norm"): "LayerNorm",
        ("gpt2", "nonlinearity"): "GPT2MLP",
        ("llama", "norm"): "LlamaRMSNorm",
    }
    if case.method == "cp_lrp":
        classes["llama", "gate"] = "LlamaMLP"
    left_out = file.__name__ if part == "attention" else classes.get((name, part))
    if name == "bert" and part == "attention":
        own.divide_gradient = lambda values, factor=2: values
    elif left_out is not None:
        patch_map = {one: patch for one, patch in patch_map.items() if one.__name__ != left_out}
    elif part == "nonlinearity":
        (own if name == "bert" else patches).identity_rule_implicit = lambda function, x: function(
            x
        )
    elif part == "gate":
        patches.divide_gradient = _only_in_attention
    return file, patch_map


def _only_in_attention(values: Any, factor: int = 2) -> Any:
    """Of the two places, the gated MLP [B T D] and attention [B H T D], the second."""
    return values if values.ndim == 3 else divide_gradient(values, factor)
