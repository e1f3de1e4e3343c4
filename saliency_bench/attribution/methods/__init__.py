"""The methods, ours: each says which gradients it adds up and how, and nothing else.

Adding one is one function in a file here (or in an installed package, entry point group `saliency_bench.methods`)
and one yaml in conf/method/.
"""

from saliency_bench.attribution.methods import (
    ancestors,
    attention,
    gradients,
    paths,
    perturbation,
    rankings,
)
from saliency_bench.attribution.methods import external as given
from saliency_bench.attribution.methods.base import ABOUT, KINDS, METHODS, ONLY, method

__all__ = [
    "ABOUT",
    "KINDS",
    "METHODS",
    "ONLY",
    "ancestors",
    "attention",
    "given",
    "gradients",
    "method",
    "paths",
    "perturbation",
    "rankings",
]
