"""Token maps of single texts for people: a page of their own, and records in the shapes that older tools write.

`page(maps)` and `records(maps, shape)` are public, and stay as they are called; so is `AttributionMap.to_record`.
"""

from collections.abc import Sequence
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
    place,
)
from saliency_bench.core.continuations import runs, with_token, written
from saliency_bench.core.errors import one_of
from saliency_bench.core.heatmap import (
    bar,
    map_of_attribution,
    only_top,
    panel,
    spans_to_html,
    spans_to_rich,
    visible,
)
from saliency_bench.core.segments import map_of_segments
from saliency_bench.core.verdicts import Verdict, heads, largest_words
from saliency_bench.core.version import __version__
from saliency_bench.core.versions import versions

if TYPE_CHECKING:
    from rich.text import Text

    from saliency_bench.core.maps import AttributionMap

#: The shapes of records: AllenNLP Interpret's holds scores alone; the article's tokens, class and probability too.
ALLENNLP, ARTICLE = "allennlp", "article"
SHAPES = (ARTICLE, ALLENNLP)
#: Libraries that a record names beside this one.
_LIBRARIES = ("torch", "transformers", "numpy")


def page(
    maps: "Sequence[AttributionMap]",
    *,
    top: int | None = None,
    special_tokens: bool = False,
    verdicts: Sequence[Verdict] = (),
    conclusion: str = "",
) -> str:
    """A page that shows maps of texts, complete in itself: no script, and nothing is loaded from anywhere.

    Of a continuation that has a map for each token, the page shows the map of the token that is selected; on paper, and
    where there are no styles, it has all of them.

    Args:
        maps: in the order in which they are shown.
        top: colour only so many units with the largest magnitudes; None: all.
        special_tokens: show [CLS] and its kin too.
        verdicts: what each map was checked by, for a table under the maps.
        conclusion: a sentence above it.

    Raises:
        InputError: `top` is no whole number of at least 1.
    """
    titles, methods = headings(maps), methods_of(maps)
    groups: list[dict[str, Any]] = []
    place = 0
    for run in runs(maps):
        tokens = written(run) if len(run) > 1 else []
        names = [visible(explained(one)) for one in run] if tokens else [titles[place]]
        shown = [
            _shown(one, name, top, special_tokens, token)
            for one, name, token in zip(run, names, tokens or [""], strict=True)
        ]
        group = {"method": methods[place], "tokens": [*map(visible, tokens)], "maps": shown}
        groups.append(group)
        place += len(run)
    legends = {one["legend"]: one["bar"] for group in groups for one in group["maps"]}
    table = {"heads": heads(), "rows": [one.cells for one in verdicts], "conclusion": conclusion}
    most = max((len(group["maps"]) for group in groups), default=0)
    return _rendered("explanation.html.j2", groups=groups, most=most, legends=legends, trust=table)


def fragment(
    map_: "AttributionMap", *, top: int | None = None, special_tokens: bool = False
) -> str:
    """A map with its heading as a piece of a page, as a notebook shows it; see `AttributionMap.to_html`."""
    return _rendered("fragment.html.j2", map=_shown(map_, heading(map_), top, special_tokens))


def _shown(
    map_: "AttributionMap", title: str, top: int | None, special_tokens: bool, token: str = ""
) -> dict[str, Any]:
    """What templates show of a map; `token` is that of a continuation that it is of."""
    tokens = map_of_attribution(map_, special_tokens=special_tokens)
    colored = only_top(tokens, top)
    segments = map_of_segments(map_)
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
    """A template of this folder, with everything escaped that is not marked as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(panel=panel(), **values)


def to_rich(map_: "AttributionMap") -> "Text":
    """A map with its heading, as a terminal shows it."""
    from rich.text import Text

    tokens, segments = map_of_attribution(map_), map_of_segments(map_)
    sums: list[Any] = ["Segments: ", spans_to_rich(segments), "\n"] if segments else []
    return Text.assemble(
        (heading(map_), "bold"),
        "\n",
        spans_to_rich(tokens),
        "\n",
        *sums,
        (facts(map_, tokens), "dim"),
    )


def records(maps: "Sequence[AttributionMap]", shape: str = ARTICLE) -> dict[str, dict[str, Any]]:
    """`instance_1`, `instance_2`, ... of `record`, as AllenNLP Interpret and the article's repository number them.

    Raises:
        InputError: there is no such shape.
    """
    return {f"instance_{number}": record(map_, shape) for number, map_ in enumerate(maps, 1)}


def record(map_: "AttributionMap", shape: str = ARTICLE) -> dict[str, Any]:
    """Writes a map in the shape of AllenNLP Interpret or of the article's repository, followed by what it is of.

    Scores are magnitudes that sum to 1 over all tokens, special ones included, as there: the sign is lost. What is no
    number is null, which JSON has, and `reason` says so. The keys that those tools do not have: `text`, the explained
    `class` by name, `example_id`, `place` (the token or boundary that was asked; null where a text is asked once),
    `method`, `backend`, `seed`, the whole `setting`, and the `versions` of this package and of what it computes with.

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


def _shares(map_: "AttributionMap") -> list[float | None]:
    """Magnitudes over their sum; None for what is no number."""
    size, finite = np.abs(map_.scores), np.isfinite(map_.scores)
    total = float(size[finite].sum())
    shares = (size / total if total else size).tolist()
    return [share if real else None for share, real in zip(shares, finite.tolist(), strict=True)]


def _origin(map_: "AttributionMap") -> dict[str, Any]:
    """What a record is of."""
    asked_at = place(map_.encoded)
    n_lost = int((~np.isfinite(map_.scores)).sum())
    reason = f"{n_lost} of {len(map_.scores)} scores are no numbers: null" if n_lost else None
    return {
        "text": [text for text in (map_.encoded.text, map_.encoded.text_pair) if text is not None],
        "class": map_.label,
        "example_id": map_.example_id,
        "place": None if asked_at is None else asked_at._asdict(),
        "method": map_.setting.get("method"),
        "backend": map_.setting.get("backend"),
        "seed": map_.setting.get("seed"),
        "setting": dict(map_.setting),
        "versions": {"saliency_bench": __version__} | versions(_LIBRARIES),
        "reason": reason,
    }
