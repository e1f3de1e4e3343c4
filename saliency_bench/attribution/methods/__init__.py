"""The methods, ours: each says which gradients it adds up and how, and nothing else.

Adding one is one function in a file here (or in an installed package, entry point group `saliency_bench.methods`)
and one yaml in conf/method/. All files here are imported with this package, so that what is registered is complete.
"""

from saliency_bench.attribution.methods.base import ABOUT, KINDS, METHODS, ONLY, method
from saliency_bench.core.registry import import_modules

__all__ = ["ABOUT", "KINDS", "METHODS", "ONLY", "method"]

import_modules(__name__)
