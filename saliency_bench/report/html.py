"""The report page: one self-contained file without scripts."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from saliency_bench.core.captions import place_of_row
from saliency_bench.core.heatmap import bar, map_of_row, number, panel, spans_to_html, visible
from saliency_bench.core.labels import metric_label
from saliency_bench.core.method_facts import facts_of, is_reference
from saliency_bench.core.rows import OK, TABLES
from saliency_bench.core.texts import TEXT, with_texts
from saliency_bench.report.analysis import Analysis, removals
from saliency_bench.report.study_tables import comparison
from saliency_bench.report.table import Table, printed

N_SENTENCES = 8  # shown where the study does not say
_QUESTION = "question"  # what follows the text's name in the name of an example
_FIGURES = {
    "curves": (
        "Deletion and insertion",
        "The probability of the explained class as tokens are removed from the full text, and as they are put back "
        "into the empty one, the highest scores first. Each text is read at common fractions of its tokens.",
    ),
    "metric_bars": (
        "Metrics",
        "Every method under the first metrics of the table. Arrows point to better.",
    ),
    "agreement": (
        "Agreement of methods",
        "How alike two methods order the tokens of a text: 1 for the same order, 0 for none, -1 for the reverse. "
        "Agreement is not quality.",
    ),
    "cost": (
        "Cost",
        "Faithfulness against what a map costs. Gradients do not depend on the machine; seconds do.",
    ),
    "convergence": (
        "Convergence of Integrated Gradients",
        "How far the scores are from summing to F(x) - F(x'), relative to it, by the number of steps.",
    ),
    "accuracy": (
        "Cost and error",
        "What a map costs, and how far it is from one with so many points that its own error does not show.",
    ),
    "noise_map": (
        "SmoothGrad's noise",
        "Faithfulness by the noise and the number of noisy copies.",
    ),
    "removal_grid": (
        "Ways of removing",
        "What the answer depends on: the same maps, judged by every way to remove tokens.",
    ),
}


def page(analysis: Analysis, tables: Mapping[str, Table], figures: Mapping[str, bytes]) -> str:
    """The page of a run, from its tables and its figures as PNG."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"printed": printed, "panel": panel, "bar": bar}
    environment.filters["visible"] = lambda text: visible(str(text))
    manifest = analysis.run.manifest
    return environment.get_template("page.html.j2").render(
        name=manifest.get("name", "run"),
        sentence=what_was_run(analysis),
        caution=caution(analysis),
        command=manifest.get("command") or _command(manifest),
        tables=tables,
        primary_comparison=_primary_comparison(analysis),
        figures=[(*_FIGURES[name], _data_uri(data)) for name, data in figures.items()],
        left_out=len(analysis.shown) - len(analysis.drawn),
        sentences=_sentences(analysis),
        n_missing=_n_missing(analysis),
        manifest=json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, default=str),
    )


def what_was_run(analysis: Analysis) -> str:
    """The study in one or two plain sentences."""
    manifest, examples = analysis.run.manifest, analysis.run.tables["examples"]
    methods = {setting["name"] for setting in analysis.settings}
    data, model = manifest.get("data") or {}, manifest.get("model") or {}
    source = data.get("dataset", "")
    if source and (split := manifest.get("split")):
        source = f"the {split} split of {source}"
    config = manifest.get("config") or {}
    n_settings = (
        f" in {len(analysis.settings)} settings" if len(analysis.settings) > len(methods) else ""
    )
    text = (
        f"{_counted(len(methods), 'method')}{n_settings} explained {_counted(analysis.n_examples, 'text')}"
        f"{f' of {source}' if source else ''} as {model.get('name', 'the model')} classifies them"
        f"{_target_words(config)}."
    )
    if analysis.n_questions != analysis.n_examples:
        text += (
            f" {_counted(analysis.n_questions, analysis.question)} in all: numbers are means over texts of the means "
            f"over a text's {analysis.question}s."
        )
    if len(known := examples["correct"].dropna()):
        text += f" The model is right on {int(known.sum())} of {len(known)}."
    if (found := removals(manifest)) and _removes(analysis):
        text += f" {REMOVED.get(found[0], f'Removed tokens are replaced by the {found[0]} token')}."
        if others := found[1:]:
            text += f" Columns named {' and '.join(others)} remove in that way instead."
    return text


def _target_words(config: Mapping[str, Any]) -> str:
    output = str(config.get("output", "")).replace("_", " ")
    return (
        f": the scores are those of the {config.get('target')} class, of its {output}"
        if output
        else ""
    )


#: What becomes of removed tokens, other than that a token of the vocabulary takes their place.
REMOVED = {
    "zero": "Removed tokens are replaced by a zero vector",
    "mean": "Removed tokens are replaced by the mean embedding",
    "attention": "Removed tokens are not attended to",
    "delete": "Removed tokens are taken out and the text closes up",
    "baseline": "Removed tokens are replaced by the baseline of the method that is judged",
}


def _removal_words(removal: str) -> str:
    words = {
        "zero": "a zero vector",
        "mean": "the mean embedding",
        "attention": "the text without attention to a token",
        "delete": "the text without a token",
    }
    return words.get(removal, f"the {removal} token")


def caution(analysis: Analysis) -> str:
    """What this number of examples can and cannot show."""
    primary, found = analysis.primary, analysis.comparison
    # A Captum twin differs from ours by rounding alone: what it could detect says nothing.
    others = [one["setting_id"] for one in analysis.settings if not is_reference(one)]
    own = (
        found[(found["metric"] == primary) & found["setting_id"].isin(others)]
        if len(found)
        else found
    )
    if primary is None or not len(own) or own["detectable"].isna().all():
        return ""
    low, high = own["detectable"].min(), own["detectable"].max()
    size = f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g}, by method"
    text = (
        f"With n = {_span(own['n'])}, the smallest difference in {metric_label(primary)} that could be detected is "
        f"{size}"
    )
    claim = (
        ""
        if analysis.claims
        else " This is a first look: it makes no claim about which method is better."
    )
    return f"{text} (paired, 80 % power).{claim}{_circularity(analysis)}"


def _circularity(analysis: Analysis) -> str:
    """A method that asks what changes against a vector is favoured by metrics that remove with that vector."""
    if not _removes(analysis):
        return ""
    return "".join(_favoured(analysis, removal) for removal in removals(analysis.run.manifest))


def _removes(analysis: Analysis) -> bool:
    """Whether any metric of the run takes tokens away; those against a known answer do not."""
    return bool(analysis.run.tables["rows"]["removal"].notna().any())


def _favoured(analysis: Analysis, removal: str) -> str:
    names = {
        facts_of(one).label
        for one in analysis.settings
        if removal in (one.get("baseline"), one.get("removal"))
    }
    if removal == "baseline":
        return (
            " Each method with a baseline is judged on its own terms here: metrics that remove with a method's "
            "own baseline cannot say whether that baseline was a good choice."
        )
    if not names:
        return ""
    return (
        f" {' and '.join(sorted(names))} compare with {_removal_words(removal)}, which is also what replaces removed "
        "tokens: removal metrics favour them for it."
    )


def _primary_comparison(analysis: Analysis) -> Table | None:
    table = comparison(analysis, [analysis.primary]) if analysis.primary else None
    return table if table and table.rows else None


def _sentences(analysis: Analysis) -> list[dict[str, Any]]:
    """Example texts with a map per method: as many wrong predictions as right ones, if there are."""
    examples = _chosen(analysis).to_dict("records")
    named = {"example_id": [example["example_id"] for example in examples]}
    rows = analysis.run.columns("maps", [*TABLES["maps"]], named)
    shown = [key for key in analysis.drawn if not is_reference(analysis.setting(key))] or list(
        analysis.drawn
    )
    sentences = []
    for example in examples:
        own = rows[rows["example_id"] == example["example_id"]].to_dict("records")
        by_setting = {row["setting_id"]: row for row in own}
        cards = [
            _card(analysis, example, by_setting[key], key) for key in shown if key in by_setting
        ]
        place = place_of_row(own[0], example, example[_QUESTION]) if own else None
        facts = {"maps": cards, "verdict": _verdict(example["correct"]), "place": place}
        sentences.append(example | facts)
    return sentences


def _card(
    analysis: Analysis, example: Mapping[str, Any], row: Mapping[str, Any], key: str
) -> dict[str, Any]:
    place = place_of_row(row, example, example[_QUESTION])
    asked = None if place is None else int(row["target"]) if place.token is None else place.token
    tokens = map_of_row(row, example, analysis.setting(key), asked=asked)
    label = analysis.labels[key]
    # Markup: every text inside was escaped where the spans were made.
    return {
        "label": label,
        "html": Markup(spans_to_html(tokens)),
        "scale": number(tokens, tokens.scale),
        "signed": tokens.signed,
    }


def _chosen(analysis: Analysis) -> pd.DataFrame:
    """Texts to show: by the hash of their ids, so that nobody picked them."""
    config = analysis.run.manifest.get("config") or {}
    n = (config.get("report") or {}).get("n_examples", N_SENTENCES)
    examples = with_texts(
        analysis.run.tables["examples"], analysis.run.manifest, analysis.run.repeated
    )
    names = zip(examples["example_id"], examples.get(TEXT, examples["example_id"]), strict=True)
    asked = [one[len(text) + 1 :] if one.startswith(f"{text}@") else "" for one, text in names]
    examples = examples.assign(**{_QUESTION: asked})
    # As objects: what is made of categories keeps their order.
    ids = (
        examples["example_id"]
        .astype(object)
        .map(lambda name: hashlib.sha256(str(name).encode()).hexdigest())
    )
    mixed = examples.assign(order=ids).sort_values("order").drop(columns="order")
    wrong = mixed[mixed["correct"].eq(False).fillna(False)].head(n // 2)
    rest = mixed[~mixed["example_id"].isin(wrong["example_id"])]
    right = rest[rest["correct"].fillna(True)].head(n - len(wrong))
    return pd.concat([right, wrong])


def _span(numbers: "pd.Series[int]") -> str:
    low, high = numbers.min(), numbers.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _verdict(correct: Any) -> str:
    return "" if pd.isna(correct) else "right" if correct else "wrong"


def _n_missing(analysis: Analysis) -> int:
    tables = analysis.run.tables
    return sum(int((tables[name]["status"] != OK).sum()) for name in ("rows", "agreement"))


def _command(manifest: Mapping[str, Any]) -> str:
    words: Sequence[str] = (manifest.get("circumstances") or {}).get("command", [])
    return " ".join(words)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
