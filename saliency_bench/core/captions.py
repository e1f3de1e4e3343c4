"""Texts around a map: its heading, the facts under it, and the meaning of its colours."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from saliency_bench.core.errors import counted
from saliency_bench.core.heatmap import TokenMap, number, visible
from saliency_bench.core.labels import (
    BACKWARD,
    hyperparameters,
    setting_label,
    value_label,
    varying,
)
from saliency_bench.core.method_facts import backward_parts, facts_of, is_reference
from saliency_bench.core.scored_text import ScoredText
from saliency_bench.core.text import BOUNDARIES, Encoded

#: Hyperparameters of methods that draw at random, for which the seed is shown.
_DRAWN = ("n_samples", "n_rankings")
#: Values of a setting that are shown first, in this order.
_FIRST = ("output", "target", "reduction", "baseline", "removal", "n_steps", "n_samples")


class Place(NamedTuple):
    """The place that a question is about: a token, counted from 0 with special ones, or a boundary of the answer."""

    token: int | None
    written: str


def place_of(encoded: Encoded) -> Place | None:
    """Returns the place that the question of a text is about; None in tasks with one question per text."""
    if encoded.boundary is not None:
        return Place(None, BOUNDARIES[encoded.boundary])
    if (token := encoded.position) is None:
        return None
    text = {0: encoded.text, 1: encoded.text_pair}.get(encoded.segments[token])
    start, end = encoded.offsets[token]
    written = text[start:end].strip() if isinstance(text, str) and start >= 0 else ""
    return Place(token, written or encoded.tokens[token])


def headings(maps: Sequence[ScoredText]) -> list[str]:
    """Returns a heading for each map. It names the hyperparameters in which maps of one method differ."""
    return [_heading(map_, method) for map_, method in zip(maps, methods_of(maps), strict=True)]


def methods_of(maps: Sequence[ScoredText]) -> list[str]:
    """Returns the method of each map, with the hyperparameters in which maps of one method differ.

    The backend is named if it is not ours, and of our map beside one of another backend.
    """
    settings = [_named(map_) for map_ in maps]
    by_others = {setting["name"] for setting in settings if is_reference(setting)}
    return [
        setting_label(
            setting,
            [key for key in varying(settings, setting["name"]) if _in_heading(key, setting)],
            setting["name"] in by_others,
        )
        for setting in settings
    ]


def heading(map_: ScoredText) -> str:
    """Returns the heading of a single map: method, a backend that is not ours, place, explained class."""
    return headings([map_])[0]


def _named(map_: ScoredText) -> Mapping[str, Any]:
    return dict(map_.setting) | {
        "name": str(map_.setting.get("name") or map_.setting.get("method"))
    }


def _in_heading(key: str, setting: Mapping[str, Any]) -> bool:
    """Whether a heading has this key. The number of a class is left out: its label is there."""
    return not (key == "target" and isinstance(setting.get(key), int))


def _heading(map_: ScoredText, method: str) -> str:
    encoded, where = map_.encoded, ""
    place = place_of(encoded)
    # The label of a boundary names its place: "start at London". The end of a chat's template says nothing.
    if place and place.token is not None and not (encoded.turns and encoded.special[place.token]):
        where = f" at {place.written} (token {place.token})"
    return visible(f"{method}{where}: {explained(map_)}")


def explained(map_: ScoredText) -> str:
    """Returns the explained class and its probability."""
    return f"{map_.label} ({probability(map_.probability)})"


def probability(value: float) -> str:
    """Returns a probability in three decimals, or in scientific notation where these would be 0.000."""
    return f"{value:.1e}" if 0 < value < 0.0005 else f"{value:.3f}"


def facts(map_: ScoredText, tokens: TokenMap) -> str:
    """Lists every hyperparameter as a configuration writes it, and the cost and quality of the map."""
    values = _shown_values(map_.setting)
    parts = [", ".join(f"{key}={value_label(value)}" for key, value in values.items())]
    if tokens.scale or not missing(tokens):
        parts.append(f"largest score {number(tokens, tokens.scale)}")
    parts += [missing(tokens), _rule_parts(map_.setting)]
    parts.append(counted(map_.n_gradients, "gradient"))
    if map_.completeness_gap is not None:
        parts.append(f"completeness gap {map_.completeness_gap:.2g}")
    if map_.converged is False:
        parts.append(f"not converged{f' ({map_.reason})' if map_.reason else ''}")
    return visible(" · ".join(part for part in parts if part))


def _rule_parts(setting: Mapping[str, Any]) -> str:
    """Counts the modules that a backward rule acts at, by part: "attnlrp acts at 5 normalisation, no product"."""
    times = {part: sum(modules.values()) for part, modules in backward_parts(setting).items()}
    listed = ", ".join(f"{n or 'no'} {part}" for part, n in times.items())
    return f"{setting.get(BACKWARD)} acts at {listed}" if listed else ""


def _shown_values(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a setting, without names, nulls and values that have no effect."""
    hyper = hyperparameters(setting)
    values = {
        key: setting[key] for key in ("output", "target", "reduction") if key in setting
    } | hyper
    if not facts_of(setting).explains_output:
        values.pop("output", None)
    if "seed" in setting and any(key in hyper for key in _DRAWN):
        values["seed"] = setting["seed"]
    order = [
        *(key for key in _FIRST if key in values),
        *(key for key in values if key not in _FIRST),
    ]
    return {key: values[key] for key in order if values[key] not in (None, "none")}


def missing(tokens: TokenMap) -> str:
    """Counts the scores that are not finite, in words; an empty text if there are none."""
    n, wrong = len(tokens.scores), [x for x in tokens.scores if not math.isfinite(x)]
    kinds = "NaN" if all(math.isnan(x) for x in wrong) else "NaN or infinite"
    return f"no number in {len(wrong)} of {counted(n, 'score')} ({kinds}): grey" if wrong else ""


def legend(map_: ScoredText, signed: bool, top: int | None = None, zero: str = "no colour") -> str:
    """Explains the colours of a map.

    Args:
        map_: the map.
        signed: whether its scores have a sign.
        top: the number of scores that are coloured, the largest; None: all.
        zero: the name of the colour of 0.
    """
    limit = "" if top is None else f" Only the largest {top} of a map are coloured."
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
    return meaning + limit
