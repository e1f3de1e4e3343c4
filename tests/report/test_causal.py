"""Tables of causal language models name what replaces removed tokens, and how much the first token draws."""

from dataclasses import replace

import numpy as np
import pytest

from saliency_bench.report.analysis import Analysis
from saliency_bench.report.study_tables import headline, tables


@pytest.fixture
def generating(run):
    """The invented run as one of a model without a mask token, whose pad token ends a text."""
    config = run.manifest["config"]
    changed = {
        "model": {"name": "smollm2", "task": "text-generation"},
        "evaluation": config["evaluation"] | {"removal": ["pad", "zero"]},
    }
    manifest = run.manifest | {"config": config | changed, "replaced_by": {"pad": "<|im_end|>"}}
    return replace(run, manifest=manifest)


@pytest.mark.parametrize("ranked", [False, True], ids=["a special token", "a word"])
def test_the_share_of_the_first_token_is_that_of_its_score_among_all(generating, ranked):
    """The special token that begins a text draws most, where there is one: it counts though it is not ranked."""
    maps = generating.tables["maps"].copy()
    scoring = {setting["setting_id"] for setting in generating.settings[::2]}
    for row in maps.index:
        scores = np.array(maps.at[row, "scores"])
        scores[0] = 7.0 if maps.at[row, "setting_id"] in scoring else 0
        maps.at[row, "scores"] = scores
        maps.at[row, "attributable"] = [ranked, *maps.at[row, "attributable"][1:]]
    run = replace(generating, tables={**generating.tables, "maps": maps})
    analysis = Analysis(run)
    table = tables(analysis)["summary"]
    place = [column.key for column in table.columns].index("first_token")
    shown = {row[0]: row[place] for row in table.rows}
    for setting in run.settings:
        key = setting["setting_id"]
        rows = maps[maps["setting_id"] == key]["scores"]
        shares = [abs(scores[0]) / sum(map(abs, scores)) for scores in rows if any(scores)]
        expected = f"{100 * sum(shares) / len(shares):.0f} %" if shares else None
        if not ranked and key not in scoring:  # no score is no small share
            expected = None
        assert shown[analysis.labels[key]] == expected
    assert {None, "0 %"} & {*shown.values()} == ({"0 %"} if ranked else {None})
    assert "special tokens included" in table.caption


def test_every_table_with_removal_metrics_names_the_token_that_replaces(generating):
    made = tables(Analysis(generating))
    named = {name for name, table in made.items() if "'<|im_end|>'" in table.caption}
    assert {"headline", "summary", "comparison", "right_and_wrong"} <= named
    assert not {"parity", "convergence", "timing", "notes"} & named
    assert headline(Analysis(generating)).caption == made["headline"].caption
    assert made["headline"].caption.count("<|im_end|>") == 1
    assert "Columns named zero remove in that way" in made["summary"].caption


def test_tables_of_classifiers_have_neither(run):
    for table in tables(Analysis(run)).values():
        assert "first_token" not in [column.key for column in table.columns]
        assert "replaced by" not in table.caption or table.name == "removal_cost"
