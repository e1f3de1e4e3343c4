"""Captum: its gradient methods on embeddings, and its layer methods on ids."""

from collections.abc import Sequence
from typing import Any

import torch
from captum.attr import (
    InputXGradient,
    IntegratedGradients,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from torch import Tensor

from benchmarks.tools.adapters import shared
from benchmarks.tools.cases import Case
from benchmarks.tools.laws import Map, Subject
from benchmarks.tools.models import SEED, output_of


def opened(case: Case, module: Any, tokenizer: Any) -> Subject:
    """The mask goes along as an additional argument; special tokens keep their embeddings at the baseline.

    A gradient is reduced by its norm: with a LayerNorm behind the embeddings its sum is 0 up to rounding.
    """
    embed = module.get_input_embeddings()

    def by_embeddings(embedded: Tensor, mask: Tensor) -> Tensor:
        return output_of(module(inputs_embeds=embedded, attention_mask=mask).logits)

    def by_ids(ids: Tensor, mask: Tensor) -> Tensor:
        return output_of(module(input_ids=ids, attention_mask=mask).logits)

    def scores(ids: Tensor, mask: Tensor) -> Tensor:
        also: dict[str, Any] = {"additional_forward_args": (mask,)}
        embedded = embed(ids).detach().requires_grad_()
        start = shared.baseline_ids(tokenizer, ids)
        match case.method:
            case "saliency":
                return Saliency(by_embeddings).attribute(embedded, abs=False, **also)
            case "input_x_gradient":
                return InputXGradient(by_embeddings).attribute(embedded, **also)
            case "integrated_gradients":
                also |= {"baselines": embed(start).detach(), "n_steps": shared.N_STEPS}
                return IntegratedGradients(by_embeddings).attribute(embedded, **also)
            case "noise_tunnel":
                also |= {"nt_type": "smoothgrad", "nt_samples": 5, "stdevs": 0.1, "abs": False}
                return NoiseTunnel(Saliency(by_embeddings)).attribute(embedded, **also)
            case "layer_gradient_x_activation":
                return LayerGradientXActivation(by_ids, embed).attribute(ids, **also)
        also |= {"baselines": start, "n_steps": shared.N_STEPS}
        return LayerIntegratedGradients(by_ids, embed).attribute(ids, **also)

    def explain(texts: Sequence[str]) -> list[Map]:
        inputs = shared.encoded(tokenizer, texts)
        mask = inputs["attention_mask"]
        values = scores(inputs["input_ids"], mask)
        multiplied = case.method not in ("saliency", "noise_tunnel")
        return shared.trimmed(values.sum(-1) if multiplied else values.norm(dim=-1), mask)

    integrates = case.method.endswith("integrated_gradients")
    promised = shared.change(module, tokenizer, shared.from_padding(module, tokenizer))
    seed = (lambda: torch.manual_seed(SEED)) if case.method == "noise_tunnel" else None
    return Subject(
        explain,
        change=promised if integrates else None,
        seed=seed,
        reasons={"conserve": "no sum to F(x) is promised"},
        notes=dict.fromkeys(("batch", "padding"), "torch.manual_seed before each call")
        if seed
        else {},
    )
