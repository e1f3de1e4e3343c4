"""Which passage made the model say so? Maps summed by passage, and what the answer loses without each of them.

    python examples/passages.py [MODEL] [PAGE]

MODEL is a causal language model: a folder, the id of a hub, or smollm2 (docs/models.md), which is the default. PAGE is a file
for the maps, by default passages.html.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

import saliency_bench as sb
from saliency_bench.core.display import page
from saliency_bench.models.model import Model

PASSAGES = {
    "composer": "Edvard Grieg was a composer who lived in Bergen.",
    "painter": "Edvard Munch was a painter who lived in Oslo.",
    "writer": "Sigrid Undset was a writer who lived in Lillehammer.",
    "explorer": "Roald Amundsen was an explorer who sailed from Tromsø.",
}
QUESTION = "Question: In which city did the painter live?\nAnswer: The painter lived in"
ANSWER = " Oslo"
#: Methods, and a random ranking to hold them against.
METHODS = ("input_x_gradient", "leave_one_out", "random")
#: What replaces the tokens of a passage: these models have no mask token.
REMOVAL = "mean"
#: Passages are ranked as one: the symmetric relevance gain, and the two measures of ContextCite.
METRICS = ("srg", "linear_datamodeling_score", "top_k_log_probability_drop")


def explained(model: Model) -> list[sb.AttributionMap]:
    """A map of the answer's log-probability for each method."""
    prompt = {"text": "\n".join([*PASSAGES.values(), QUESTION]), "segments": PASSAGES}
    own = {"leave_one_out": {"removal": REMOVAL}}
    return [
        map_
        for name in METHODS
        for map_ in sb.attribute(
            model, [prompt], name, continuation=ANSWER, at="sum", **own.get(name, {})
        )
    ]


def by_passage(model: Model, maps: list[sb.AttributionMap]) -> pd.DataFrame:
    """Each passage's sum under each method, and what log p of the answer loses without the passage."""
    sums = {
        map_.setting["method"]: {unit.name: unit.score for unit in map_.units("segment")}
        for map_ in maps
    }
    table = pd.DataFrame(sums)
    alone = [only(name, maps[0]) for name in table.index]
    table["loss without it"] = evaluated(model, alone, METRICS[-1])["value"].to_numpy()
    return table


def only(name: str, like: sb.AttributionMap) -> sb.AttributionMap:
    """A map that has a score for one passage alone, so that this is what is removed first."""
    _, _, start, end = next(part for part in like.encoded.parts if part[0] == name)
    inside = [start <= a and b <= end for a, b in like.encoded.offsets]
    return sb.AttributionMap.from_scores(np.array(inside, dtype=float), like, name=name)


def evaluated(
    model: Model, maps: list[sb.AttributionMap], metrics: str | tuple[str, ...]
) -> pd.DataFrame:
    """Metrics of maps whose units are the passages."""
    return sb.evaluate(model, maps, metrics, removal=REMOVAL, granularity="segment")


def main(model: Model, out: Path) -> pd.DataFrame:
    """Prints both tables and writes the page; returns the metrics."""
    maps = explained(model)
    print(f"p({ANSWER.strip()}) = {maps[0].probability:.3f}\n")
    print(by_passage(model, maps).round(3).to_string(), "\n")
    metrics = evaluated(model, maps, METRICS).pivot(
        index="method", columns="metric", values="value"
    )
    print(metrics.loc[[*METHODS], [*METRICS]].round(3).to_string())
    out.write_text(page(maps), "utf-8")
    return metrics


if __name__ == "__main__":
    name, file, *_ = [*sys.argv[1:], *("smollm2", "passages.html")[len(sys.argv) - 1 :]]
    main(sb.load_model(name, task="text-generation"), Path(file))
