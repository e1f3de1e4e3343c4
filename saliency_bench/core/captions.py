"""Texts around a map: its heading, the facts under it, and what its colours mean."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from saliency_bench.core.heatmap import TokenMap, number, visible
from saliency_bench.core.labels import BACKWARD, hyperparameters, value_label, value_of, varying
from saliency_bench.core.method_facts import backward_parts, facts_of

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
    """Makes a heading for each map; it names what the maps of one method differ in."""
    return [_heading(map_, method) for map_, method in zip(maps, methods_of(maps), strict=True)]


def methods_of(maps: "Sequence[AttributionMap]") -> list[str]:
    """The method of each map, with what the maps of one method differ in and its backend."""
    settings = [_named(map_) for map_ in maps]
    return [
        _method(
            setting, [key for key in varying(settings, setting["name"]) if _tells(key, setting)]
        )
        for setting in settings
    ]


def heading(map_: "AttributionMap") -> str:
    """Makes the heading of a single map: method, backend, place, explained class."""
    return _heading(map_, _method(_named(map_), []))


def _named(map_: "AttributionMap") -> Mapping[str, Any]:
    return dict(map_.setting) | {
        "name": str(map_.setting.get("name") or map_.setting.get("method"))
    }


def _tells(key: str, setting: Mapping[str, Any]) -> bool:
    """Whether a key belongs in a heading: a class by number is already named by its label."""
    return not (key == "target" and isinstance(setting.get(key), int))


def _method(setting: Mapping[str, Any], differing: Sequence[str]) -> str:
    details = [f"{key}={value_label(value_of(setting, key))}" for key in differing]
    details += [label] if (label := facts_of(setting).backend) else []
    return facts_of(setting).entry + (f" ({', '.join(details)})" if details else "")


def _heading(map_: "AttributionMap", method: str) -> str:
    asked_at = place(map_.encoded)
    # The class of a boundary names both: "start at London".
    where = (
        f" at {asked_at.written} (token {asked_at.token})"
        if asked_at and asked_at.token is not None
        else ""
    )
    return visible(f"{method}{where}: {explained(map_)}")


def explained(map_: "AttributionMap") -> str:
    """The explained class and its probability."""
    return f"{map_.label} ({map_.probability:.3f})"


def facts(map_: "AttributionMap", tokens: TokenMap) -> str:
    """Lists every hyperparameter as a configuration writes it, and the cost and quality of the map."""
    parts = [", ".join(f"{key}={value_label(value)}" for key, value in _said(map_.setting).items())]
    if tokens.scale or not missing(tokens):
        parts.append(f"largest score {number(tokens, tokens.scale)}")
    parts += [why] if (why := missing(tokens)) else []
    parts += [where] if (where := _rule_parts(map_.setting)) else []
    parts.append(f"{map_.n_gradients} gradient{'' if map_.n_gradients == 1 else 's'}")
    if map_.completeness_gap is not None:
        parts.append(f"completeness gap {map_.completeness_gap:.2g}")
    if map_.converged is False:
        parts.append(f"not converged{f' ({map_.reason})' if map_.reason else ''}")
    return visible(" · ".join(part for part in parts if part))


def _rule_parts(setting: Mapping[str, Any]) -> str:
    """How often a backward rule acts at each part of the model: "acts at 5 normalisation, 2 softmax, no product"."""
    times = {part: sum(modules.values()) for part, modules in backward_parts(setting).items()}
    listed = ", ".join(f"{n or 'no'} {part}" for part, n in times.items())
    return f"{setting.get(BACKWARD)} acts at {listed}" if listed else ""


def _said(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a setting, without names and without those that are null or have no effect."""
    hyper = hyperparameters(setting)
    kept = {
        key: setting[key] for key in ("output", "target", "reduction") if key in setting
    } | hyper
    if not facts_of(setting).explains_output:
        kept.pop("output", None)
    if "seed" in setting and any(key in hyper for key in _DRAWN):
        kept["seed"] = setting["seed"]
    order = [*(key for key in _FIRST if key in kept), *(key for key in kept if key not in _FIRST)]
    return {key: kept[key] for key in order if kept[key] not in (None, "none")}


def missing(tokens: TokenMap) -> str:
    """Says how many scores are not finite; empty where all are."""
    n, wrong = len(tokens.scores), [x for x in tokens.scores if not math.isfinite(x)]
    kinds = "NaN" if all(math.isnan(x) for x in wrong) else "NaN or infinite"
    return f"{len(wrong)} of {n} scores are no numbers ({kinds}): grey" if wrong else ""


def legend(
    map_: "AttributionMap", signed: bool, top: int | None = None, zero: str = "no colour"
) -> str:
    """Explains the colours of a map. Only the `top` largest scores are coloured; `zero` names the colour of 0."""
    rest = "" if top is None else f" Only the largest {top} of a map are coloured."
    if not signed:
        meaning = (
            "Purple: the larger the score, the stronger. Magnitudes have no sign: they do not say whether a word "
            "speaks for the class or against it."
        )
    elif map_.setting.get("output") == "cross_entropy":
        meaning = (
            f"Red: raises the loss of the class, so speaks against it; blue: lowers it; {zero}: 0."
        )
    else:
        meaning = f"Red: for the class; blue: against it; {zero}: 0."
    return meaning + rest
