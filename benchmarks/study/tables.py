"""Who takes part in the comparison of studies, and the tables that say how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks.study.equality import Equality
from saliency_bench.report.table import Cell, Column, Estimate, Table
from saliency_bench.studies.timing import interleaved_ratio

OURS, FEWER, CAREFUL, TYPICAL = "ours", "ours_fewer_gradients", "careful", "typical"

#: What each contestant is.
CONTESTANTS = {
    OURS: "saliency_bench.studies.run.run, and the means with their intervals",
    CAREFUL: "by hand (careful.py): sorted by length, sizes tuned, each distinct input computed once, the same intervals",
    TYPICAL: "by hand (typical.py): as they come, 32 in a padded batch; nine curves of a ranking, a loop for each metric",
    FEWER: "ours with Integrated Gradients from calibrated nodes",
}

#: What is divided by what, and what the quotient says. Nodes are equal but for the last rows.
RATIOS = (
    (CAREFUL, OURS, "what the library saves a careful engineer, at equal nodes"),
    (TYPICAL, OURS, "what it saves the author of a typical script, at equal nodes"),
    (TYPICAL, CAREFUL, "of this, what care alone saves"),
    (CAREFUL, FEWER, "careful with 50 nodes over ours with calibrated ones"),
    (OURS, FEWER, "of this, what fewer gradients save"),
)


def ratios_table(seconds: Mapping[str, Sequence[float]], n: int) -> Table:
    """Median quotients of repeats that ran side by side, with their intervals."""
    rows: list[tuple[Cell, ...]] = [
        (
            above,
            below,
            Estimate(*interleaved_ratio(seconds[above], seconds[below])),
            len(seconds[below]),
            what,
        )
        for above, below, what in RATIOS
        if seconds.get(above) and seconds.get(below)
    ]
    return Table(
        name="ratios",
        title=f"The whole study on {n} sentences: time over time",
        caption="Medians of repeats that ran side by side; the interval lies between two order statistics and covers "
        "the median with at least 95 %, or is the whole range below 6 repeats.",
        columns=(
            Column("seconds_of", "Time of"),
            Column("over", "over that of"),
            Column("ratio", "Ratio"),
            Column("repeats", "Repeats"),
            Column("meaning", "What it says"),
        ),
        rows=tuple(rows),
        marks_best=False,
    )


def seconds_table(seconds: Mapping[str, Sequence[float]]) -> Table:
    """Every repeat of every contestant."""
    rows: list[tuple[Cell, ...]] = [
        (name, repeat, value) for name, own in seconds.items() for repeat, value in enumerate(own)
    ]
    columns = (
        Column("contestant", "Contestant"),
        Column("repeat", "Repeat"),
        Column("seconds", "Seconds", unit="s"),
    )
    return Table("seconds", "Seconds", "", columns, tuple(rows), marks_best=False)


def equality_table(differences: Sequence[Equality]) -> Table:
    """Every contestant, method and metric against ours."""
    columns = (
        Column("contestant", "Contestant"),
        Column("method", "Method"),
        Column("metric", "Metric"),
        Column("ours", "Ours"),
        Column("theirs", "Theirs"),
        Column("n_texts", "Texts compared"),
        Column("n_ties", "Texts with near ties"),
        Column("worst", "Largest difference / tolerance"),
    )
    rows = tuple(tuple(asdict(row).values()) for row in differences)
    return Table("equality", "Metric means", "", columns, rows, marks_best=False)


def agreement_table(differences: Sequence[Equality]) -> Table:
    """For each contestant, how much was compared with ours and how far it is off."""
    rows: list[tuple[Cell, ...]] = []
    for contestant in dict.fromkeys(row.contestant for row in differences):
        same = [
            row for row in differences if row.contestant == contestant and row.worst is not None
        ]
        counts = sum(row.n_texts for row in same), sum(row.n_ties for row in same)
        largest = max((row.worst for row in same if row.worst is not None), default=None)
        rows.append((contestant, len(same), *counts, largest))
    return Table(
        name="agreement",
        title="Are all numbers equal?",
        caption="Means of a method and metric whose values were compared text by text, within tolerances that are "
        "derived; all of them are in equality.csv. Texts on which two scores are as good as equal, so that their order "
        "is open, are counted and left out. Of the contestant with fewer gradients Integrated Gradients are not compared.",
        columns=(
            Column("contestant", "Contestant"),
            Column("means", "Means"),
            Column("values", "Values compared"),
            Column("ties", "Left out, near ties"),
            Column("worst", "Largest difference / tolerance"),
        ),
        rows=tuple(rows),
        marks_best=False,
    )
