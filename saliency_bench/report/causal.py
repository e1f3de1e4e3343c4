"""Additions to the tables of causal language models: the share of the first token, and the token that replaces others."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.core.texts import ONE_QUESTION, index_of, per_text, with_texts
from saliency_bench.report.analysis import Analysis, removals
from saliency_bench.report.convergence_table import whole_percent
from saliency_bench.report.html import removal_words, removed
from saliency_bench.report.table import Column, Field, Table, number

#: Tables of metrics that remove tokens.
_REMOVING = ("headline", "summary", "comparison", "fixed_pairs", "right_and_wrong", "sweep")
_MAPS = ["cell_id", "setting_id", "example_id", "attributable", "scores"]
_FIRST_TOKEN = Column("first_token", "On the first token")


def generates(manifest: Mapping[str, Any]) -> bool:
    """Whether a run explains a causal language model."""
    model = (manifest.get("config") or {}).get("model") or {}
    return bool(model.get("task", ONE_QUESTION) == "text-generation")


def first_token(analysis: Analysis) -> list[Field]:
    """Returns a column with the mean share of Σ|scores| at a text's first position; none for other models.

    Causal language models attend to that position whatever token is there (an attention sink; Xiao et al. 2024, "Efficient
    streaming language models with attention sinks"), so that a large share need not be due to the token. Maps of zeros are
    left out, and those of methods that do not score a special token there.
    """
    if not generates(analysis.run.manifest):
        return []
    maps = analysis.run.columns("maps", _MAPS)
    maps = maps.assign(
        share=[first_share(row.scores, row.attributable) for row in maps.itertuples()]
    )
    maps = with_texts(maps, analysis.run.manifest, analysis.run.repeated)
    shares = pd.Series(np.nan, index=[setting["setting_id"] for setting in analysis.run.settings])
    for key, group in maps.groupby("setting_id"):
        shares[key] = per_text(group.set_index(index_of(group))[["share"]])["share"].mean()
    return [(_FIRST_TOKEN, number(shares, whole_percent))]


def first_share(scores: Any, attributable: Any) -> float:
    """Returns the share of a map's first position; NaN if all scores are 0, or its token is special and not scored."""
    sizes = np.abs(np.asarray(scores, float))
    # Methods that do not score special tokens leave exactly 0 there.
    scored = attributable[0] or sizes[0] > 0
    return float(sizes[0] / sizes.sum()) if scored and sizes.sum() > 0 else np.nan


def with_words(analysis: Analysis, table: Table) -> Table:
    """Returns the table with a caption that names the replacement of removed tokens and explains the share of the first.

    Models without a mask token have another token in its place, which may have a meaning to them: so it is named.
    """
    manifest = analysis.run.manifest
    if not generates(manifest) or not table.rows:
        return table
    words = ""
    if table.name in _REMOVING and (operators := removals(manifest)):
        words = removal_words(_replaced(manifest, operators[0]), operators)
    if _FIRST_TOKEN in table.columns:
        words += f" {_FIRST_TOKEN.label}: its share of all scores' sizes, special tokens included; causal models often attend to it whatever it says. – where it is a special token that the method does not score."
    return table if words in table.caption else replace(table, caption=table.caption + words)


def _replaced(manifest: Mapping[str, Any], removal: str) -> str:
    """Returns the sentence about removed tokens, with the token as the tokenizer writes it."""
    sentence, _ = removed(removal)
    written = (manifest.get("replaced_by") or {}).get(removal)
    return f"{sentence} {written!r}" if written else sentence
