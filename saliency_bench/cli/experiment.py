"""The experiments that are no studies: `validate`, `throughput`, `trust` and `sanity`."""

from functools import partial

from saliency_bench.studies.progress import importing, progress


def _run(verb: str, words: list[str]) -> None:
    """Reads the options of an experiment, measures, then prints and writes what was measured."""
    with importing():
        from saliency_bench.experiments import scaffold

        experiment = scaffold.experiment(verb)
    options = experiment.options(words)
    with progress() as show:
        outcome = experiment.measure(options, show)
    scaffold.publish(options, outcome, ["saliency-bench", verb, *words])


#: Compares every method that Captum has too with Captum, on several models and in two types.
validate = partial(_run, "validate")
#: Times ours, Captum and a bare loop side by side, after a check that they agree.
throughput = partial(_run, "throughput")
#: Evaluates every metric on rankings that are known to be right and on spoilt ones, by every removal operator.
trust = partial(_run, "trust")
#: Measures random weights, random labels, other seeds, small changes, random removal and special tokens.
sanity = partial(_run, "sanity")
