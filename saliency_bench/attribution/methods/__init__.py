"""The methods of this package; each is a function that returns a plan (see `base`).

To add a method, write one function in a file of this folder (in an installed package: entry point group
`saliency_bench.methods`) and one yaml in conf/method/. All files of this folder are imported with it.
"""

from saliency_bench.attribution.methods.base import ABOUT, KINDS, METHODS, ONLY, method
from saliency_bench.core.registry import import_modules

__all__ = ["ABOUT", "KINDS", "METHODS", "ONLY", "method"]

import_modules(__name__)
