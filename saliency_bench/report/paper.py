"""The main table as a paper has it, and captions without sentences about columns that are not shown."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace

from saliency_bench.core.labels import same_evidence_words
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.study_tables import caption_of, headline
from saliency_bench.report.table import Cell, Estimate, Table

#: The number of metrics beside the first, and the columns that are no metric.
N_FURTHER = 3
COLUMNS = ("method", "group", "n_gradients")


def for_paper(analysis: Analysis) -> Table:
    """Returns the main table with the columns that fit a page: the endpoint, its letters, more metrics and the gradients.

    The endpoint alone has its intervals; the whole table has those of all metrics. A table without metrics is returned whole.
    """
    whole = headline(analysis)
    keys = [column.key for column in whole.columns]
    metrics = [key for key in keys if key in analysis.metrics]
    if not metrics:
        return whole
    first, shown = metrics[0], metrics[: 1 + N_FURTHER]
    places = [place for place, key in enumerate(keys) if key in (*COLUMNS, *shown)]
    table = replace(
        whole,
        columns=tuple(whole.columns[place] for place in places),
        rows=tuple(
            tuple(row[i] if keys[i] == first else _without_interval(row[i]) for i in places)
            for row in whole.rows
        ),
        caption=caption_of(analysis, ranked=False) + same_evidence_words(shown),
    )
    sentences = [*sentences_about(table)]
    if len(shown) > 1:
        sentences.insert(1, "The intervals of further metrics are in headline.csv.")
    return replace(table, caption=" ".join(sentences))


def _without_interval(cell: Cell) -> Cell:
    return Estimate(cell.mean, math.nan, math.nan) if isinstance(cell, Estimate) else cell


def sentences_about(table: Table) -> Iterator[str]:
    """Yields the sentences of a caption that are about the columns and the marks of its table."""
    shown = {column.key for column in table.columns}
    marked = any("✗" in str(row[0]) for row in table.rows)
    for sentence in re.split(r"(?<=\.) (?=[A-Z])", table.caption):
        about = {"Methods that share": "group" in shown, "Converged:": marked, "SRG is": False}
        if all(needed for start, needed in about.items() if sentence.startswith(start)):
            yield sentence
