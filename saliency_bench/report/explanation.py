"""Token maps of single texts for people: a page of their own, and records in the shapes that older tools write."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saliency_bench.errors import unknown
from saliency_bench.report.heatmap import (
    TokenMap,
    heading,
    map_of_attribution,
    number,
    only_top,
    spans_to_html,
    visible,
)

if TYPE_CHECKING:
    from saliency_bench.maps import AttributionMap

#: The shapes of records: AllenNLP Interpret's holds scores alone; the article's tokens, class and probability too.
ALLENNLP, ARTICLE = "allennlp", "article"
SHAPES = (ARTICLE, ALLENNLP)

_STYLE = """\
:root { --ink: #1b1f24; --soft: #59636e; --line: #d9dee3; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #343b43; --paper: #14171a; }
}
body { margin: 0 auto; padding: 2rem 1.25rem; max-width: 52rem; background: var(--paper); color: var(--ink);
  font: 17px/1.8 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
h1 { font-size: 1.25rem; } h2 { font-size: .95rem; margin: 1.6rem 0 .2rem; }
.map { border-top: 1px solid var(--line); padding-top: .5rem; overflow-wrap: anywhere; }
.map bdi { background: #fff; color: #111; padding: .25rem .4rem; border-radius: 4px; box-decoration-break: clone; }
small, footer { color: var(--soft); } footer { margin-top: 2rem; font-size: .85rem; }
"""


def page(maps: "Sequence[AttributionMap]", *, top: int | None, special_tokens: bool) -> str:
    """A page that shows maps of texts, complete in itself: no script, and nothing is asked of anybody.

    Args:
        maps: in the order in which they are shown.
        top: colour only so many units with the largest magnitudes; None: all.
        special_tokens: show [CLS] and its kin too.
    """
    parts = []
    for one in maps:
        tokens = map_of_attribution(one, special_tokens=special_tokens)
        shown = tokens if top is None else only_top(tokens, top)
        parts.append(
            f"<h2>{html.escape(heading(one))}</h2>\n"
            f'<div class="map">{spans_to_html(shown)}</div>\n<small>{_facts(one, tokens)}</small>'
        )
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>saliency_bench: an explanation</title>\n<style>\n{_STYLE}</style></head>\n"
        f"<body><h1>Which words the model's score depends on</h1>\n{body}\n"
        "<footer>Red: for the class; blue: against it; white: 0. Colours are relative to each map's largest score; a "
        "number stands in the tooltip of its word. What a map shows depends on method, reduction and baseline.</footer>\n"
        "</body></html>\n"
    )


def records(maps: "Sequence[AttributionMap]", shape: str) -> dict[str, dict[str, Any]]:
    """`instance_1`, `instance_2`, ... in the shape that AllenNLP Interpret or the article's repository writes.

    Scores are magnitudes that sum to 1 over all tokens, special ones included, as there: the sign is lost.

    Raises:
        InputError: there is no such shape.
    """
    if shape not in SHAPES:
        raise unknown("shape", shape, list(SHAPES))
    return {f"instance_{place}": _record(one, shape) for place, one in enumerate(maps, 1)}


def _record(one: "AttributionMap", shape: str) -> dict[str, Any]:
    size = np.abs(one.scores)
    total = float(size.sum())
    grad = (size / total if total else size).tolist()
    if shape == ALLENNLP:
        return {"grad_input_1": grad}
    return {
        "grad_input_1": grad,
        "tokens_input_1": list(one.tokens),
        "label_input_1": one.target,
        "prob_input_1": one.probability,
    }


def _facts(one: "AttributionMap", tokens: TokenMap) -> str:
    said = [f"largest score {number(tokens, tokens.scale)}", _gradients(one.n_gradients)]
    if one.completeness_gap is not None:
        said.append(f"completeness gap {one.completeness_gap:.2g}")
    return html.escape(visible(" · ".join(said)))


def _gradients(n: int) -> str:
    return f"{n} gradient" if n == 1 else f"{n} gradients"
