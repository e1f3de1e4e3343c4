"""The matrix of ours against Captum's, its notes, and the message about pairs that differ."""

from collections import Counter
from collections.abc import Sequence

from saliency_bench.experiments.means import records
from saliency_bench.experiments.parity.pairs import AGREES, BIASED, DIFFERS, Comparison
from saliency_bench.experiments.parity.premises import Premise
from saliency_bench.experiments.reports import ExperimentReport
from saliency_bench.report.table import Cell, Column, Table

#: Told apart by shape, not by colour.
MARKS = {AGREES: "✓", DIFFERS: "✗", BIASED: "≠"}

#: A larger tolerance would no longer tell a wrong implementation from a right one.
WIDE = 1e-3


def report_of(comparisons: Sequence[Comparison], premises: Sequence[Premise]) -> ExperimentReport:
    """The matrices and their notes."""
    return ExperimentReport(
        name="validate",
        tables=matrices(comparisons),
        notes=notes(comparisons, premises),
        page="parity.md",
        n_keys=2,
    )


def matrices(comparisons: Sequence[Comparison]) -> list[Table]:
    """Rows are methods, columns models: a table for each type, and one for weights copied from Captum."""
    tables = [
        _matrix(
            f"parity_{dtype}",
            f"{dtype}: ours against Captum",
            "Tolerances are derived in saliency_bench.attribution.parity.",
            [
                (comparison, comparison.as_shipped)
                for comparison in comparisons
                if comparison.dtype == dtype
            ],
        )
        for dtype in dict.fromkeys(comparison.dtype for comparison in comparisons)
    ]
    if copied := [
        (comparison, comparison.copied) for comparison in comparisons if comparison.copied
    ]:
        tables.append(
            _matrix(
                "parity_copied",
                "float64, Captum's own float32 nodes and weights in our engine",
                "What is left is the order of sums.",
                copied,
            )
        )
    return tables


def _matrix(
    name: str,
    title: str,
    caption: str,
    comparisons: Sequence[tuple[Comparison, tuple[float, float]]],
) -> Table:
    """Differences and tolerances, methods down and models across."""
    models = list(dict.fromkeys(comparison.model for comparison, _ in comparisons))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for comparison, (difference, tolerance) in comparisons:
        verdict = BIASED if comparison.pair.bias else AGREES
        mark = MARKS[verdict if difference <= tolerance else DIFFERS]
        cell = f"{mark} {f'{difference:.0e}' if difference else 'equal'} / {tolerance:.0e}"
        rows.setdefault((comparison.pair.method, comparison.pair.variant), {})[comparison.model] = (
            cell
        )
    columns = [Column("method", "Method"), Column("variant", "Rule, statistic, sampler")]
    return Table(
        name=name,
        title=title,
        caption=caption,
        columns=(*columns, *(Column(model, model) for model in models)),
        rows=tuple((*key, *(cells.get(model) for model in models)) for key, cells in rows.items()),
        marks_best=False,
    )


def notes(comparisons: Sequence[Comparison], shared: Sequence[Premise]) -> list[str]:
    """The meaning of the marks, the known bias, the limits of float32, the shared premises, and the number of pairs that agree."""
    marks = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    lines = [
        "Each cell: the largest difference of a token score, over Captum's largest score of the text / its tolerance. "
        f"{marks}."
    ]
    biased = [comparison for comparison in comparisons if comparison.pair.bias]
    for bias in sorted({comparison.pair.bias for comparison in biased}):
        of_bias = [comparison for comparison in biased if comparison.pair.bias == bias]
        rest = max(comparison.difference for comparison in of_bias)
        lines.append(
            f"The trapezoidal rule differs by the known bias 1/(n-1) = {bias:.4g} at n = {round(1 / bias) + 1} steps: "
            "the weights of Captum's riemann_trapezoid sum to (n-1)/n. Without it the largest difference is "
            f"{rest:.0e}."
        )
    if wide := [comparison for comparison in comparisons if comparison.tolerance > WIDE]:
        methods = ", ".join(sorted({comparison.pair.method for comparison in wide}))
        lines.append(
            f"{methods} in {', '.join(sorted({comparison.dtype for comparison in wide}))}: the tolerance is above {WIDE:g}, since "
            "Captum takes a variance as E g² - (E g)², of which so many digits cancel. There float64 carries the check."
        )
    if shared:
        lines.append(_premises_line(shared))
    lines.append(_counted(comparisons))
    return lines


def _premises_line(shared: Sequence[Premise]) -> str:
    """A line on the premises that both sides share."""
    broken = [premise for premise in shared if not premise.holds]
    verdict = "hold" if not broken else f", of which {len(broken)} do not hold"
    return (
        "Captum is handed our noise, baselines and references. They are held against the embedding matrix, token ids, "
        f"the normal distribution and Captum's own draws: {len(shared)} checks {verdict}."
    )


def premises_table(shared: Sequence[Premise]) -> Table:
    """A row for every check of what both sides share."""
    rows = [
        {
            "premise": premise.name,
            "model": premise.model,
            "dtype": premise.dtype,
            "difference": premise.difference,
            "tolerance": premise.tolerance,
            "holds": str(premise.holds).lower(),
        }
        for premise in shared
    ]
    return records("premises", "What ours and Captum's share", rows)


def _counted(comparisons: Sequence[Comparison]) -> str:
    """The number of pairs of every verdict; one that differs by the known bias does not agree."""
    counts = Counter(comparison.verdict for comparison in comparisons)
    if counts[AGREES] == len(comparisons):
        return f"All {len(comparisons)} pairs agree."
    words = [f"{counts[AGREES]} of {len(comparisons)} pairs agree"]
    if counts[BIASED]:
        words.append(f"{counts[BIASED]} differ by the known bias and by nothing else")
    if counts[DIFFERS]:
        words.append(f"{counts[DIFFERS]} differ")
    return f"{', '.join(words)}."


def long_table(comparisons: Sequence[Comparison]) -> Table:
    """A row for every comparison, for other programs."""
    hyper = sorted({key for comparison in comparisons for key in comparison.pair.captum.hyper})
    return records(
        "parity",
        "Ours against Captum",
        [_long_row(comparison, hyper) for comparison in comparisons],
    )


def _long_row(comparison: Comparison, hyper: Sequence[str]) -> dict[str, Cell]:
    captum = comparison.pair.captum
    values = {key: captum.hyper.get(key) for key in hyper}
    copied = comparison.copied or (None, None)
    return {
        "method": captum.method,
        "backend": captum.backend,
        "reduction": captum.reduction,
        "native_quadrature": comparison.pair.native.hyper.get("quadrature"),
        **{
            key: str(value).lower() if isinstance(value, bool) else value
            for key, value in values.items()
        },
        "model": comparison.model,
        "dtype": comparison.dtype,
        "n_texts": comparison.n_texts,
        "known_bias": comparison.pair.bias,
        "difference": comparison.difference,
        "tolerance": comparison.tolerance,
        "difference_copied": copied[0],
        "tolerance_copied": copied[1],
        "verdict": comparison.verdict,
    }


def complaint(comparisons: Sequence[Comparison], premises: Sequence[Premise]) -> str | None:
    """The error message: pairs that differ, else premises that do not hold; None where all is well."""
    if wrong := [pair for pair in comparisons if pair.verdict == DIFFERS]:
        return _of_pairs(wrong)
    if broken := [premise for premise in premises if not premise.holds]:
        return _of_premises(broken)
    return None


def _of_pairs(wrong: Sequence[Comparison]) -> str:
    """A message with the first pair that differs, and the methods of the others."""
    comparison = wrong[0]
    kind, (difference, tolerance) = "", comparison.as_shipped
    if difference <= tolerance and comparison.copied:
        kind, (difference, tolerance) = " with Captum's own weights", comparison.copied
    others = sorted({other.pair.method for other in wrong} - {comparison.pair.method})
    return (
        f"{' '.join(filter(None, (comparison.pair.method, comparison.pair.variant)))} on {comparison.model} in {comparison.dtype} differs from "
        f"Captum's{kind} by {difference:.2g} of the largest score, expected at most {tolerance:.2g}"
        f" ({len(wrong)} pairs differ{', also of ' + ', '.join(others) if others else ''}). See the matrix."
    )


def _of_premises(broken: Sequence[Premise]) -> str:
    premise = broken[0]
    return (
        f"{premise.name} on {premise.model} in {premise.dtype} is off by {premise.difference:.2g}, expected at most "
        f"{premise.tolerance:.2g} ({len(broken)} such checks fail). Both sides share it, so that pairs agree all the same."
    )
