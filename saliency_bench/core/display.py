"""Token maps of single texts for people: an HTML page, terminal text, and records in the shapes of older tools.

The names `page`, `records` and `AttributionMap.to_record` are public and do not change.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from saliency_bench.core.captions import (
    explained,
    facts,
    heading,
    headings,
    legend,
    methods_of,
    place_of,
)
from saliency_bench.core.continuations import runs, with_token, written
from saliency_bench.core.errors import counted, one_of
from saliency_bench.core.heatmap import (
    bar,
    only_top,
    panel,
    spans_to_html,
    spans_to_rich,
    token_map,
    visible,
)
from saliency_bench.core.scored_text import ScoredText
from saliency_bench.core.segments import segment_map
from saliency_bench.core.verdicts import Verdict, heads, largest_words
from saliency_bench.core.version import __version__
from saliency_bench.core.versions import versions

if TYPE_CHECKING:
    from jinja2 import Environment
    from rich.text import Text

#: The shapes of records: AllenNLP Interpret's holds scores alone; the article's tokens, class and probability too.
ALLENNLP, ARTICLE = "allennlp", "article"
SHAPES = (ARTICLE, ALLENNLP)
#: Libraries that a record names beside this one.
_LIBRARIES = ("torch", "transformers", "numpy")


def page(
    maps: Sequence[ScoredText],
    *,
    top: int | None = None,
    special_tokens: bool = False,
    verdicts: Sequence[Verdict] = (),
    result: Sequence[str] = (),
    made: Mapping[str, str] | None = None,
) -> str:
    """Returns an HTML page of maps that needs no script and loads nothing.

    If a continuation has a map for each token, the page shows the map of the selected token. On paper, and without styles,
    it shows all of them.

    Args:
        maps: the maps in the order of the page.
        top: the number of units to colour, those with the largest magnitudes; None: all.
        special_tokens: whether special tokens such as [CLS] are shown.
        verdicts: the checks of the maps, for a table under them.
        result: sentences for the top of the page, the most important first.
        made: what the foot of the page names beside the version, by kind: the model, the command.

    Raises:
        InputError: `top` is not a whole number of at least 1.
    """
    titles, methods = headings(maps), methods_of(maps)
    groups: list[dict[str, Any]] = []
    n_before = 0
    for run in runs(maps):
        tokens = written(run) if len(run) > 1 else []
        names = [visible(explained(map_)) for map_ in run] if tokens else [titles[n_before]]
        shown = [
            _shown(map_, name, top, special_tokens, token)
            for map_, name, token in zip(run, names, tokens or [""], strict=True)
        ]
        labels = [visible(token).replace("␊", "↵") for token in tokens]
        group = {"method": methods[n_before], "tokens": labels, "maps": shown}
        groups.append(group)
        n_before += len(run)
    legends = {map_["legend"]: map_["bar"] for group in groups for map_ in group["maps"]}
    rows = [verdict.cells for verdict in verdicts]
    return _rendered(
        "explanation.html.j2",
        groups=groups,
        most=max((len(group["maps"]) for group in groups), default=0),
        legends=legends,
        trust={"heads": heads(), "rows": rows},
        result=[visible(sentence) for sentence in filter(None, result)],
        made={key: visible(value) for key, value in (made or {}).items()},
        version=__version__,
    )


def fragment(map_: ScoredText, *, top: int | None = None, special_tokens: bool = False) -> str:
    """Returns a map with its heading as a piece of a page, as a notebook shows it; see `AttributionMap.to_html`."""
    return _rendered("fragment.html.j2", map=_shown(map_, heading(map_), top, special_tokens))


def _shown(
    map_: ScoredText, title: str, top: int | None, special_tokens: bool, token: str = ""
) -> dict[str, Any]:
    """Returns the values that templates show of a map; `token` is the token of a continuation that it explains."""
    tokens = token_map(map_, special_tokens=special_tokens)
    colored = only_top(tokens, top)
    segments = segment_map(map_)
    return {
        "title": title,
        "text": Markup(
            spans_to_html(with_token(colored, map_.encoded, token) if token else colored)
        ),
        "segments": Markup(spans_to_html(segments)) if segments else "",
        "words": largest_words(map_, tokens.signed),
        "facts": facts(map_, tokens),
        "legend": legend(map_, tokens.signed, top),
        "bar": bar(tokens.signed),
    }


def _rendered(template: str, **values: Any) -> str:
    environment = templates(Path(__file__).parent)
    return environment.get_template(template).render(panel=panel(), **values)


def templates(folder: Path) -> "Environment":
    """Returns the templates of a folder; they escape everything that is not marked as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def to_rich(map_: ScoredText) -> "Text":
    """Returns a map with its heading, as a terminal shows it."""
    from rich.text import Text

    tokens, segments = token_map(map_), segment_map(map_)
    sums: list[Any] = ["Segments: ", spans_to_rich(segments), "\n"] if segments else []
    return Text.assemble(
        (heading(map_), "bold"),
        "\n",
        spans_to_rich(tokens),
        "\n",
        *sums,
        (facts(map_, tokens), "dim"),
    )


def records(maps: Sequence[ScoredText], shape: str = ARTICLE) -> dict[str, dict[str, Any]]:
    """Returns a `record` of each map under `instance_1`, `instance_2`, ..., as AllenNLP Interpret and the article do.

    Raises:
        InputError: there is no such shape.
    """
    return {f"instance_{number}": record(map_, shape) for number, map_ in enumerate(maps, 1)}


def record(map_: ScoredText, shape: str = ARTICLE) -> dict[str, Any]:
    """Returns a map in the shape of AllenNLP Interpret or of the article's repository, followed by its origin.

    Scores are magnitudes that sum to 1 over all tokens, special ones included, as in those tools: the sign is lost. A score
    that is not finite is null, and `reason` says so. These keys are added: `text`, the name of the explained `class`,
    `example_id`, `place` (the token or boundary that the question is about; null if a text has one question), `method`,
    `backend`, `seed`, the whole `setting`, and the `versions` of this package and of the libraries that compute.

    Raises:
        InputError: there is no such shape.
    """
    one_of("shape", shape, SHAPES)
    values: dict[str, Any] = {"grad_input_1": _shares(map_)}
    if shape == ARTICLE:
        values |= {
            "tokens_input_1": list(map_.tokens),
            "label_input_1": map_.target,
            "prob_input_1": map_.probability if np.isfinite(map_.probability) else None,
        }
    return values | _origin(map_)


def _shares(map_: ScoredText) -> list[float | None]:
    """Returns magnitudes over their sum; None for a score that is not finite."""
    size, finite = np.abs(map_.scores), np.isfinite(map_.scores)
    total = float(size[finite].sum())
    shares = (size / total if total else size).tolist()
    return [share if real else None for share, real in zip(shares, finite.tolist(), strict=True)]


def _origin(map_: ScoredText) -> dict[str, Any]:
    """Returns the text, the class, the setting and the versions that a record is of."""
    place = place_of(map_.encoded)
    n_lost = int((~np.isfinite(map_.scores)).sum())
    reason = (
        f"no number in {n_lost} of {counted(len(map_.scores), 'score')}: null" if n_lost else None
    )
    return {
        "text": [text for text in (map_.encoded.text, map_.encoded.text_pair) if text is not None],
        "class": map_.label,
        "example_id": map_.example_id,
        "place": None if place is None else place._asdict(),
        "method": map_.setting.get("method"),
        "backend": map_.setting.get("backend"),
        "seed": map_.setting.get("seed"),
        "setting": dict(map_.setting),
        "versions": {"saliency_bench": __version__} | versions(_LIBRARIES),
        "reason": reason,
    }
