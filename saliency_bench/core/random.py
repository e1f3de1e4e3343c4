"""Random generators of torch, seeded by names."""

import torch

from saliency_bench.core.seeding import seed_of


def generator_for(device: torch.device | str, *names: str | int) -> torch.Generator:
    """Returns a generator on `device` whose stream depends only on the names and on the kind of device."""
    return torch.Generator(device=device).manual_seed(seed_of(*names))
