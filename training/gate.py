"""Checks that a model follows a shortcut, and only the whole of it: then the shortcut is a ground truth.

Bastings et al. 2022, section 3: the model must be right on texts with a shortcut, a control that never saw one (here the
model before this training) must be at chance there, and accuracy on other texts must not fall. Sentences with one word of
a shortcut count among the others: a model that is right on them needs all of it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from saliency_bench.data import movie_reviews, shortcuts
from saliency_bench.data.example import Example

ORIGINAL = "original"


@dataclass(frozen=True)
class Gate:
    """How accurate a model must be on sentences that it was not trained on.

    `least_complete`: with a shortcut. `chance_margin`: how far the control may be from 1/2 there. `margin`: how much
    less than the control's the accuracy on other sentences may be, with one word of a shortcut and with none.
    """

    least_complete: float = 0.99
    chance_margin: float = 0.05
    margin: float = 0.05


def held_out(kind: str, n_examples: int, seed: int) -> dict[str, list[Example]]:
    """Validation sentences with a shortcut, with one word of it where it has several, and as they are."""
    sets = {shortcuts.COMPLETE: (1.0, 0.0)}
    if kind != shortcuts.SINGLE_TOKEN:
        sets[shortcuts.INCOMPLETE] = (0.0, 1.0)
    found = {
        name: shortcuts.load(
            kind=kind,
            split="validation",
            seed=seed,
            n_examples=n_examples,
            share=share,
            incomplete=incomplete,
        )
        for name, (share, incomplete) in sets.items()
    }
    return found | {ORIGINAL: movie_reviews.load(split="validation")[:n_examples]}


def verdict(
    accuracy: Mapping[str, float], control: Mapping[str, float], n_examples: int, gate: Gate
) -> dict[str, Any]:
    """The gate's verdict on the accuracies of a model and of the control on the sets of `held_out`.

    Returns:
        `passed`, `reason` where not, and all numbers that decided.
    """
    failures = []
    if accuracy[shortcuts.COMPLETE] < gate.least_complete:
        failures.append(
            f"right on {accuracy[shortcuts.COMPLETE]:.1%} with a shortcut, expected {gate.least_complete:.0%}"
        )
    if abs(control[shortcuts.COMPLETE] - 0.5) > gate.chance_margin:
        failures.append(
            f"the control is right on {control[shortcuts.COMPLETE]:.1%} with a shortcut, expected half"
        )
    failures += [
        f"right on {accuracy[name]:.1%} of the {name} ones, the control on {control[name]:.1%}"
        for name in (shortcuts.INCOMPLETE, ORIGINAL)
        if name in accuracy and accuracy[name] < control[name] - gate.margin
    ]
    return {
        "passed": not failures,
        "reason": "; ".join(failures) or None,
        "accuracy": dict(accuracy),
        "control": dict(control),
        "n_examples": n_examples,
        **asdict(gate),
    }
