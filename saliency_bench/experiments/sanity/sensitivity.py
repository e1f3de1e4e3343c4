"""Sensitivity of maps to small changes of the input (Yeh et al. 2019)."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.core.random import generator_for
from saliency_bench.core.seeding import token_hash
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.robustness import max_sensitivity
from saliency_bench.experiments.sanity.subjects import Row, Subject, explained, settings_of, valued
from saliency_bench.models.model import Model
from saliency_bench.models.shifting import shifted

MAX_SENSITIVITY = "max_sensitivity"


def rows(subject: Subject, progress: Callable[[int, int], None]) -> Iterator[Row]:
    """The largest move of each map, in units of its own length; noise and the explained class stay the same."""
    model, config = subject.model, subject.config
    options = config["sensitivity"]
    settings = settings_of(model, config["methods"], config["seed"])
    for place, item in enumerate(subject.fixed):
        progress(place, len(subject.fixed))
        copies = [item] * options["n_samples"]
        ids = torch.tensor([copy.input_ids for copy in copies], device=model.device)
        moves = perturbations(model, item, config["seed"], options["radius"], options["n_samples"])
        with shifted(model, ids, moves):
            after = explained(model, copies, settings, max(subject.budget, ids.numel()))
        for name, maps in subject.maps.items():
            value = max_sensitivity(
                maps[place].scores, np.stack([map_.scores for map_ in after[name]])
            )
            yield {
                "model": model.name,
                "method": name,
                "case": str(options["radius"]),
                "level": "",
                "measure": MAX_SENSITIVITY,
                "example_id": item.example_id,
            } | valued(value)


def perturbations(
    model: Model, item: Encoded, seed: int, radius: float, n: int
) -> Float[Tensor, "N T D"]:
    """Draws from U[-radius, radius] for every number of every embedding; they depend on the text alone."""
    shape = model.embed(torch.tensor([item.input_ids], device=model.device)).shape[1:]
    stream = generator_for("cpu", "perturbation", seed, token_hash(item.input_ids))
    drawn = torch.rand((n, *shape), generator=stream, dtype=torch.float64) * 2 - 1
    return (radius * drawn).to(model.device, model.dtype)
