"""The whole method_comparison study, ours against by hand, in interleaved runs: python -m benchmarks.study.run --out FOLDER."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.study.comparison import CLOCKS, CONTESTANTS, Request, compare
from saliency_bench.cli import config

RULE = "method.integrated_gradients."
EQUAL = (f"{RULE}quadrature=gauss_legendre", f"{RULE}n_steps=50")  # as both scripts integrate
FEWER = (f"{RULE}quadrature=calibrated", f"{RULE}n_steps=18")


def compose(overrides: Sequence[str]) -> tuple[Any, Any]:
    """The configuration and its settings."""
    cfg = config.load(["experiment=method_comparison", *EQUAL, *overrides])
    config.validate(cfg)
    return cfg, config.settings(cfg)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=24, help="sentences")
    parser.add_argument("--check", type=int, default=4, help="sentences checked before")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock",
        choices=[*CLOCKS],
        default="wall",
        help="processor: seconds of this process, so that what else the machine does counts for neither side",
    )
    parser.add_argument("--contestants", nargs="+", choices=[*CONTESTANTS], default=[*CONTESTANTS])
    parser.add_argument("--draws", choices=("ours", "own"), default="ours")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.clock == "processor" and given.threads != 1:
        parser.error("--clock processor adds up the seconds of all threads: --threads 1")
    names = tuple(given.contestants)
    request = Request(
        given.out, given.n, given.check, given.pairs, names, given.draws, FEWER, given.clock
    )
    compare(compose, request, sys.argv)
