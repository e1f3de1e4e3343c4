"""The matrix of ours against Captum's, what it depends on, and which pairs differ."""

from collections import Counter
from collections.abc import Sequence

from saliency_bench.experiments.findings import Findings
from saliency_bench.experiments.means import records
from saliency_bench.experiments.parity.pairs import AGREES, BIASED, DIFFERS, Comparison
from saliency_bench.experiments.parity.premises import Premise
from saliency_bench.report.table import Cell, Column, Table

#: Told apart by shape, not by colour.
MARKS = {AGREES: "✓", DIFFERS: "✗", BIASED: "≠"}

#: Above this relative difference a tolerance no longer sees what a wrong implementation would give.
WIDE = 1e-3


def findings(comparisons: Sequence[Comparison], premises: Sequence[Premise]) -> Findings:
    """The matrices and what they depend on."""
    return Findings(
        name="validate",
        tables=matrices(comparisons),
        notes=notes(comparisons, premises),
        page="parity.md",
        n_keys=2,
    )


def matrices(found: Sequence[Comparison]) -> list[Table]:
    """Rows are methods, columns models: a table for each type, and one for weights copied from Captum."""
    tables = [
        _matrix(
            f"parity_{dtype}",
            f"{dtype}: ours against Captum",
            "Tolerances are derived in saliency_bench.attribution.parity.",
            [(one, one.as_shipped) for one in found if one.dtype == dtype],
        )
        for dtype in dict.fromkeys(one.dtype for one in found)
    ]
    if copied := [(one, one.copied) for one in found if one.copied]:
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
    found: Sequence[tuple[Comparison, tuple[float, float]]],
) -> Table:
    """Differences and tolerances, methods down and models across."""
    models = list(dict.fromkeys(one.model for one, _ in found))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one, (difference, tolerance) in found:
        verdict = BIASED if one.pair.bias else AGREES
        mark = MARKS[verdict if difference <= tolerance else DIFFERS]
        cell = f"{mark} {f'{difference:.0e}' if difference else 'equal'} / {tolerance:.0e}"
        rows.setdefault((one.pair.method, one.pair.variant), {})[one.model] = cell
    columns = [Column("method", "Method"), Column("variant", "Rule, statistic, sampler")]
    return Table(
        name=name,
        title=title,
        caption=caption,
        columns=(*columns, *(Column(model, model) for model in models)),
        rows=tuple((*key, *(own.get(model) for model in models)) for key, own in rows.items()),
        marks_best=False,
    )


def notes(found: Sequence[Comparison], shared: Sequence[Premise]) -> list[str]:
    """What the marks mean, the known bias, what float32 cannot see, what both sides share, and how many pairs agree."""
    marks = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    lines = [
        "Each cell: the largest difference of a token score, over Captum's largest score of the text / its tolerance. "
        f"{marks}."
    ]
    biased = [one for one in found if one.pair.bias]
    for bias in sorted({one.pair.bias for one in biased}):
        own = [one for one in biased if one.pair.bias == bias]
        rest = max(one.difference for one in own)
        lines.append(
            f"The trapezoidal rule differs by the known bias 1/(n-1) = {bias:.4g} at n = {round(1 / bias) + 1} steps: "
            "the weights of Captum's riemann_trapezoid sum to (n-1)/n. Without it the largest difference is "
            f"{rest:.0e}."
        )
    if wide := [one for one in found if one.tolerance > WIDE]:
        methods = ", ".join(sorted({one.pair.method for one in wide}))
        lines.append(
            f"{methods} in {', '.join(sorted({one.dtype for one in wide}))}: the tolerance is above {WIDE:g}, since "
            "Captum takes a variance as E g² - (E g)², of which so many digits cancel. There float64 carries the check."
        )
    if shared:
        lines.append(_premises_line(shared))
    lines.append(_counted(found))
    return lines


def _premises_line(shared: Sequence[Premise]) -> str:
    """What Captum is handed, and whether it is right."""
    broken = [one for one in shared if not one.holds]
    said = "hold" if not broken else f", of which {len(broken)} do not hold"
    return (
        "Captum is handed our noise, baselines and references. They are held against the embedding matrix, token ids, "
        f"the normal distribution and Captum's own draws: {len(shared)} checks {said}."
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


def _counted(found: Sequence[Comparison]) -> str:
    """How many pairs there are of every verdict: one that differs by the known bias does not agree."""
    of = Counter(one.verdict for one in found)
    if of[AGREES] == len(found):
        return f"All {len(found)} pairs agree."
    words = [f"{of[AGREES]} of {len(found)} pairs agree"]
    if of[BIASED]:
        words.append(f"{of[BIASED]} differ by the known bias and by nothing else")
    if of[DIFFERS]:
        words.append(f"{of[DIFFERS]} differ")
    return f"{', '.join(words)}."


def long_table(found: Sequence[Comparison]) -> Table:
    """A row for every comparison, for other programs."""
    hyper = sorted({key for one in found for key in one.pair.captum.hyper})
    return records("parity", "Ours against Captum", [_long_row(one, hyper) for one in found])


def _long_row(one: Comparison, hyper: Sequence[str]) -> dict[str, Cell]:
    captum = one.pair.captum
    values = {key: captum.hyper.get(key) for key in hyper}
    copied = one.copied or (None, None)
    return {
        "method": captum.method,
        "backend": captum.backend,
        "reduction": captum.reduction,
        "native_quadrature": one.pair.native.hyper.get("quadrature"),
        **{
            key: str(value).lower() if isinstance(value, bool) else value
            for key, value in values.items()
        },
        "model": one.model,
        "dtype": one.dtype,
        "n_texts": one.n_texts,
        "known_bias": one.pair.bias,
        "difference": one.difference,
        "tolerance": one.tolerance,
        "difference_copied": copied[0],
        "tolerance_copied": copied[1],
        "verdict": one.verdict,
    }


def complaint(comparisons: Sequence[Comparison], premises: Sequence[Premise]) -> str | None:
    """What is wrong: pairs that differ, else what both sides share and is not right; None where all is well."""
    if wrong := [one for one in comparisons if one.verdict == DIFFERS]:
        return _of_pairs(wrong)
    if broken := [one for one in premises if not one.holds]:
        return _of_premises(broken)
    return None


def _of_pairs(wrong: Sequence[Comparison]) -> str:
    """The first of the pairs that differ, and which others do."""
    one = wrong[0]
    kind, (difference, tolerance) = "", one.as_shipped
    if difference <= tolerance and one.copied:
        kind, (difference, tolerance) = " with Captum's own weights", one.copied
    others = sorted({other.pair.method for other in wrong} - {one.pair.method})
    return (
        f"{' '.join(filter(None, (one.pair.method, one.pair.variant)))} on {one.model} in {one.dtype} differs from "
        f"Captum's{kind} by {difference:.2g} of the largest score, expected at most {tolerance:.2g}"
        f" ({len(wrong)} pairs differ{', also of ' + ', '.join(others) if others else ''}). See the matrix."
    )


def _of_premises(broken: Sequence[Premise]) -> str:
    one = broken[0]
    return (
        f"{one.name} on {one.model} in {one.dtype} is off by {one.difference:.2g}, expected at most "
        f"{one.tolerance:.2g} ({len(broken)} such checks fail). Both sides share it, so that pairs agree all the same."
    )
