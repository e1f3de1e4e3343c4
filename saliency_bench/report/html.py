"""The report page: one self-contained file. Its policy allows a single script, which sorts tables, by its hash."""

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from saliency_bench.core.captions import place_of
from saliency_bench.core.display import templates
from saliency_bench.core.errors import counted
from saliency_bench.core.heatmap import (
    bar,
    number,
    panel,
    spans_to_html,
    token_map,
    visible,
)
from saliency_bench.core.labels import listed, metric_label
from saliency_bench.core.method_facts import competes, facts_of, is_reference
from saliency_bench.core.program import (
    MEMORY,
    NAME,
    STUDY_OF_ANOTHER_MODEL,
    as_typed,
    for_another_model,
)
from saliency_bench.core.rows import OK, TABLES
from saliency_bench.core.scored_text import scored_text_of_row
from saliency_bench.core.segments import segment_map
from saliency_bench.core.text import text_of_row
from saliency_bench.core.texts import TEXT
from saliency_bench.report.analysis import Analysis, removals
from saliency_bench.report.comparison_tables import comparison
from saliency_bench.report.table import Table, printed
from saliency_bench.report.verdict import verdict

if TYPE_CHECKING:
    from jinja2 import Environment

N_SENTENCES = 8  # the number of shown sentences, unless the study says otherwise
#: Explanations of endpoints.
ENDPOINTS = {
    "srg": "SRG, the symmetric relevance gain: how much more the answer changes when the tokens with the highest scores are "
    "removed first than when they are removed last, over every number of tokens. A random ranking gets 0.",
}
_QUESTION = "question"  # the part of an example's name after the name of its text
#: The effect of each removal operator, and the words for a method with the same baseline or removal ("compares with ...").
#: Any other operator puts a token of the vocabulary in the place of removed ones.
REMOVED = {
    "zero": ("Removed tokens are replaced by a zero vector", "a zero vector"),
    "mean": ("Removed tokens are replaced by the mean embedding", "the mean embedding"),
    "attention": (
        "Removed tokens are not attended to",
        "the text without attention to a token",
    ),
    "delete": (
        "Removed tokens are taken out and the text closes up",
        "the text without a token",
    ),
    "baseline": ("Removed tokens are replaced by the baseline of the method that is evaluated", ""),
}


def page(analysis: Analysis, tables: Mapping[str, Table], figures: Mapping[str, bytes]) -> str:
    """Returns the page of a run, from its tables and its figures as PNG."""
    manifest = analysis.run.manifest
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            name=manifest.get("name", "run"),
            question=question(analysis),
            result=verdict(analysis),
            sentence=what_was_run(analysis),
            endpoint=ENDPOINTS.get(str(analysis.primary), ""),
            caution=caution(analysis),
            **_commands(manifest),
            tables=tables,
            primary_comparison=_primary_comparison(analysis),
            figures={name: base64.b64encode(data).decode() for name, data in figures.items()},
            left_out=len(analysis.shown) - len(analysis.drawn),
            sentences=_sentences(analysis),
            n_missing=_n_missing(analysis),
            manifest=json.dumps(
                manifest, indent=1, sort_keys=True, ensure_ascii=False, default=str
            ),
        )
    )


def _commands(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Returns the command of a run, or its call in Python, and that for another model, as a user types them."""
    circumstances = manifest.get("circumstances") or {}
    command = manifest.get("command") or " ".join(circumstances.get("command", []))
    if in_memory(manifest):
        return {"command": " ".join(shlex.split(command)), "own_model": STUDY_OF_ANOTHER_MODEL}
    own_model = f"{NAME} {for_another_model(command.split())}"
    return {"command": as_typed(command), "own_model": as_typed(own_model)}


def in_memory(manifest: Mapping[str, Any]) -> bool:
    """Whether a run was made from Python, of a model and texts that were in memory."""
    return bool((manifest.get("data") or {}).get("dataset") == MEMORY)


def environment() -> "Environment":
    """Returns the environment of the templates, which escape all texts, with the page's only script and its hash."""
    made = templates(Path(__file__).parent)
    script = Path(__file__).with_name("page.js").read_text("utf-8")
    made.globals |= {
        "printed": printed,
        "panel": panel,
        "bar": bar,
        "script": Markup(script),  # our own file, no content of a run
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    made.filters["visible"] = lambda text: visible(str(text))
    made.filters["counted"] = counted
    return made


def question(analysis: Analysis) -> str:
    """Returns the question of the run, with the names of its model and data."""
    manifest = analysis.run.manifest
    model = (manifest.get("model") or {}).get("name", "the model")
    data = (manifest.get("data") or {}).get("dataset", "its data")
    data = "your texts" if data == MEMORY else data
    labels = methods(analysis)
    if analysis.primary is None:
        return f"What does it cost to explain {model} on {data}?"
    if len(labels) == 1:
        return f"With which settings does {labels[0]} explain {model} best on {data}?"
    return f"Which of {len(labels)} methods explains {model} best on {data}?"


def methods(analysis: Analysis) -> list[str]:
    """Returns the label of each method that is compared, once for all its settings; chance is none of them."""
    return [*dict.fromkeys(facts_of(one).label for one in analysis.settings if competes(one))]


def _explained(target: Any) -> str:
    """Names the class that is explained, or the class and the one that it is held against, in words."""
    pair = target
    if isinstance(target, str) and target.startswith("contrast:"):
        pair = target.removeprefix("contrast:").split("|")
    if isinstance(pair, list) and len(pair) == 2:
        return f"class {pair[0]} held against class {pair[1]}"
    return f"the {target} class"


def what_was_run(analysis: Analysis) -> str:
    """Describes the study in a few plain sentences."""
    manifest, examples = analysis.run.manifest, analysis.run.tables["examples"]
    config, data = manifest.get("config") or {}, manifest.get("data") or {}
    n_methods, n_settings = len(methods(analysis)), sum(map(competes, analysis.settings))
    text = _counted(n_methods, "method")
    if n_settings > n_methods:
        text += f" in {counted(n_settings, 'setting')}"
    if any(facts_of(setting).role == "chance" for setting in analysis.settings):
        text += " and random rankings"
    text += f" explained {_counted(analysis.n_examples, 'text')}"
    if (source := data.get("dataset")) and source != MEMORY:
        split = manifest.get("split")
        text += f" of the {split} split of {source}" if split else f" of {source}"
    text += f" as {(manifest.get('model') or {}).get('name', 'the model')} classifies them"
    if output := str(config.get("output", "")).replace("_", " "):
        text += f": the scores are those of {_explained(config.get('target'))}, of its {output}"
    text += "."
    if analysis.n_questions != analysis.n_examples:
        text += (
            f" {_counted(analysis.n_questions, analysis.question)} in all: numbers are means over texts of the means "
            f"over a text's {analysis.question}s."
        )
    if len(correct := examples["correct"].dropna()):
        text += f" The model is right on {int(correct.sum())} of {len(correct)}."
    if (operators := removals(manifest)) and _removes(analysis):
        text += removal_words(removed(operators[0])[0], operators)
    return text


def removal_words(sentence: str, operators: Sequence[str]) -> str:
    """Returns the sentence about the main removal operator, and another if there are further ones."""
    others = operators[1:]
    further = f" Columns named {' and '.join(others)} remove in that way instead." if others else ""
    return f" {sentence}.{further}"


def removed(removal: str) -> tuple[str, str]:
    """Returns the sentence about tokens removed by an operator, and the words for a method that does the same."""
    token = f"the {removal} token"
    return REMOVED.get(removal, (f"Removed tokens are replaced by {token}", token))


def caution(analysis: Analysis) -> str:
    """Returns the smallest difference that this number of examples can show, and the methods that removal favours."""
    compared = analysis.comparison
    # A Captum twin differs from ours by rounding alone, so that its detectable difference has no meaning.
    others = [setting["setting_id"] for setting in analysis.settings if not is_reference(setting)]
    compared = compared[
        (compared["metric"] == analysis.primary) & compared["setting_id"].isin(others)
    ]
    if analysis.primary is None or compared["detectable"].isna().all():
        return ""
    low, high = (f"{end:.2g}" for end in compared["detectable"].agg(["min", "max"]))
    fewest, most = compared["n"].agg(["min", "max"])
    n = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    text = (
        f"With n = {n}, the smallest difference in {metric_label(analysis.primary)} that could be detected is "
        f"{low if low == high else f'{low} to {high}, by method'} (paired, 80 % power)."
    )
    if not analysis.claims:
        text += " This is a first look: it makes no claim about which method is better."
    if _removes(analysis):
        text += "".join(
            _favoured(analysis, operator) for operator in removals(analysis.run.manifest)
        )
    return text


def _removes(analysis: Analysis) -> bool:
    """Whether any metric of the run removes tokens; metrics against a ground truth do not."""
    return bool(analysis.run.tables["rows"]["removal"].notna().any())


def _favoured(analysis: Analysis, removal: str) -> str:
    """Names the methods that a removal operator favours, since their baseline or removal is the same."""
    if removal == "baseline":
        return (
            " Each method with a baseline is evaluated by its own baseline here: metrics that remove with a method's "
            "own baseline cannot say whether that baseline was a good choice."
        )
    names = {
        facts_of(setting).label
        for setting in analysis.settings
        if removal in (setting.get("baseline"), setting.get("removal"))
    }
    if not names:
        return ""
    several = len(names) > 1
    return (
        f" {listed(sorted(names))} {'compare' if several else 'compares'} with {removed(removal)[1]}, which is "
        f"also what replaces removed tokens: removal metrics favour {'them' if several else 'it'} for that."
    )


def _primary_comparison(analysis: Analysis) -> Table | None:
    table = comparison(analysis, [analysis.primary]) if analysis.primary else None
    return table if table and table.rows else None


def _sentences(analysis: Analysis) -> list[dict[str, Any]]:
    """Returns example texts with a map per method: as many with wrong predictions as with right ones, if there are.

    Texts without a map are left out: runs may be kept without maps.
    """
    examples = _chosen(analysis).to_dict("records")
    named = {"example_id": [example["example_id"] for example in examples]}
    maps = analysis.run.columns("maps", [*TABLES["maps"]], named)
    drawn = analysis.drawn
    shown = [key for key in drawn if not is_reference(analysis.setting(key))] or drawn
    sentences = []
    for example in examples:
        of_example = maps[maps["example_id"] == example["example_id"]].to_dict("records")
        rows = {row["setting_id"]: row for row in of_example}
        correct = example["correct"]
        facts = {
            "maps": [_card(analysis, example, rows[key], key) for key in shown if key in rows],
            "verdict": "" if pd.isna(correct) else "right" if correct else "wrong",
            "place": place_of(text_of_row(of_example[0], example, example[_QUESTION]))
            if rows
            else None,
        }
        if facts["maps"]:
            sentences.append(example | facts)
    return sentences


def _card(
    analysis: Analysis, example: Mapping[str, Any], row: Mapping[str, Any], key: str
) -> dict[str, Any]:
    map_ = scored_text_of_row(row, example, analysis.setting(key), example[_QUESTION])
    tokens, segments = token_map(map_), segment_map(map_)
    # Markup is safe here: `spans_to_html` has escaped every text.
    return {
        "label": analysis.labels[key],
        "html": Markup(spans_to_html(tokens)),
        "segments": Markup(spans_to_html(segments)) if segments else "",
        "scale": number(tokens, tokens.scale),
        "signed": tokens.signed,
    }


def _chosen(analysis: Analysis) -> pd.DataFrame:
    """Chooses the texts to show by the hash of their ids."""
    config = analysis.run.manifest.get("config") or {}
    n = (config.get("report") or {}).get("n_examples", N_SENTENCES)
    examples = analysis.table("examples")
    names = zip(examples["example_id"], examples.get(TEXT, examples["example_id"]), strict=True)
    questions = [
        name[len(text) + 1 :] if name.startswith(f"{text}@") else "" for name, text in names
    ]
    examples = examples.assign(**{_QUESTION: questions}).sort_values("example_id", key=_hashes)
    wrong = examples[~examples["correct"].fillna(True)].head(n // 2)
    right = examples[examples["correct"].fillna(True)].head(n - len(wrong))
    return pd.concat([right, wrong])


def _hashes(ids: "pd.Series[str]") -> "pd.Series[str]":
    # As objects, since values made of categories keep the order of these.
    return ids.astype(object).map(lambda name: hashlib.sha256(str(name).encode()).hexdigest())


def _n_missing(analysis: Analysis) -> int:
    tables = analysis.run.tables
    return sum(int((tables[name]["status"] != OK).sum()) for name in ("rows", "agreement"))


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
