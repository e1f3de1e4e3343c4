"""How far do maps move when the input moves by a little (Yeh et al. 2019)?"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.core.random import generator_for
from saliency_bench.core.seeding import token_hash
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.robustness import max_sensitivity
from saliency_bench.experiments.sanity.asking import Row, Subject, explained, settings_of, valued
from saliency_bench.models.model import Model
from saliency_bench.models.shifting import shifted

MAX_SENSITIVITY = "max_sensitivity"


def rows(subject: Subject, progress: Callable[[int, int], None]) -> Iterator[Row]:
    """The largest move of each map, in units of its own length; noise and the explained class stay the same."""
    model, config = subject.model, subject.config
    asked = config["sensitivity"]
    settings = settings_of(model, config["methods"], config["seed"])
    for place, item in enumerate(subject.fixed):
        progress(place, len(subject.fixed))
        copies = [item] * asked["n_samples"]
        ids = torch.tensor([one.input_ids for one in copies], device=model.device)
        moves = perturbations(model, item, config["seed"], asked["radius"], asked["n_samples"])
        with shifted(model, ids, moves):
            after = explained(model, copies, settings, max(subject.budget, ids.numel()))
        for name, own in subject.maps.items():
            value = max_sensitivity(
                own[place].scores, np.stack([one.scores for one in after[name]])
            )
            yield {
                "model": model.name,
                "method": name,
                "case": str(asked["radius"]),
                "level": "",
                "measure": MAX_SENSITIVITY,
                "example_id": item.example_id,
            } | valued(value)


def perturbations(
    model: Model, item: Encoded, seed: int, radius: float, n: int
) -> Float[Tensor, "N T D"]:
    """Draws from U[-radius, radius] for every number of every embedding; the text's own, whatever comes with it."""
    shape = model.embed(torch.tensor([item.input_ids], device=model.device)).shape[1:]
    stream = generator_for("cpu", "perturbation", seed, token_hash(item.input_ids))
    drawn = torch.rand((n, *shape), generator=stream, dtype=torch.float64) * 2 - 1
    return (radius * drawn).to(model.device, model.dtype)
