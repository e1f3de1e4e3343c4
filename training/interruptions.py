"""What a training has learnt so far, kept in a file, so that an interrupted training goes on where it was."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: Steps after which what is learnt is kept.
EVERY = 20


@dataclass
class Progress:
    """The file of a training, and the seconds that earlier processes have spent on it."""

    path: Path
    seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    def restore(
        self, weights: Sequence[Tensor], optimizer: Any, schedule: Any, stream: torch.Generator
    ) -> int:
        """Puts everything to where an earlier process left it; returns the number of steps that were done."""
        if not self.path.is_file():
            return 0
        state = torch.load(self.path, weights_only=True)
        with torch.no_grad():
            for weight, value in zip(weights, state["weights"], strict=True):
                weight.copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        stream.set_state(state["stream"])
        self.seconds = state["seconds"]
        return int(state["step"])

    def keep(
        self,
        step: int,
        n_steps: int,
        loss: float,
        weights: Sequence[Tensor],
        optimizer: Any,
        schedule: Any,
        stream: torch.Generator,
    ) -> None:
        """Writes everything after every `EVERY` steps and after the last one, and says how far it is."""
        if step % EVERY and step != n_steps:
            return
        seconds = self.seconds + time.perf_counter() - self._started
        state = {
            "step": step,
            "seconds": seconds,
            "weights": [weight.detach() for weight in weights],
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "random": torch.get_rng_state(),
            "stream": stream.get_state(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(f".{os.getpid()}")
        torch.save(state, beside)
        beside.replace(self.path)
        print(f"step {step} of {n_steps}, loss {loss:.3f}, {seconds / 60:.1f} min", flush=True)
