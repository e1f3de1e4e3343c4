"""The segments of a text by name, each with the sum of its scores, for the line under a map. Imports no torch."""

from dataclasses import replace

from saliency_bench.core.heatmap import Span, TokenMap, number
from saliency_bench.core.method_facts import signed as has_sign
from saliency_bench.core.scored_text import ScoredText
from saliency_bench.core.units import SEGMENT, units_of, unplaced


def segment_map(map_: ScoredText) -> TokenMap | None:
    """Returns the segments of a text (passages, messages of a chat) by name, each with its sum; None if it has none."""
    encoded, scores = map_.encoded, map_.scores
    if not encoded.parts or unplaced(encoded):
        return None
    tokens = TokenMap((), has_sign(map_.setting, scores.tolist()))
    spans: list[Span] = []
    for unit in units_of(encoded, SEGMENT):
        score = float(scores[[*unit.tokens]].sum())
        shown = f" {unit.name} {number(tokens, score)} "
        spans += [Span("  ")] * bool(spans) + [Span(shown, score)]
    return replace(tokens, spans=tuple(spans))
