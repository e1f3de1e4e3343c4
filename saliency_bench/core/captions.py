"""What a map is of, in words: its heading, the facts under it, and what its colours mean."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from saliency_bench.core.heatmap import TokenMap, number, visible
from saliency_bench.core.labels import (
    hyperparameters,
    value_label,
    value_of,
    varying,
)
from saliency_bench.core.method_facts import facts_of

if TYPE_CHECKING:
    from saliency_bench.core.maps import AttributionMap
    from saliency_bench.core.text import Encoded

#: Hyperparameters of methods that draw at random, whose seed is a fact.
_DRAWN = ("n_samples", "n_rankings")
#: Facts that come first, in this order.
_FIRST = ("output", "target", "reduction", "baseline", "removal", "n_steps", "n_samples")
_BOUNDARIES = ("start", "end")


class Place(NamedTuple):
    """Where a text was asked: a token, counted from 0 with special ones, or a boundary of the answer."""

    token: int | None
    written: str


def place(encoded: "Encoded") -> Place | None:
    """Where a text was asked; None in tasks that ask once of each text."""
    if encoded.boundary is not None:
        return Place(None, _BOUNDARIES[encoded.boundary])
    if encoded.position is None:
        return None
    texts, token = (encoded.text, encoded.text_pair), encoded.position
    written = _written(texts, encoded.segments[token], *encoded.offsets[token])
    return Place(token, written or encoded.tokens[token])


def _written(texts: Sequence[Any], segment: int, start: int, end: int) -> str:
    """What stands in the text where a token is; nothing where it has no place there."""
    text = texts[segment] if segment >= 0 else None
    return text[start:end].strip() if isinstance(text, str) and start >= 0 else ""


def place_of_row(row: Mapping[str, Any], example: Mapping[str, Any], question: str) -> Place | None:
    """The same of a line of `maps`, with that of `examples` and what follows the text's name in its `example_id`."""
    if question in _BOUNDARIES:
        return Place(None, question)
    # Names are whatever a folder says: one of no token asks about none.
    tokens = {str(token): token for token in range(len(row["tokens"]))}
    if (token := tokens.get(question)) is None:
        return None
    at = (int(row[key][token]) for key in ("segments", "starts", "ends"))
    written = _written((example["text"], example["text_pair"]), *at)
    return Place(token, written or row["tokens"][token])


def headings(maps: "Sequence[AttributionMap]") -> list[str]:
    """A heading for each map of a display, which names what the maps of one method differ in."""
    settings = [_named(one) for one in maps]
    return [
        _heading(one, [key for key in varying(settings, own["name"]) if _tells(key, own)])
        for one, own in zip(maps, settings, strict=True)
    ]


def heading(one: "AttributionMap") -> str:
    """What a map that stands alone shows: method, backend, place, explained class."""
    return _heading(one, [])


def _named(one: "AttributionMap") -> Mapping[str, Any]:
    return dict(one.setting) | {"name": str(one.setting.get("name") or one.setting.get("method"))}


def _tells(key: str, setting: Mapping[str, Any]) -> bool:
    """A class by number is named by its label already."""
    return not (key == "target" and isinstance(setting.get(key), int))


def _heading(one: "AttributionMap", differing: Sequence[str]) -> str:
    setting = _named(one)
    details = [f"{key}={value_label(value_of(setting, key))}" for key in differing]
    details += [label] if (label := facts_of(setting).backend) else []
    method = facts_of(setting).entry + (f" ({', '.join(details)})" if details else "")
    found = place(one.encoded)
    # The class of a boundary names both: "start at London".
    where = (
        f" at {found.written} (token {found.token})" if found and found.token is not None else ""
    )
    return visible(f"{method}{where}: {one.label} ({one.probability:.3f})")


def facts(one: "AttributionMap", tokens: TokenMap) -> str:
    """Every hyperparameter, as a configuration says it, and what came of them."""
    said = [", ".join(f"{key}={value_label(value)}" for key, value in _said(one.setting).items())]
    if tokens.scale or not missing(tokens):
        said.append(f"largest score {number(tokens, tokens.scale)}")
    said += [why] if (why := missing(tokens)) else []
    said.append(f"{one.n_gradients} gradient{'' if one.n_gradients == 1 else 's'}")
    if one.completeness_gap is not None:
        said.append(f"completeness gap {one.completeness_gap:.2g}")
    if one.converged is False:
        said.append(f"not converged{f' ({one.reason})' if one.reason else ''}")
    return visible(" · ".join(part for part in said if part))


def _said(setting: Mapping[str, Any]) -> dict[str, Any]:
    """What a setting says: no names of it, and nothing that is null or does not count."""
    own = hyperparameters(setting)
    kept = {key: setting[key] for key in ("output", "target", "reduction") if key in setting} | own
    if not facts_of(setting).explains_output:
        kept.pop("output", None)
    if "seed" in setting and any(key in own for key in _DRAWN):
        kept["seed"] = setting["seed"]
    order = [*(key for key in _FIRST if key in kept), *(key for key in kept if key not in _FIRST)]
    return {key: kept[key] for key in order if kept[key] not in (None, "none")}


def missing(tokens: TokenMap) -> str:
    """How many scores are no numbers; nothing where all are."""
    n, wrong = len(tokens.scores), [x for x in tokens.scores if not math.isfinite(x)]
    kinds = "NaN" if all(math.isnan(x) for x in wrong) else "NaN or infinite"
    return f"{len(wrong)} of {n} scores are no numbers ({kinds}): grey" if wrong else ""


def legend(
    one: "AttributionMap", signed: bool, top: int | None = None, zero: str = "no colour"
) -> str:
    """What the colours of a map mean, of which only the `top` largest scores are coloured; `zero` is that of 0."""
    rest = "" if top is None else f" Only the largest {top} of a map are coloured."
    if not signed:
        said = (
            "Purple: the larger the score, the stronger. Magnitudes have no sign: they do not say whether a word "
            "speaks for the class or against it."
        )
    elif one.setting.get("output") == "cross_entropy":
        said = (
            f"Red: raises the loss of the class, so speaks against it; blue: lowers it; {zero}: 0."
        )
    else:
        said = f"Red: for the class; blue: against it; {zero}: 0."
    return said + rest
