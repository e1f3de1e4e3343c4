"""Token maps of single texts for people: a page of their own, and records in the shapes that older tools write.

`page(maps)` and `records(maps, shape)` are public, and stay as they are called; so is `AttributionMap.to_record`.
"""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saliency_bench import __version__
from saliency_bench.core.captions import facts, heading, headings, legend, place
from saliency_bench.core.errors import unknown
from saliency_bench.core.heatmap import (
    bar,
    map_of_attribution,
    only_top,
    panel,
    spans_to_html,
    spans_to_rich,
)
from saliency_bench.core.versions import versions

if TYPE_CHECKING:
    from rich.text import Text

    from saliency_bench.core.maps import AttributionMap

#: The shapes of records: AllenNLP Interpret's holds scores alone; the article's tokens, class and probability too.
ALLENNLP, ARTICLE = "allennlp", "article"
SHAPES = (ARTICLE, ALLENNLP)
#: Libraries that a record names beside this one.
_LIBRARIES = ("torch", "transformers", "numpy")

#: Notebooks and documentation have themes of their own, which need not be the system's.
_THEMES = """\
[data-jp-theme-light="true"] .saliency-bench, [data-theme="light"] .saliency-bench, html[theme="light"] .saliency-bench,
.vscode-light .saliency-bench { color-scheme: light }
[data-jp-theme-light="false"] .saliency-bench, [data-theme="dark"] .saliency-bench, html[theme="dark"] .saliency-bench,
.vscode-dark .saliency-bench, .vscode-high-contrast:not(.vscode-high-contrast-light) .saliency-bench { color-scheme: dark }
"""
_STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d9dee3; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #343b43; --paper: #14171a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem; max-width: 52rem; background: var(--paper); color: var(--ink);
  font: 17px/1.8 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 1.25rem; }
.map { border: 1px solid var(--line); border-radius: 8px; margin: 0 0 1rem; padding: .7rem .9rem .75rem; }
.map h2 { font-size: .9rem; line-height: 1.4; margin: 0 0 .35rem; }
.facts { font-size: .76rem; line-height: 1.45; margin: .45rem 0 0; opacity: .8; }
footer { color: var(--soft); margin-top: 1.75rem; font-size: .82rem; line-height: 1.55; } footer p { margin: .4rem 0; }
.bar { display: inline-block; width: 4.5rem; height: .7rem; border: 1px solid var(--line); border-radius: 3px; margin-right: .3rem; }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; }
  .map { break-inside: avoid; } .map span, .bar { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
_CAUTION = (
    "Colours are relative to each map's largest score; the exact number stands in the tooltip of its word. What a map "
    "shows depends on method, reduction and baseline."
)


def page(
    maps: "Sequence[AttributionMap]", *, top: int | None = None, special_tokens: bool = False
) -> str:
    """A page that shows maps of texts, complete in itself: no script, and nothing is asked of anybody.

    Args:
        maps: in the order in which they are shown.
        top: colour only so many units with the largest magnitudes; None: all.
        special_tokens: show [CLS] and its kin too.

    Raises:
        InputError: `top` is no whole number of at least 1.
    """
    parts, legends = [], {}
    for one, title in zip(maps, headings(maps), strict=True):
        tokens = map_of_attribution(one, special_tokens=special_tokens)
        legends[legend(one, tokens.signed, top)] = bar(tokens.signed)
        parts.append(
            f'<section class="map" style="{panel()}"><h2>{html.escape(title)}</h2>\n'
            f"{spans_to_html(only_top(tokens, top))}\n"
            f'<p class="facts">{html.escape(facts(one, tokens))}</p></section>'
        )
    body = "\n".join(parts)
    footer = "\n".join(
        f'<p><span class="bar" style="{colors}"></span> {html.escape(text)}</p>'
        for text, colors in legends.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>saliency_bench: an explanation</title>\n<style>\n{_STYLE}</style></head>\n"
        f"<body><h1>Which words the model's score depends on</h1>\n{body}\n"
        f"<footer>{footer}\n<p>{_CAUTION}</p></footer>\n</body></html>\n"
    )


def fragment(one: "AttributionMap", *, top: int | None = None, special_tokens: bool = False) -> str:
    """A map with its heading as a piece of a page, as a notebook shows it; see `AttributionMap.to_html`."""
    tokens = map_of_attribution(one, special_tokens=special_tokens)
    small = "font-size:.8em;line-height:1.45;opacity:.8"
    said = [facts(one, tokens), legend(one, tokens.signed, top)]
    return (
        f"<style>{_THEMES}</style>"
        f'<div class="saliency-bench" style="{panel()}padding:.6em .8em;border-radius:6px;line-height:1.75;'
        'overflow-wrap:anywhere">'
        f'<div style="font-size:.9em"><b>{html.escape(heading(one))}</b></div>'
        f"<div>{spans_to_html(only_top(tokens, top))}</div>"
        + "".join(f'<div style="{small}">{html.escape(text)}</div>' for text in said)
        + "</div>"
    )


def to_rich(one: "AttributionMap") -> "Text":
    """A map with its heading, as a terminal shows it."""
    from rich.text import Text

    tokens = map_of_attribution(one)
    return Text.assemble(
        (heading(one), "bold"), "\n", spans_to_rich(tokens), "\n", (facts(one, tokens), "dim")
    )


def records(maps: "Sequence[AttributionMap]", shape: str = ARTICLE) -> dict[str, dict[str, Any]]:
    """`instance_1`, `instance_2`, ... of `record`, as AllenNLP Interpret and the article's repository number them.

    Raises:
        InputError: there is no such shape.
    """
    return {f"instance_{number}": record(one, shape) for number, one in enumerate(maps, 1)}


def record(one: "AttributionMap", shape: str = ARTICLE) -> dict[str, Any]:
    """A map in the shape that AllenNLP Interpret or the article's repository writes, and below that what it is of.

    Scores are magnitudes that sum to 1 over all tokens, special ones included, as there: the sign is lost. What is no
    number is null, which JSON has, and `reason` says so. The keys that those tools do not have: `text`, the explained
    `class` by name, `example_id`, `place` (the token or boundary that was asked; null where a text is asked once),
    `method`, `backend`, `seed`, the whole `setting`, and the `versions` of this package and of what it computes with.

    Raises:
        InputError: there is no such shape.
    """
    if shape not in SHAPES:
        raise unknown("shape", shape, list(SHAPES))
    own: dict[str, Any] = {"grad_input_1": _shares(one)}
    if shape == ARTICLE:
        own |= {
            "tokens_input_1": list(one.tokens),
            "label_input_1": one.target,
            "prob_input_1": one.probability if np.isfinite(one.probability) else None,
        }
    return own | _origin(one)


def _shares(one: "AttributionMap") -> list[float | None]:
    """Magnitudes over their sum; None for what is no number."""
    size, known = np.abs(one.scores), np.isfinite(one.scores)
    total = float(size[known].sum())
    shares = (size / total if total else size).tolist()
    return [share if real else None for share, real in zip(shares, known.tolist(), strict=True)]


def _origin(one: "AttributionMap") -> dict[str, Any]:
    """What a record is of."""
    asked = place(one.encoded)
    n_lost = int((~np.isfinite(one.scores)).sum())
    reason = f"{n_lost} of {len(one.scores)} scores are no numbers: null" if n_lost else None
    return {
        "text": [text for text in (one.encoded.text, one.encoded.text_pair) if text is not None],
        "class": one.label,
        "example_id": one.example_id,
        "place": None if asked is None else {"token": asked.token, "written": asked.written},
        "method": one.setting.get("method"),
        "backend": one.setting.get("backend"),
        "seed": one.setting.get("seed"),
        "setting": dict(one.setting),
        "versions": {"saliency_bench": __version__} | versions(_LIBRARIES),
        "reason": reason,
    }
