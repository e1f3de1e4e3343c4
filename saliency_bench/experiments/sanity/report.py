"""The sanity checks' tables: means over texts, and what they depend on."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from saliency_bench.attribution.describe import about_of
from saliency_bench.report.stats import Resampling, crossed_interval, few_words, intervals
from saliency_bench.report.table import Cell, Column, Estimate, Table

#: What cases, levels and measures are called.
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


def means(rows: pd.DataFrame, by: Sequence[str], resampling: Resampling) -> pd.DataFrame:
    """The mean of a value by some columns, each text counting once, with its interval over texts.

    Where a group has several draws of random weights, its interval is over draws and texts (`stats.crossed_interval`).

    Returns:
        One line per group: the columns, n (texts), mean, low, high; groups without any value are left out.
    """
    known = rows.dropna(subset=["value"])
    of_text = known.groupby([*by, "example_id"], sort=False)["value"].mean()
    table = of_text.unstack("example_id").astype(float)
    order = known[list(by)].drop_duplicates()
    table = table.reindex(pd.MultiIndex.from_frame(order) if len(by) > 1 else order[by[0]])
    found = pd.DataFrame(index=table.index)
    found["n"] = table.notna().sum(axis=1)
    found["mean"] = table.mean(axis=1)
    found["low"], found["high"] = intervals(table.to_numpy().T, resampling)
    drawn = known[known["draw"].notna()]
    for key, own in drawn.groupby(list(by), sort=False):
        if own["draw"].nunique() > 1:
            crossed = own.pivot_table(index="example_id", columns="draw", values="value")
            place = key if len(by) > 1 else key[0]
            ends = crossed_interval(crossed.to_numpy(), resampling.confidence)
            found.loc[place, ["low", "high"]] = ends
    return found.reset_index()


def tables(rows: pd.DataFrame, resampling: Resampling) -> list[Table]:
    """A table or more for each section that was asked for and has values."""
    known = rows.dropna(subset=["value"])
    sections = (_randomisation, _seeds, _sensitivity, _removal, _special_tokens)
    return [table for section in sections for table in section(known, resampling)]


def split(made: Sequence[Table]) -> tuple[list[Table], list[Table]]:
    """The tables to be shown, and those to be written only: more than one measure of removal."""
    names = {table.name for table in made}
    rest = {"removal_max_probability"}
    if "removal_accuracy" in names:
        rest.add("removal_kept_class")
    return [one for one in made if one.name not in rest], [one for one in made if one.name in rest]


def _randomisation(rows: pd.DataFrame, resampling: Resampling) -> list[Table]:
    own = rows[rows["section"] == "randomisation"]
    return [
        _matrix(
            one,
            f"randomisation_{case}" + ("_absolute" if measure == "tau_absolute" else ""),
            f"Agreement of {MEASURES[measure]} with the trained model's, weights made random {CASES[case]}",
            f"{TAU} of {MEASURES[measure]}. {_KINDS[measure]} Lower: the maps depend on what the model has learnt. "
            f"{_draws(one)}",
            ("level", "Made random"),
            "method",
            resampling,
        )
        for (case, measure), one in own.groupby(["case", "measure"], sort=False)
    ]


def _draws(rows: pd.DataFrame) -> str:
    """Of how many draws of weights a table is."""
    of = rows.groupby("level", sort=False)["draw"].nunique()
    several = of[of > 1]
    if several.empty:
        return "One draw of random weights: intervals say nothing of other draws."
    named = ", ".join(map(label, several.index))
    said = f"Of {named}, {_range(several)} draws of random weights: intervals over draws and texts (t)."
    rest = (
        " Of the other parts, one draw: intervals over texts alone."
        if len(several) < len(of)
        else ""
    )
    return said + rest


def _range(numbers: "pd.Series[int]") -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _seeds(rows: pd.DataFrame, resampling: Resampling) -> list[Table]:
    own = rows[rows["section"].isin(SEED_SECTIONS)]
    return [
        _matrix(
            one,
            "seeds" + ("_absolute" if measure == "tau_absolute" else ""),
            f"Agreement of {MEASURES[measure]} between models and between seeds",
            f"{TAU} of {MEASURES[measure]}. {_KINDS[measure]} Between noise seeds more is better; that maps of a model "
            "with random labels are unlike the others is what is hoped for, and other training seeds show how unlike "
            "models are that learnt the same; intervals do not cover other seeds.",
            ("method", "Method"),
            "case",
            resampling,
        )
        for measure, one in own.groupby("measure", sort=False)
    ]


def _sensitivity(rows: pd.DataFrame, resampling: Resampling) -> list[Table]:
    own = rows[rows["section"] == "sensitivity"]
    if own.empty:
        return []
    (radius,) = own["case"].unique()
    return [
        _matrix(
            own.assign(level="Max-sensitivity"),
            "sensitivity",
            "How far a map moves when the input moves by a little",
            f"The largest move over the map's own length, embeddings moving by up to {radius} in every number. Less is "
            "more robust, not more faithful: a map that never changes has 0.",
            ("method", "Method"),
            "level",
            resampling,
        )
    ]


def _removal(rows: pd.DataFrame, resampling: Resampling) -> list[Table]:
    own = rows[rows["section"] == "removal"]
    several = own["model"].nunique() > 1
    named = own.assign(case=own["case"] + ", " + own["model"]) if several else own
    shares = {level: f"{float(level):.0%}" for level in own["level"].unique()}
    return [
        _matrix(
            one.assign(level=one["level"].map(shares)),
            f"removal_{measure}",
            f"{MEASURES[measure]} when tokens are removed at random",
            "By the share of tokens that are removed. What is lost here no ranking chose: it is the price of the operator.",
            ("case", "Operator"),
            "level",
            resampling,
        )
        for measure, one in named.groupby("measure", sort=False)
    ]


def _special_tokens(rows: pd.DataFrame, resampling: Resampling) -> list[Table]:
    own = rows[rows["section"] == "special_tokens"]
    if own.empty:
        return []
    return [
        _matrix(
            own.assign(method=special_labels(own)),
            "special_tokens",
            "What share of a map falls on special tokens",
            "Shares of the sum of magnitudes. A path whose baseline keeps special tokens gives them 0 by construction.",
            ("method", "Method"),
            "level",
            resampling,
        )
    ]


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
    found = means(rows, [down[0], across], resampling).set_index([down[0], across])
    firsts = list(dict.fromkeys(rows[down[0]]))
    seconds = list(dict.fromkeys(rows[across]))
    over = f"{resampling.words} over {rows['example_id'].nunique()} texts."
    return Table(
        name=name,
        title=title,
        caption=f"{caption} {over}",
        columns=(Column(*down), *(Column(one, label(one)) for one in seconds)),
        rows=tuple(
            (label(one), *(_estimate(found, (one, other)) for other in seconds)) for one in firsts
        ),
        marks_best=False,
    )


def label(name: str) -> str:
    """What people read for a case or a method."""
    return CASES.get(name) or about_of(name).label


def _estimate(found: pd.DataFrame, key: tuple[str, str]) -> Cell:
    if key not in found.index:
        return None
    return Estimate(*(float(found.loc[key, name]) for name in ("mean", "low", "high")))


def long_table(rows: pd.DataFrame, resampling: Resampling) -> Table:
    """Every mean, for other programs."""
    by = ["section", "model", "method", "case", "level", "measure"]
    found = means(rows.fillna({"method": ""}), by, resampling)
    cells: tuple[tuple[Cell, ...], ...] = tuple(
        (
            *(str(getattr(row, key)) for key in by),
            int(row.n),
            Estimate(float(row.mean), float(row.low), float(row.high)),
        )
        for row in found.itertuples(index=False)
    )
    return Table(
        name="means",
        title="Every mean",
        caption=f"{resampling.words} over texts, and over draws of random weights where there are several.",
        columns=tuple(Column(key, key) for key in (*by, "n", "mean")),
        rows=cells,
        marks_best=False,
    )


def notes(rows: pd.DataFrame) -> list[str]:
    """What has no value and why, and what a reader must know of each section."""
    said = []
    missing = rows[rows["value"].isna()]
    for (section, reason), own in missing.groupby(["section", "reason"]):
        methods = ", ".join(about_of(name).label for name in dict.fromkeys(own["method"].dropna()))
        said.append(f"No value in {len(own)} rows of {section}, {methods}: {reason}.")
    if "randomisation" in set(rows["section"]):
        said.append(
            "That a map changes with the weights does not prove it right, and one that is multiplied with the input can "
            "stay alike because the input does (Binder et al. 2023)."
        )
    few = few_words(int(rows.groupby("section")["example_id"].nunique().min())) if len(rows) else ""
    return [*said, _counted(rows), *filter(None, [few])]


def _counted(rows: pd.DataFrame) -> str:
    of: Mapping[str, Any] = rows.groupby("section", sort=False)["example_id"].nunique().to_dict()
    return "Texts: " + ", ".join(f"{section} {n}" for section, n in of.items()) + "."
