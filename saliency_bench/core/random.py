"""Seeds to torch's random numbers."""

import torch

from saliency_bench.core.seeding import seed_of


def generator_for(device: torch.device | str, *names: str | int) -> torch.Generator:
    """A generator on `device` whose stream depends on the names alone (and on the kind of device)."""
    return torch.Generator(device=device).manual_seed(seed_of(*names))
