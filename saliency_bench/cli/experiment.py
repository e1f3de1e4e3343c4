"""The experiments that are no studies: `validate`, `throughput`, `trust` and `sanity`."""

from functools import partial
from importlib import import_module

from saliency_bench.cli.progress import importing, progress


def _run(verb: str, module_name: str, measure: str, words: list[str]) -> None:
    """Reads the options of an experiment, measures, then prints and writes what was measured."""
    with importing():
        module = import_module(f"saliency_bench.experiments.{module_name}")
    options = module.options(words)
    with progress() as show:
        outcome = getattr(module, measure)(options, show)
    module.conclude(options, outcome, ["saliency-bench", verb, *words])


#: Compares every method that Captum has too with Captum, on several models and in two types.
validate = partial(_run, "validate", "parity", "validate")
#: Times ours, Captum and a bare loop side by side, after they were found to agree.
throughput = partial(_run, "throughput", "throughput.run", "benchmark")
#: Evaluates every metric on rankings that are known to be right and on spoilt ones, by every removal operator.
trust = partial(_run, "trust", "trust", "measure")
#: Measures random weights, random labels, other seeds, small changes, random removal and special tokens.
sanity = partial(_run, "sanity", "sanity.run", "measure")
