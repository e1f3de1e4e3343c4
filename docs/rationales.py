"""How well maps mark the words that people marked: runs of experiment=rationales, in one small folder.

    python docs/rationales.py FOLDER RUN...

This is plausibility, and no faithfulness: a model may be right for reasons that people would not give.

RUN is a folder of experiment=rationales, with its comments, tokens and maps; the data set stands where the run read it
(data.path). FOLDER gets none of these, but

- rows.csv.gz: the value of every comment (by its id), method and metric, by model and training seed;
- comments.csv.gz: how many annotators a comment has, the most of them who agree on one character, and its numbers of words;
- methods.csv: means over comments with 95 % intervals, by model, group, metric and method. Groups: all; the number of
  annotators who agree; whether the model predicts "toxic". Beside the methods stand "Random" (the floor) and "Annotator" (the
  ceiling): each annotator against the others of the comment, on the same words, the mean over annotators. Marks have no
  order, so that F1 is that of the marked words, and precision at k that of a random order of ties;
- rationales.png: average precision by method and model;
- manifest.json: how each run was made.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool
from matplotlib.figure import Figure

from docs import runs
from saliency_bench.core.text import text_of_row
from saliency_bench.core.units import units_of
from saliency_bench.data import toxic_spans
from saliency_bench.data.toxic_spans import Annotation, read_annotations, relevant
from saliency_bench.evaluation import truth
from saliency_bench.report.analysis import Analysis

ANNOTATOR = "Annotator"
ALL = "all"
#: Below this many comments a group has no line.
FEWEST = 20
BY = ["model", "group", "metric", "method"]
KEYS = ["model", "training_seed", "example_id"]
SHOWN = {
    "auprc": "Average precision ↑",
    "token_f1": "Token F1 ↑",
    "precision_at_k": "Precision at k ↑",
}

#: First characters and ends, as of the marks of an annotator, or of the tokens of a word.
Places = Sequence[tuple[int, int]]


def of_run(analysis: Analysis) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the rows of a run, those of annotators among them, and its comments."""
    manifest = analysis.run.manifest
    config = manifest["config"]
    annotations = read_annotations(Path(config["data"]["path"]).expanduser())
    examples = analysis.run.tables["examples"].set_index("example_id", drop=False)
    share = config["data"]["share"]
    lines, comments = [], []
    for name, words in words_of(analysis).items():
        own = annotations[name]
        lines += [
            {"example_id": name, "metric": metric, "method": ANNOTATOR, "value": value}
            for metric, value in of_annotators(words, own, share).items()
        ]
        agreed = max(toxic_spans.marks(own).values(), default=0)
        marked = marks(words, [span[1:] for span in relevant(own, share)])
        facts = (len(own), agreed, len(words), int(marked.sum()))
        comments.append((name, *facts, int(examples.loc[name, "predicted"]) == 1))
    columns = ["example_id", "annotators", "agree", "n_words", "n_relevant", "predicted_toxic"]
    rows = pd.concat([runs.values(analysis), pd.DataFrame(lines)])
    model = config["model"]["name"]
    cell = {"model": runs.MODELS.get(model, model), "training_seed": runs.training_seed(manifest)}
    return rows.assign(**cell), pd.DataFrame(comments, columns=columns).assign(**cell)


def words_of(analysis: Analysis) -> dict[str, list[Places]]:
    """Returns the words of each comment as the run ranked them, each as the places of its tokens."""
    first = analysis.run.settings[0]["setting_id"]
    columns = ["example_id", "token_ids", "starts", "ends", "segments", "words", "tokens"]
    maps = analysis.run.columns("maps", [*columns, "attributable"], {"setting_id": [first]})
    examples = {
        row["example_id"]: row for row in analysis.run.tables["examples"].to_dict("records")
    }
    texts = (text_of_row(row, examples[row["example_id"]]) for row in maps.to_dict("records"))
    return {
        text.example_id: [
            [text.offsets[token] for token in unit.tokens] for unit in units_of(text, "word")
        ]
        for text in texts
    }


def marks(words: Sequence[Places], places: Places) -> Bool[np.ndarray, " U"]:
    """Returns whether a token of each word shares a character with one of these places, as of what matters in a text."""
    return np.array(
        [
            any(first < end and start < last for first, last in word for start, end in places)
            for word in words
        ],
        dtype=bool,
    )


def of_annotators(
    words: Sequence[Places], annotations: Sequence[Annotation], share: float
) -> dict[str, float]:
    """Returns the mean over annotators of each metric, of their marks against what more than `share` of the others marked.

    Annotators without a mark, and those whose others agree on no word or on all, are left out.
    """
    values = []
    for place, annotation in enumerate(annotations):
        others = [*annotations[:place], *annotations[place + 1 :]]
        own = marks(words, annotation.spans)
        agreed = marks(words, [span[1:] for span in relevant(others, share)])
        if own.any() and agreed.any() and not agreed.all():
            values.append(of_marks(own, agreed))
    return pd.DataFrame(values).mean().to_dict()


def of_marks(own: Bool[np.ndarray, " U"], agreed: Bool[np.ndarray, " U"]) -> dict[str, float]:
    """Returns the metrics of marks, which have no order: F1 of the marked words, precision at k of a random order of ties."""
    hits, n_own, n_agreed = int((own & agreed).sum()), int(own.sum()), int(agreed.sum())
    ranking = np.argsort(~own, kind="stable")
    if n_own >= n_agreed:
        found = n_agreed * hits / n_own
    else:
        found = hits + (n_agreed - n_own) * (n_agreed - hits) / (len(own) - n_own)
    return {
        "auprc": truth.auprc(truth.Truth(own.astype(float), ranking, agreed)),
        "token_f1": 2 * hits / (n_own + n_agreed),
        "precision_at_k": found / n_agreed,
    }


def grouped(rows: pd.DataFrame, comments: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows once for each group that their comment belongs to."""
    joined = rows.merge(comments, on=KEYS)
    agree = joined["agree"].clip(upper=4).astype(str).replace("4", "4 or more") + " agree"
    predicted = np.where(joined["predicted_toxic"], "predicted toxic", "predicted not toxic")
    groups = [joined.assign(group=group) for group in (ALL, agree, predicted)]
    return pd.concat(groups)


def summary_of(rows: pd.DataFrame, comments: pd.DataFrame) -> pd.DataFrame:
    """Returns the means by `BY`, without groups of fewer than `FEWEST` comments."""
    table = runs.means(grouped(rows, comments), BY)
    largest = table.groupby(["model", "group"])["n"].transform("max")
    return table[largest >= FEWEST]


def draw(summary: pd.DataFrame) -> Figure:
    """A panel for each metric, a row for each method; the best by the first metric on top."""
    of_all = summary[summary["group"] == ALL]
    tables = {label: of_all[of_all["metric"] == metric] for metric, label in SHOWN.items()}
    order = runs.best_first(next(iter(tables.values())), "method")
    note = (
        f"{runs.NOTE} Annotator: each against the others. Agreement with people is no faithfulness."
    )
    return runs.panels(tables, y="method", by="model", order=order, note=note, xlim=(0, 1))


def contents(analyses: Sequence[Analysis]) -> tuple[runs.Tables, runs.Figures]:
    """Returns the tables and the figure of the folder."""
    parts = [of_run(analysis) for analysis in analyses]
    rows, comments = (pd.concat(tables) for tables in zip(*parts, strict=True))
    summary = summary_of(rows, comments)
    tables = {
        "rows.csv.gz": rows[[*KEYS, "method", "metric", "value"]],
        "comments.csv.gz": comments[[*KEYS, *comments.columns.difference(KEYS, sort=False)]],
        "methods.csv": summary,
    }
    return tables, {"rationales.png": draw(summary)}


def main() -> None:
    """Reads the runs and writes the folder."""
    runs.publish("rationales", contents)


if __name__ == "__main__":
    main()
