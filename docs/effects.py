"""The measurements behind docs/attribution.md: what reduction, absolute values, baseline and target do to a map.

    python docs/effects.py [N_EXAMPLES] [FOLDER]
    python docs/effects.py redraw [FOLDER]          the summary and the figure again, from the rows of a folder

Writes one row per text, effect and variant (effects.csv), the figures and a manifest. It goes past the check that
refuses to sum raw gradients, to show the result.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from benchmarks.record import Record
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import Expectation, method
from saliency_bench.attribution.methods.gradients import smoothgrad
from saliency_bench.attribution.noise import Draws, Noise
from saliency_bench.attribution.statistics import Moment
from saliency_bench.core import conf as conf_files
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import Setting
from saliency_bench.data import movie_reviews
from saliency_bench.evaluation.view import View
from saliency_bench.models.loading import load_default
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encode
from saliency_bench.report import style
from saliency_bench.report.charts import FROM_ENDS, ends
from saliency_bench.report.stats import Resampling, intervals
from saliency_bench.studies.block import EQUAL, OpenBlock, opened_blocks
from saliency_bench.studies.budget import ON_CPU
from saliency_bench.studies.evaluate import evaluate_block
from saliency_bench.studies.prepare import by_text_hash

FOLDER = Path("results/effects")
ABSOLUTE = Moment("absolute", (lambda row: row.gradient.abs(),), lambda mean: mean)
SRG = {"srg": conf_files.metric_defaults("srg")}
BASELINES = ("mask", "pad", "unk", "zero", "mean", "uniform", "max_entropy")


@method("square")  # never negative, so that a sum is its l1
def absolute_smoothgrad(ctx: Context, *, draws: Draws, noise: Noise) -> Expectation:
    """E |∇F(x + ε)|, element by element: what averaging magnitudes gives, which is another method."""
    return replace(smoothgrad(ctx, draws=draws, noise=noise), moment=ABSOLUTE)


def setting(
    name: str, reduction: str, output: str = "logit", seed: int = 0, **hyper: object
) -> Setting:
    """A setting with the values of conf/method/, unchecked: the checks refuse sums of raw gradients, which are measured here."""
    shipped = "smoothgrad" if name == "absolute_smoothgrad" else name
    entry = conf_files.method_defaults(shipped) | hyper
    kept = {key: value for key, value in entry.items() if key not in ("method", "reduction")}
    return Setting(name, name, "native", reduction, "predicted", output, seed, kept)


def tau(one: AttributionMap, other: AttributionMap) -> float:
    """Rank correlation over the tokens that are ranked."""
    ranked = list(one.attributable)
    return float(kendalltau(one.scores[ranked], other.scores[ranked]).statistic)


def rows_of(block: OpenBlock) -> Iterator[dict[str, object]]:
    """Every effect on every text of a block."""
    yield from reduction(block)
    yield from absolute(block)
    yield from baseline(block)
    yield from output(block)


def reduction(block: OpenBlock) -> Iterator[dict[str, object]]:
    """SmoothGrad's order of tokens under two seeds, by reduction: one that measures noise has no stable order."""
    kinds = ("sum", "l1", "l2")
    settings = {
        (kind, seed): setting("smoothgrad", kind, seed=seed) for kind in kinds for seed in (0, 1)
    }
    maps = block.explain(list(settings.values()))
    for kind in kinds:
        pair = (maps[settings[kind, seed].id] for seed in (0, 1))
        for one, other in zip(*pair, strict=True):
            yield row("reduction", kind, one, "tau between seeds", tau(one, other))


def absolute(block: OpenBlock) -> Iterator[dict[str, object]]:
    """The mean gradient's magnitude against the mean magnitude, as the noise grows."""
    for std in (0.1, 0.5, 1.0, 2.0):
        pair = [
            setting("smoothgrad", "l1", noise_std=std),
            setting("absolute_smoothgrad", "sum", noise_std=std),
        ]
        found = block.explain(pair)
        signed, magnitude = (found[one.id] for one in pair)
        for one, other in zip(signed, magnitude, strict=True):
            ratio = float(other.scores.sum() / one.scores.sum())
            yield row("absolute", f"{std:g}", one, "sum of magnitudes / magnitude of sum", ratio)
            yield row("absolute", f"{std:g}", one, "tau", tau(one, other))
        for name, maps in (
            ("SRG, gradients averaged", signed),
            ("SRG, magnitudes averaged", magnitude),
        ):
            yield from faithfulness(block, "absolute", f"{std:g}", maps, name)


def baseline(block: OpenBlock) -> Iterator[dict[str, object]]:
    """Integrated Gradients from each baseline, evaluated by two removals, and compared with that from the mask."""
    settings = {name: setting("integrated_gradients", "sum", baseline=name) for name in BASELINES}
    found = block.explain(list(settings.values()))
    for name in BASELINES:
        maps = found[settings[name].id]
        for one, other in zip(maps, found[settings["mask"].id], strict=True):
            yield row("baseline", name, one, "tau to mask", tau(one, other))
        for removal in ("mask", "zero"):
            yield from faithfulness(
                block, "baseline", name, maps, f"SRG, {removal} removed", removal
            )


def output(block: OpenBlock) -> Iterator[dict[str, object]]:
    """The target: the logit, the log-probability or the probability, of one class or the other."""
    kinds = ("logit", "log_probability", "probability")
    settings = {kind: setting("integrated_gradients", "sum", kind) for kind in kinds}
    found = block.explain(list(settings.values()))
    logit = found[settings["logit"].id]
    for kind in kinds:
        maps = found[settings[kind].id]
        for one, other in zip(maps, logit, strict=True):
            yield row("target", kind, one, "tau to logit", tau(one, other))
        yield from faithfulness(block, "target", kind, maps, "SRG, mask removed")
    for label in (0, 1):
        other_class = replace(block, target=label).explain([settings["logit"].at(label)])
        for one, other in zip(next(iter(other_class.values())), logit, strict=True):
            if one.target != other.target:
                yield row(
                    "target", "logit of the other class", one, "tau to logit", tau(one, other)
                )


def faithfulness(
    block: OpenBlock,
    effect: str,
    variant: str,
    maps: Sequence[AttributionMap],
    measure: str,
    removal: str = "mask",
) -> Iterator[dict[str, object]]:
    """SRG of every map."""
    for one, result in zip(
        maps,
        evaluate_block(block, maps, SRG, [View(removal, "token", "probability", "signed")]).rows,
        strict=True,
    ):
        yield row(effect, variant, one, measure, result["value"])


def row(
    effect: str, variant: str, one: AttributionMap, measure: str, value: object
) -> dict[str, object]:
    """One number."""
    return {
        "effect": effect,
        "variant": variant,
        "example_id": one.example_id,
        "measure": measure,
        "value": value,
    }


def summarised(found: pd.DataFrame) -> pd.DataFrame:
    """Mean of every measure with its 95 % interval over texts (`stats.intervals`)."""
    lines = []
    for keys, own in found.groupby(["effect", "variant", "measure"], sort=False):
        values = own["value"].dropna().to_numpy(float)
        (low,), (high,) = intervals(values[:, None], Resampling(0.95, 9999, 0))
        lines.append((*keys, len(values), values.mean(), low, high))
    return pd.DataFrame(lines, columns=["effect", "variant", "measure", "n", "mean", "low", "high"])


PANELS = (
    ("reduction", "SmoothGrad: order under two seeds", ("tau between seeds",), "Kendall τ-b"),
    (
        "absolute",
        "Noise: gradients or magnitudes averaged",
        ("SRG, gradients averaged", "SRG, magnitudes averaged"),
        "SRG ↑",
    ),
    (
        "baseline",
        "Baselines of Integrated Gradients",
        ("SRG, mask removed", "SRG, zero removed"),
        "SRG ↑",
    ),
    ("target", "What is differentiated", ("tau to logit", "SRG, mask removed"), "τ-b, or SRG"),
)


COLORS = ("#0072B2", "#E69F00")


def draw(summary: pd.DataFrame) -> Figure:
    """A panel for each effect: means with intervals, a colour per measure."""
    figure = Figure(figsize=(style.WIDTH, 5.6), layout="constrained")
    for axes, (effect, title, measures, label) in zip(
        figure.subplots(2, 2).flat, PANELS, strict=True
    ):
        shown = summary[(summary["effect"] == effect) & summary["measure"].isin(measures)]
        variants = list(dict.fromkeys(shown["variant"]))
        several = len(measures) > 1
        sns.pointplot(
            ends(shown, ["variant", "measure"]),
            x="variant",
            y="value",
            order=variants,
            hue="measure",
            hue_order=measures,
            palette=COLORS[: len(measures)],
            linestyles="none",
            dodge=0.16 if several else False,
            markersize=4,
            markeredgewidth=1.0,
            err_kws={"linewidth": 1.4},
            legend=several,
            ax=axes,
            **FROM_ENDS,
        )
        names = [one.replace("log_", "log\n").replace("_", " ") for one in variants]
        names = [one.replace("logit of the", "logit of\nthe") for one in names]
        axes.set_xticks(range(len(variants)), names, rotation=25 if len(variants) > 4 else 0)
        axes.set(title=title, xlabel="", ylabel=label)
        axes.axhline(0, color="#444444", lw=0.7)
        axes.grid(axis="y")
        if several:
            axes.legend(fontsize=6.5)
    figure.axes[1].set_xlabel("Noise (standard deviations\nof the embedding matrix)")
    style.note(figure, "Means over texts with 95 % intervals (Student's t and BCa bootstrap).")
    return figure


def redraw(folder: Path = FOLDER) -> None:
    """Writes the summary and the figure from the rows that a folder has."""
    summary = summarised(pd.read_csv(folder / "effects.csv"))
    summary.to_csv(folder / "summary.csv", index=False, float_format="%.4g")
    with style.styled():
        (folder / "effects.png").write_bytes(style.png(draw(summary)))


def main(n_examples: int = 60, folder: Path = FOLDER) -> None:
    """Measures, and writes rows, a summary and the manifest."""
    record = Record("docs/effects.py", str(n_examples))
    model = load_default(training_seed=0)
    encoded = encode(model, by_text_hash(movie_reviews.load(split="test"))[:n_examples])
    rows: list[dict[str, object]] = []
    refs = References(model)
    with model.frozen():
        for _, block in opened_blocks(refs, encoded, "predicted", ON_CPU, packing=EQUAL):
            rows += rows_of(block)
            print(f"{len(rows)} rows", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "effects.csv", index=False, float_format="%.6g")
    redraw(folder)
    computation = {
        "device": "cpu",
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "token_budget": ON_CPU,
    }
    about = {
        "name": "effects",
        "n_examples": n_examples,
        "model": dict(model.facts),
        "split": "test",
    }
    record.write(folder, about, **computation)


if __name__ == "__main__":
    if sys.argv[1:2] == ["redraw"]:
        redraw(*map(Path, sys.argv[2:3]))
    else:
        main(*(kind(word) for kind, word in zip((int, Path), sys.argv[1:], strict=False)))
