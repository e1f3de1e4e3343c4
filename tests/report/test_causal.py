"""Tables of causal language models name what replaces removed tokens, and how much the first token draws."""

from dataclasses import replace

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


def test_the_share_of_the_first_token_is_that_of_its_score_in_each_map(generating):
    analysis = Analysis(generating)
    table = tables(analysis)["summary"]
    place = [column.key for column in table.columns].index("first_token")
    shown = {row[0]: row[place] for row in table.rows}
    for setting in generating.settings:
        shares = []
        for row in generating.tables["maps"].to_dict("records"):
            if row["setting_id"] != setting["setting_id"]:
                continue
            ranked = [
                abs(score)
                for score, there in zip(row["scores"], row["attributable"], strict=True)
                if there
            ]
            if sum(ranked):
                shares.append(ranked[0] / sum(ranked))
        if shares:
            expected = f"{100 * sum(shares) / len(shares):.0f} %"
            assert shown[analysis.labels[setting["setting_id"]]] == expected


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
