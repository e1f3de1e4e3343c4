"""interpreto: gradient explainers on all texts in one call."""

from collections.abc import Sequence
from typing import Any

import interpreto
import torch

from benchmarks.tools.adapters import shared
from benchmarks.tools.cases import Case
from benchmarks.tools.laws import Map, Subject
from benchmarks.tools.models import SEED, TARGET

KINDS = {
    "saliency": interpreto.Saliency,
    "integrated_gradients": interpreto.IntegratedGradients,
    "smoothgrad": interpreto.SmoothGrad,
}
START = 1e-6  # of its Integrated Gradients, in every dimension


def opened(case: Case, module: Any, tokenizer: Any) -> Subject:
    """A score is a mean over dimensions there; it is multiplied by their number where it is to be summed."""
    integrates = case.method == "integrated_gradients"
    given: dict[str, Any] = {"granularity": interpreto.Granularity.ALL_TOKENS}
    if integrates:
        given["n_perturbations"] = shared.N_STEPS
    explainer = KINDS[case.method](module, tokenizer, **given)
    width = module.config.hidden_size if integrates else 1

    def explain(texts: Sequence[str]) -> list[Map]:
        targets = torch.full((len(texts),), TARGET)
        found = explainer.explain(list(texts), targets)
        return shared.as_maps([one.attributions * width for one in found])

    def start(ids: torch.Tensor) -> torch.Tensor:
        return torch.full((*ids.shape, width), START)

    seed = (lambda: torch.manual_seed(SEED)) if case.method == "smoothgrad" else None
    notes = {"complete": "its page cites Sundararajan et al. 2017, whose Proposition 1 this is"}
    if seed is not None:
        notes |= dict.fromkeys(("batch", "padding"), "torch.manual_seed before each call")
    if case.model == "llama":
        pooled = "given embeddings, transformers classifies from the last position, of padding too"
        notes["padding"] = "; ".join(filter(None, (notes.get("padding"), pooled)))
    return Subject(
        explain,
        change=shared.change(module, tokenizer, start) if integrates else None,
        seed=seed,
        reasons={"conserve": "no sum to F(x) is promised"},
        notes=notes,
    )
