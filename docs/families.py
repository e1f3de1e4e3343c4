"""Whether the order of methods holds between families of models: runs of experiment=families, in one small folder.

    python docs/families.py FOLDER RUN...

RUN is a folder of experiment=families, one for each model and training seed. Writes

- rows.csv.gz: the value of every text, method, metric and removal;
- methods.csv: means over texts with 95 % intervals, by family, removal, metric and method, and the rank by SRG. A text that
  models of several training seeds read counts once, by its mean over the seeds. `doubtful`: too few maps have converged;
- orders.csv: Kendall's tau-b between the orders of methods by SRG of two families, with a 95 % bootstrap interval over texts
  and training seeds. In the lines of a family with itself the orders are those of two halves of its texts, and of its
  training seeds where there are several: as much as can be expected of equal orders at half of the texts;
- conclusions.csv: whether what choosing.md says of two methods holds: the mean difference in SRG over texts with a 95 %
  interval, by family and removal. `holds`: yes or no where the interval is on one side of 0, otherwise undecided;
- first_token.csv: the share of all scores' sizes at the first token of a text, by family and method: causal language models
  attend to it whatever it says;
- replaced.csv: by family, what took the place of removed tokens;
- families.png: SRG by method, removal and family;
- manifest.json: how each run was made.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from docs import runs
from saliency_bench.core.labels import setting_labels
from saliency_bench.core.method_facts import facts_of
from saliency_bench.core.rank_correlation import tau_b
from saliency_bench.core.rows import as_list
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.causal import first_share
from saliency_bench.report.convergence_table import ENOUGH
from saliency_bench.store.suite import REQUESTED_REMOVAL

#: The metrics that an order may be of, the first that a run has.
ENDPOINTS = ("srg_on_grid", "srg")
N_RESAMPLES = 2000
#: Families by the model's name in the configuration.
FAMILIES = {
    "default": "MiniLM, sentiment",
    "smollm2_sentiment": "SmolLM2, sentiment",
    "nanoguard": "NanoGuard, injections",
}
#: What choosing.md says: the first is ahead of the second.
CONCLUSIONS = (
    ("Integrated Gradients", "Vanilla gradient"),
    ("Integrated Gradients", "SmoothGrad"),
    ("Integrated Gradients", "Leave-one-out"),
    ("Integrated Gradients", "AttnLRP × (input − baseline)"),
    ("AttnLRP × (input − baseline)", "Vanilla gradient"),
    ("AttnLRP × input", "Gradient × input"),
    ("AttnLRP × input", "CP-LRP × input"),
    ("Vanilla gradient", "Gradient × input"),
    ("SmoothGrad", "Vanilla gradient"),
)
BY = ["family", "removal", "metric", "method"]

#: SRG by training seed, text and method, with the texts' names and the methods.
Values = tuple[Float[np.ndarray, "S N M"], tuple[str, ...], tuple[str, ...]]


def family_of(manifest: Mapping[str, Any]) -> str:
    """Returns the family of a run."""
    name = manifest["config"]["model"]["name"]
    return FAMILIES.get(name, name)


def replacements(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Returns the removal operators of a run by the ones that were asked for: a model may lack some."""
    used = as_list(manifest["config"]["evaluation"]["removal"])
    asked = as_list(manifest.get(REQUESTED_REMOVAL, used))
    return dict(zip(asked, used, strict=True))


def names(analysis: Analysis) -> Mapping[str, str]:
    """Returns the methods by setting id, without the marks of one run, so that they are the same in all."""
    return setting_labels(analysis.run.settings)


def rows_of(analysis: Analysis) -> pd.DataFrame:
    """Returns a run's rows with the removal that was asked for; metrics that remove nothing have none."""
    manifest = analysis.run.manifest
    asked = {used: name for name, used in replacements(manifest).items()}
    rows = runs.of_methods(analysis.run.tables["rows"], names(analysis), "removal")
    rows["removal"] = pd.Categorical(rows["removal"].map(asked).fillna(""), ["", *asked.values()])
    rows = rows.sort_values("removal", kind="stable").astype({"removal": str})
    return rows.assign(family=family_of(manifest), training_seed=runs.training_seed(manifest))


def of_endpoint(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the lines of SRG."""
    names = [name for name in ENDPOINTS if name in set(table["metric"])]
    if not names:
        sys.exit(f"the runs have none of {', '.join(ENDPOINTS)}")
    return table[table["metric"] == names[0]]


def doubtful(analyses: Sequence[Analysis]) -> set[tuple[str, str]]:
    """Returns the families and methods with too few converged maps; those of all training seeds count together."""
    gates = pd.concat(
        [
            analysis.gates.assign(
                family=family_of(analysis.run.manifest),
                method=analysis.gates.index.map(names(analysis)),
            )
            for analysis in analyses
        ]
    )
    gates["converged"] *= gates["checked"]
    sums = gates.groupby(["family", "method"])[["converged", "checked"]].sum()
    return set(sums.index[sums["converged"] < ENOUGH * sums["checked"]])


def with_ranks(summary: pd.DataFrame, unsure: set[tuple[str, str]]) -> pd.DataFrame:
    """Returns the means with the rank of each method by SRG, 1 for the best, and whether its maps are in doubt."""
    of_srg = of_endpoint(summary)
    ranks = of_srg.groupby(["family", "removal"])["mean"].rank(ascending=False)
    pairs = zip(summary["family"], summary["method"], strict=True)
    return summary.assign(rank=ranks, doubtful=[pair in unsure for pair in pairs])


def conclusions(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the differences of `CONCLUSIONS` by family and removal, over the texts that both methods have."""
    texts = of_endpoint(rows).pivot_table(
        index=["family", "removal", "example_id"], columns="method", values="value", sort=False
    )
    parts = [
        (texts[ahead] - texts[behind])
        .dropna()
        .rename("value")
        .reset_index()
        .assign(ahead=ahead, behind=behind)
        for ahead, behind in CONCLUSIONS
        if {ahead, behind} <= {*texts.columns}
    ]
    columns = ["ahead", "behind", "family", "removal"]
    if not parts:
        return pd.DataFrame(columns=[*columns, "n", "mean", "low", "high", "holds"])
    table = runs.means(pd.concat(parts), columns)
    sides = [table["low"] > 0, table["high"] < 0]
    return table.assign(holds=np.select(sides, ["yes", "no"], "undecided"))


def in_words(table: pd.DataFrame) -> list[str]:
    """Returns conclusions as lines of Markdown, with the differences of the main removal, which is the first."""
    families = list(dict.fromkeys(table["family"]))
    lines = [["Is it ahead", "of this one?", *families], ["---"] * (2 + len(families))]
    for pair, of_pair in table.groupby(["ahead", "behind"], sort=False):
        cells = [_cell(of_pair[of_pair["family"] == family]) for family in families]
        lines.append([*map(str, pair), *cells])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _cell(of_family: pd.DataFrame) -> str:
    first = of_family.iloc[0]
    holds = dict(zip(of_family["removal"], of_family["holds"], strict=True))
    alike = len({*holds.values()}) == 1
    words = first["holds"] if alike else ", ".join(f"{name} {word}" for name, word in holds.items())
    return f"{words}: {first['mean']:z.3f} [{first['low']:z.3f}, {first['high']:z.3f}]"


def values_of(rows: pd.DataFrame) -> Values:
    """Returns the SRG of one family and removal; texts and methods without all values are left out."""
    table = rows.pivot_table(
        index="example_id", columns=["training_seed", "method"], values="value"
    )
    n_seeds = rows["training_seed"].nunique()
    table = table.dropna(axis="columns", thresh=int(np.ceil(0.9 * len(table)))).dropna()
    counts = table.columns.get_level_values("method").value_counts()
    methods = tuple(sorted(counts[counts == n_seeds].index))
    seeds = sorted({*table.columns.get_level_values("training_seed")})
    numbers = np.stack([table[seed][list(methods)].to_numpy(float) for seed in seeds])
    return numbers, tuple(table.index), methods


def orders(rows: pd.DataFrame, chance: Sequence[str]) -> pd.DataFrame:
    """Returns tau between the orders of each two families, and of each family with itself, by removal."""
    of_srg = of_endpoint(rows)
    of_srg = of_srg[~of_srg["method"].isin(chance)]
    lines: list[dict[str, Any]] = []
    for removal, of_removal in of_srg.groupby("removal", sort=False):
        families = {name: values_of(own) for name, own in of_removal.groupby("family", sort=False)}
        for one, values in families.items():
            lines.append({"removal": removal, "family": one, "other": one} | halves(values))
        for one, other in combinations(families, 2):
            line = {"removal": removal, "family": one, "other": other}
            lines.append(line | between(families[one], families[other]))
    return pd.DataFrame(lines)


def between(one: Values, other: Values) -> dict[str, Any]:
    """Returns tau between two families over the methods that both have, with a percentile interval of the bootstrap.

    Texts are resampled, and the training seeds of each family; families that read the same texts get the same ones. A resample
    has the noise of its own beside that of the texts, which brings orders apart: the interval is too low rather than too high,
    and is widened to hold tau where it lies above.
    """
    methods = [name for name in one[2] if name in other[2]]
    a, b = (
        numbers[..., [known.index(name) for name in methods]] for numbers, _, known in (one, other)
    )
    stream = np.random.default_rng(0)
    drawn = []
    for _ in range(N_RESAMPLES):
        texts = stream.integers(0, len(one[1]), len(one[1]))
        others = texts if one[1] == other[1] else stream.integers(0, len(other[1]), len(other[1]))
        drawn.append(tau_b(_resampled(a, texts, stream), _resampled(b, others, stream)))
    tau = tau_b(a.mean((0, 1)), b.mean((0, 1)))
    low, high = np.nanquantile([tau, *drawn], [0.025, 0.975])
    ends = {"low": min(low, tau), "high": max(high, tau)}
    return {"n_methods": len(methods), "tau": tau} | ends | _sizes(one, other)


def halves(values: Values) -> dict[str, Any]:
    """Returns tau between two random halves of the texts of a family, and of its training seeds: mean and middle 95 %."""
    numbers, texts, methods = values
    stream = np.random.default_rng(0)
    drawn = []
    for _ in range(N_RESAMPLES):
        order, seeds = (stream.permutation(n) for n in (len(texts), len(numbers)))
        parts = np.array_split(seeds, 2) if len(seeds) > 1 else [seeds, seeds]
        a, b = (
            numbers[part][:, half].mean((0, 1))
            for part, half in zip(parts, np.array_split(order, 2), strict=True)
        )
        drawn.append(tau_b(a, b))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    line = {"n_methods": len(methods), "tau": np.nanmean(drawn), "low": low, "high": high}
    return line | _sizes(values, values)


def _resampled(
    numbers: Float[np.ndarray, "S N M"], texts: Int[np.ndarray, " N"], stream: np.random.Generator
) -> Float[np.ndarray, " M"]:
    seeds = stream.integers(0, len(numbers), len(numbers))
    return np.asarray(numbers[seeds][:, texts].mean((0, 1)))


def _sizes(one: Values, other: Values) -> dict[str, int]:
    return {
        "n": len(one[1]),
        "n_other": len(other[1]),
        "n_seeds": len(one[0]),
        "n_seeds_other": len(other[0]),
    }


def first_tokens(analysis: Analysis) -> pd.DataFrame:
    """Returns the share of the first token on each map; none where a method leaves a special token there unscored."""
    maps = analysis.run.columns("maps", ["setting_id", "example_id", "scores", "attributable"])
    shares = [first_share(row.scores, row.attributable) for row in maps.itertuples()]
    table = maps[["example_id"]].assign(
        method=maps["setting_id"].map(names(analysis)),
        family=family_of(analysis.run.manifest),
        value=shares,
    )
    return table.dropna()


def replaced(analyses: Sequence[Analysis]) -> pd.DataFrame:
    """Returns what took the place of removed tokens: the operator that was used, and the token as the tokenizer writes it."""
    lines = [
        (family_of(manifest), asked, used, (manifest.get("replaced_by") or {}).get(used, ""))
        for manifest in (analysis.run.manifest for analysis in analyses)
        for asked, used in replacements(manifest).items()
    ]
    columns = ["family", "removal", "used", "token"]
    return pd.DataFrame(lines, columns=columns).drop_duplicates()


def draw(summary: pd.DataFrame) -> Figure:
    """A panel for each removal, a row for each method; the best method of all on top."""
    of_srg = of_endpoint(summary)
    tables = {
        f"SRG ↑, removed: {removal}": table
        for removal, table in of_srg.groupby("removal", sort=False)
    }
    figure = runs.panels(tables, y="method", by="family", order=runs.best_first(of_srg, "method"))
    for axes in figure.axes:
        axes.axvline(0, color="#444444", lw=0.7)
    return figure


def contents(analyses: Sequence[Analysis]) -> tuple[runs.Tables, runs.Figures]:
    """Returns the tables and the figure of the folder."""
    rows = pd.concat(map(rows_of, analyses))
    chance = {
        names(analysis)[setting["setting_id"]]
        for analysis in analyses
        for setting in analysis.run.settings
        if facts_of(setting).role == "chance"
    }
    summary = with_ranks(runs.means(rows, BY), doubtful(analyses))
    tables = {
        "rows.csv.gz": rows[[*BY, "training_seed", "example_id", "value"]],
        "methods.csv": summary,
        "orders.csv": orders(rows, sorted(chance)),
        "conclusions.csv": conclusions(rows),
        "first_token.csv": runs.means(pd.concat(map(first_tokens, analyses)), ["family", "method"]),
        "replaced.csv": replaced(analyses),
    }
    return tables, {"families.png": draw(summary)}


def main() -> None:
    """Reads the runs and writes the folder."""
    runs.publish("families", contents)


if __name__ == "__main__":
    main()
