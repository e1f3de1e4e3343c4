"""The sanity checks' tables of means over texts, and their notes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd

from saliency_bench.attribution.describe import about_of
from saliency_bench.core.errors import counted
from saliency_bench.experiments.means import estimates, matrix, over_texts, records
from saliency_bench.report.stats import Resampling, crossed_interval, few_words
from saliency_bench.report.table import Column, Table

#: Labels of cases, levels and measures.
CASES = {
    "cascading": "from the output down",
    "independent": "one part at a time",
    "noise seeds": "Other noise seed",
    "training seeds": "Other training seed",
    "random labels": "Random labels",
    "keep": "baseline keeps special tokens",
    "replace": "baseline replaces special tokens",
}
MEASURES = {
    "tau": "signed scores",
    "tau_absolute": "magnitudes",
    "accuracy": "Accuracy",
    "kept_class": "Texts that keep their class",
    "max_probability": "Largest probability",
}
#: A method without signs has one kind of τ: it is compared with others by magnitudes alone.
_KINDS = {
    "tau": "Methods whose scores have signs: a model that turns all signs round turns τ round.",
    "tau_absolute": "The same quantity for methods with and without signs.",
}
SEED_SECTIONS = ("stability", "random_labels")
TAU = "Kendall's τ-b"

#: A table's rows, name, title and caption, and its columns that stand down and across.
_Content: TypeAlias = tuple[pd.DataFrame, str, str, str, tuple[str, str], str]


def means(rows: pd.DataFrame, by: Sequence[str], resampling: Resampling) -> pd.DataFrame:
    """The mean of a value by some columns, each text counting once, with its interval over texts.

    Where a group has several draws of random weights, its interval is over draws and texts (`stats.crossed_interval`).

    Returns:
        One line per group: the columns, n (texts), mean, low, high; groups without any value are left out.
    """
    valued = rows.dropna(subset=["value"])
    order = valued[list(by)].drop_duplicates()
    index = pd.MultiIndex.from_frame(order) if len(by) > 1 else order[by[0]]
    averages = over_texts(valued, "value", by, resampling).reindex(index)
    drawn = valued[valued["draw"].notna()]
    for key, of_group in drawn.groupby(list(by), sort=False):
        if of_group["draw"].nunique() > 1:
            crossed = of_group.pivot_table(index="example_id", columns="draw", values="value")
            place = key if len(by) > 1 else key[0]
            averages.loc[place, ["low", "high"]] = crossed_interval(
                crossed.to_numpy(), resampling.confidence
            )
    return averages.reset_index()


def tables(rows: pd.DataFrame, resampling: Resampling) -> list[Table]:
    """A table or more for each section that was asked for and has values."""
    valued = rows.dropna(subset=["value"])
    sections: Mapping[Callable[[pd.DataFrame], Iterator[_Content]], Sequence[str]] = {
        _randomisation: ["randomisation"],
        _seeds: SEED_SECTIONS,
        _sensitivity: ["sensitivity"],
        _removal: ["removal"],
        _special_tokens: ["special_tokens"],
    }
    return [
        _matrix(*content, resampling)
        for contents, names in sections.items()
        if len(of_sections := valued[valued["section"].isin(names)])
        for content in contents(of_sections)
    ]


def not_shown(tables: Sequence[Table]) -> set[str]:
    """The names of tables that are written only: more than one measure of removal."""
    names = {table.name for table in tables}
    second = {"removal_kept_class"} if "removal_accuracy" in names else set()
    return {"removal_max_probability"} | second


def _randomisation(rows: pd.DataFrame) -> Iterator[_Content]:
    for (case, measure), of_table in rows.groupby(["case", "measure"], sort=False):
        yield (
            of_table,
            f"randomisation_{case}" + ("_absolute" if measure == "tau_absolute" else ""),
            f"Agreement of {MEASURES[measure]} with the trained model's, weights made random {CASES[case]}",
            f"{TAU} of {MEASURES[measure]}. {_KINDS[measure]} Lower: the maps depend on what the model has learnt. "
            f"{_draws(of_table)}",
            ("level", "Made random"),
            "method",
        )


def _draws(rows: pd.DataFrame) -> str:
    """A sentence on the number of draws of weights in a table."""
    counts = rows.groupby("level", sort=False)["draw"].nunique()
    several = counts[counts > 1]
    if several.empty:
        return "One draw of random weights: intervals say nothing of other draws."
    named = ", ".join(map(label, several.index))
    head = f"Of {named}, {_range(several)} draws of random weights: intervals over draws and texts (t)."
    rest = (
        " Of the other parts, one draw: intervals over texts alone."
        if len(several) < len(counts)
        else ""
    )
    return head + rest


def _range(numbers: "pd.Series[int]") -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _seeds(rows: pd.DataFrame) -> Iterator[_Content]:
    for measure, of_measure in rows.groupby("measure", sort=False):
        yield (
            of_measure,
            "seeds" + ("_absolute" if measure == "tau_absolute" else ""),
            f"Agreement of {MEASURES[measure]} between models and between seeds",
            f"{TAU} of {MEASURES[measure]}. {_KINDS[measure]} Between noise seeds more is better; that maps of a model "
            "with random labels are unlike the others is what is hoped for, and other training seeds show how unlike "
            "models are that learnt the same; intervals do not cover other seeds.",
            ("method", "Method"),
            "case",
        )


def _sensitivity(rows: pd.DataFrame) -> Iterator[_Content]:
    (radius,) = rows["case"].unique()
    yield (
        rows.assign(level="Max-sensitivity"),
        "sensitivity",
        "How far a map moves when the input moves by a little",
        f"The largest move over the map's own length, embeddings moving by up to {radius} in every number. Less is "
        "more robust, not more faithful: a map that never changes has 0.",
        ("method", "Method"),
        "level",
    )


def _removal(rows: pd.DataFrame) -> Iterator[_Content]:
    shares = {level: f"{float(level):.0%}" for level in rows["level"].unique()}
    named = rows.assign(level=rows["level"].map(shares))
    if rows["model"].nunique() > 1:
        named["case"] += ", " + named["model"]
    for measure, of_measure in named.groupby("measure", sort=False):
        yield (
            of_measure,
            f"removal_{measure}",
            f"{MEASURES[measure]} when tokens are removed at random",
            "By the share of tokens that are removed. What is lost here no ranking chose: it is the price of the operator.",
            ("case", "Operator"),
            "level",
        )


def _special_tokens(rows: pd.DataFrame) -> Iterator[_Content]:
    yield (
        rows.assign(method=special_labels(rows)),
        "special_tokens",
        "What share of a map falls on special tokens",
        "Shares of the sum of magnitudes. A path whose baseline keeps special tokens gives them 0 by construction.",
        ("method", "Method"),
        "level",
    )


def special_labels(rows: pd.DataFrame) -> "pd.Series[str]":
    """Methods with what their baseline does to special tokens, where they have one."""
    names = rows["method"].map(lambda name: about_of(name).label)
    return names.where(
        ~rows["case"].isin(["keep", "replace"]), names + ", " + rows["case"].map(CASES)
    )


def _matrix(
    rows: pd.DataFrame,
    name: str,
    title: str,
    caption: str,
    down: tuple[str, str],
    across: str,
    resampling: Resampling,
) -> Table:
    """Means by two columns, one of them down and one across."""
    over = f"{resampling.words} over {counted(rows['example_id'].nunique(), 'text')}."
    return matrix(
        means(rows, [down[0], across], resampling).set_index([down[0], across]),
        name,
        title,
        f"{caption} {over}",
        Column(*down),
        {key: label(key) for key in rows[down[0]].unique()},
        {key: label(key) for key in rows[across].unique()},
    )


def label(name: str) -> str:
    """The label of a case or a method."""
    return CASES.get(name) or about_of(name).label


def long_table(rows: pd.DataFrame, resampling: Resampling) -> Table:
    """Every mean, for other programs."""
    by = ["section", "model", "method", "case", "level", "measure"]
    cells = estimates(
        means(rows.fillna({"method": ""}), by, resampling), {key: key for key in (*by, "n", "mean")}
    )
    over = "over texts, and over draws of random weights where there are several."
    return records("means", "Every mean", cells, f"{resampling.words} {over}")


def notes(rows: pd.DataFrame) -> list[str]:
    """Notes on rows without a value, and on the meaning of each section."""
    lines = []
    missing = rows[rows["value"].isna()]
    for (section, reason), without in missing.groupby(["section", "reason"]):
        methods = ", ".join(
            about_of(name).label for name in dict.fromkeys(without["method"].dropna())
        )
        lines.append(
            f"No value in {counted(len(without), 'row')} of {section}, {methods}: {reason}."
        )
    if "randomisation" in set(rows["section"]):
        lines.append(
            "That a map changes with the weights does not prove it right, and one that is multiplied with the input can "
            "stay alike because the input does (Binder et al. 2023)."
        )
    few = few_words(int(rows.groupby("section")["example_id"].nunique().min())) if len(rows) else ""
    return [*lines, _counted(rows), *filter(None, [few])]


def _counted(rows: pd.DataFrame) -> str:
    counts: Mapping[str, Any] = (
        rows.groupby("section", sort=False)["example_id"].nunique().to_dict()
    )
    return "Texts: " + ", ".join(f"{section} {n}" for section, n in counts.items()) + "."
