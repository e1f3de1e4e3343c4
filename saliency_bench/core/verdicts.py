"""Checks of the maps of one text, and the results of their settings in a committed study: which map to trust."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from saliency_bench.core.captions import explained, methods_of
from saliency_bench.core.errors import counted
from saliency_bench.core.heatmap import visible
from saliency_bench.core.labels import listed
from saliency_bench.core.method_facts import entry_label, signed
from saliency_bench.core.scored_text import ScoredText

#: Written by `scripts/evidence.py`.
EVIDENCE = Path(__file__).with_name("evidence.json")
#: The number of words of a map that are named, the largest first.
N_WORDS = 3


@dataclass(frozen=True)
class Limits:
    """The limits at which a map counts as exact enough, from `convergence` of conf/config.yaml."""

    largest_gap: float
    smallest_tau: float


@dataclass(frozen=True)
class Evidence:
    """The mean SRG of a setting in the study, its 95 % interval, and the letters of those that it does not differ from."""

    mean: float
    low: float
    high: float
    group: str

    def __str__(self) -> str:
        return f"{self.mean:z.3f} [{self.low:z.3f}, {self.high:z.3f}]"

    def shares(self, other: "Evidence") -> bool:
        """Whether the study finds no difference from the other: they share a letter."""
        return bool({*self.group} & {*other.group})


@dataclass(frozen=True)
class Verdict:
    """The result of a map's checks (`passed`, None if it has none), in words (`why`), and the evidence for its setting.

    `favoured`: the method compares with the token that replaces removed ones in the study of the evidence.
    """

    label: str
    passed: bool | None
    why: str
    evidence: Evidence | None
    favoured: bool = False

    @property
    def cells(self) -> tuple[str, str, str]:
        """The line of a table under `heads`."""
        mark = {True: "passed: ", False: "failed: ", None: ""}[self.passed]
        return visible(self.label), visible(mark + self.why), str(self.evidence or "not measured")


def verdict(map_: ScoredText, limits: Limits) -> Verdict:
    """Checks a map and returns the results in words with their numbers, and the evidence for its setting.

    The sum of scores is checked against the difference of outputs (completeness), random draws by the rank correlation of
    their two halves, and an adaptive method by its own estimate of the error.
    """
    checks = [*_checks(map_, limits)]
    failed = [words for passed_check, words in checks if not passed_check]
    why = "; ".join(failed or [words for _, words in checks]) or "nothing to check it by"
    passed = None if not checks else not failed
    favoured = "mask" in (map_.setting.get("baseline"), map_.setting.get("removal"))
    return Verdict(entry_label(map_.setting), passed, why, evidence_of(map_), favoured)


def judged(runs: Sequence[Sequence[ScoredText]], limits: Limits) -> list[Verdict]:
    """Returns the verdict of each run of maps (`continuations.runs`), labelled so that settings of one method differ."""
    labels = methods_of([run[0] for run in runs])
    verdicts = [together([verdict(map_, limits) for map_ in run]) for run in runs]
    return [replace(one, label=label) for one, label in zip(verdicts, labels, strict=True)]


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Returns one verdict for the maps of a continuation's tokens; it is failed if one of them is."""
    if len(verdicts) == 1:
        return verdicts[0]
    checked = [(n, verdict) for n, verdict in enumerate(verdicts, 1) if verdict.passed is not None]
    failed = [(n, verdict) for n, verdict in checked if not verdict.passed]
    if not checked:
        return verdicts[0]
    number, shown = (failed or checked)[0]
    count = f"{len(failed)} failed" if failed else f"{len(checked)} passed"
    why = f"{count} of {counted(len(verdicts), 'token')}; token {number}: {shown.why}"
    return replace(shown, why=why)


def _checks(map_: ScoredText, limits: Limits) -> list[tuple[bool, str]]:
    """Returns for each check of a map whether it is passed, and its number in words."""
    checks = []
    n_lost = int((~np.isfinite(map_.scores)).sum())
    if n_lost:
        checks.append((False, f"no number in {n_lost} of {counted(len(map_.scores), 'score')}"))
    if map_.converged is False:
        checks.append((False, f"not converged{f' ({map_.reason})' if map_.reason else ''}"))
    if map_.error is not None:
        checks.append((map_.converged is not False, f"estimated error {_percent(map_.error)}"))
    gap, whole = map_.completeness_gap, map_.output_difference
    if gap is not None and whole:
        share, limit = abs(gap / whole), limits.largest_gap
        words = f"sum of scores and change of the output differ by {_percent(share)}"
        checks.append((share <= limit, f"{words} (limit {_percent(limit)})"))
    if map_.split_half_tau is not None:
        tau, least = map_.split_half_tau, limits.smallest_tau
        words = f"rank correlation of two halves of its draws: τ {tau:.2f} (limit {least:g})"
        checks.append((tau >= least, words))
    return checks


def _percent(share: float) -> str:
    """Returns two digits of a share as a percentage; 0 stands for exactly 0 alone."""
    if not math.isfinite(share):
        return "no number"
    return f"{100 * share:.2g} %" if share == 0 or share >= 1e-4 else "less than 0.01 %"


def conclusion(verdicts: Sequence[Verdict], model: str) -> str:
    """Names the map to trust most and the numbers that speak for it, or says that none do, and what was not measured.

    Args:
        verdicts: the verdicts on the maps of one text.
        model: the name of the explained model; the study is of one model alone.
    """
    sound = [verdict for verdict in verdicts if verdict.passed is not False]
    if not sound:
        return "Trust none of these maps: each fails its own check."
    ranked = _ranked(verdicts)
    if not ranked:
        passed = listed([verdict.label for verdict in sound if verdict.passed]) or "none"
        return (
            f"Own checks passed: {passed}. {_study()['study']} has none of these settings, so that no number here says which "
            "map to prefer."
        )
    best, evidence = ranked[0]
    text = _srg_in_words(verdicts)
    alike = [
        verdict.label for verdict, other in ranked if verdict is not best and other.shares(evidence)
    ]
    if alike:
        text += f" {listed(alike)} did not differ from it there."
    if best.favoured:
        text += " [MASK] is also what this method compares with, which favours it."
    if best.passed:
        text += f" Its own check: {best.why}."
    unmeasured = [
        f"{verdict.label}, {'own check passed' if verdict.passed else verdict.why}"
        for verdict in sound
        if not verdict.evidence
    ]
    if unmeasured:
        text += f" Not measured: {'; '.join(unmeasured)}."
    if model != _study()["model"]:
        text += " Your model was not in that study: saliency-bench run with the same model=... measures it."
    return text


def _srg_in_words(verdicts: Sequence[Verdict]) -> str:
    """Says which of the measured maps to trust, if any, and the highest SRG beside that of chance."""
    ranked, chance = _ranked(verdicts), _measured(_study()["chance"])
    best, evidence = ranked[0]
    text, name = "", best.label
    if preferred(verdicts):
        text, name = f"Trust {best.label} most. ", "It"
    elif len(verdicts) > 1:
        text = "No number here says which map to prefer. "
    where = f"on {_study()['n']} sentences of the bundled model, words replaced by [MASK]"
    random = f"a random ranking has {chance.mean:.3f}"
    if len(ranked) > 1:
        among = (
            "here" if len(ranked) == len(verdicts) else "of the measured maps that fail no check"
        )
        text += f"{name} has the highest SRG (symmetric relevance gain) {among}: {evidence} {where}; {random}."
    else:
        text += f"{name} has an SRG (symmetric relevance gain) of {evidence} {where}; {random}, the best method {_top().mean:.3f}."
    return text + " It did not differ from a random ranking there." * evidence.shares(chance)


def preferred(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Returns the map of several that the study's numbers speak for, or None.

    It has the highest SRG of the maps that do not fail and differs from a random ranking. If one of them was not measured,
    it also has to be one that the study finds nothing better than.
    """
    ranked = _ranked(verdicts)
    if len(verdicts) < 2 or not ranked or ranked[0][1].shares(_measured(_study()["chance"])):
        return None
    best, evidence = ranked[0]
    all_measured = all(one.evidence for one in verdicts if one.passed is not False)
    return best if all_measured or evidence.shares(_top()) else None


def result(maps: Sequence[ScoredText], verdicts: Sequence[Verdict], model: str) -> str:
    """Names the class that the model chose and the words that matter most by the map to trust, in a sentence or two.

    If no map is preferred, it names the words of the first one that passed its check unmeasured and of the best measured one.
    It is empty if the maps answer several questions, or if none of them can be trusted.
    """
    asked = {explained(map_) for map_ in maps}
    best = preferred(verdicts)
    passed = [one for one in verdicts if one.passed and not one.evidence]
    read = [best] if best else [*passed[:1], *(one for one, _ in _ranked(verdicts)[:1])]
    if not read or len(asked) > 1 or len(maps) > len(verdicts):
        return ""
    said = f"{visible(model)}: {visible(asked.pop())}."
    for verdict in read:
        map_ = maps[verdicts.index(verdict)]
        words = largest_words(map_, signed(map_.setting, map_.scores)).rstrip(".")
        said += f" {words} (by {visible(verdict.label)})."
    if sum(math.isfinite(word.score) for word in map_.words()) == 1:
        said += " The text has one word: no map can say that it matters more than another."
    return said


def _ranked(verdicts: Sequence[Verdict]) -> list[tuple[Verdict, Evidence]]:
    """Returns the verdicts that did not fail and have evidence, the highest SRG first."""
    sound = [(one, one.evidence) for one in verdicts if one.passed is not False and one.evidence]
    return sorted(sound, key=lambda pair: -pair[1].mean)


def heads() -> tuple[str, str, str]:
    """Returns the headings of a table of verdicts."""
    return "Map", "Its own check", f"SRG ({_study()['n']} sentences)"


def largest_words(map_: ScoredText, has_sign: bool) -> str:
    """Lists the words with the largest magnitudes and their scores; punctuation only where nothing else has a score."""
    words = [word for word in map_.words() if math.isfinite(word.score) and word.score != 0]
    words = [word for word in words if any(map(str.isalnum, word.text))] or words
    words.sort(key=lambda word: -abs(word.score))
    sign = "+" if has_sign else ""
    shown = (f"{visible(word.text)} {word.score:{sign}.3g}" for word in words[:N_WORDS])
    return "Words that matter most: " + " · ".join(shown) if words else "No word matters."


def evidence_of(map_: ScoredText) -> Evidence | None:
    """Returns the committed study's result for exactly this setting; None if it has none, or texts of another task."""
    key, text = str(map_.setting.get("setting_id")), map_.encoded
    other_task = text.options or text.position is not None or text.boundary is not None
    return None if other_task or key not in _study()["settings"] else _measured(key)


def _measured(setting_id: str) -> Evidence:
    found: Mapping[str, Any] = _study()["settings"][setting_id]
    mean, low, high = found["srg"]
    return Evidence(mean, low, high, found["group"])


def _top() -> Evidence:
    """Returns the best result of the study."""
    return max(map(_measured, _study()["settings"]), key=lambda evidence: evidence.mean)


@cache
def _study() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(EVIDENCE.read_text("utf-8"))
    return content
