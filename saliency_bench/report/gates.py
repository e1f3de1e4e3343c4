"""What the gates of models with known rankings said, from the rows of `trust`."""

from collections.abc import Mapping
from typing import Any

from saliency_bench.report.table import Cell, Column, Table

#: What shortcuts and corruptions are called.
KINDS = {
    "single_token": "Single token",
    "token_in_context": "Token in context",
    "ordered_pair": "Ordered pair",
}


def _ordered(
    models: Mapping[str, Mapping[str, Any]],
) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and facts by kind and training seed; a manifest has them by name."""
    kinds = list(KINDS)

    def place(item: tuple[str, Mapping[str, Any]]) -> tuple[int, int]:
        kind = item[1]["kind"]
        return kinds.index(kind) if kind in kinds else len(kinds), int(item[1]["training_seed"])

    return sorted(models.items(), key=place)


def gates(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each model was found to do on held-out sentences, beside the control."""
    sets = ("complete", "incomplete", "original")
    columns = [Column("kind", "Shortcut"), Column("training_seed", "Training seed")]
    columns += [Column(name, f"Accuracy, {GATE_SETS[name]}") for name in sets]
    columns += [Column(f"control_{name}", f"Control, {GATE_SETS[name]}") for name in sets]
    columns.append(Column("passed", "Passed"))
    counted = any("n_judged" in facts for facts in models.values())
    if counted:
        columns.append(Column("n_judged", "Texts judged"))
    rows: list[tuple[Cell, ...]] = []
    for _, facts in _ordered(models):
        gate = facts.get("gate") or {}
        own, control = gate.get("accuracy", {}), gate.get("control", {})
        rows.append(
            (
                KINDS.get(facts["kind"], facts["kind"]),
                int(facts["training_seed"]),
                *(own.get(name) for name in sets),
                *(control.get(name) for name in sets),
                "✓" if gate.get("passed") else f"no: {gate.get('reason')}",
                *([facts["n_judged"]] if counted else []),
            )
        )
    first: Mapping[str, Any] = next(
        (facts["gate"] for facts in models.values() if "gate" in facts), {}
    )
    caption = (
        f"On {first.get('n_examples', 0)} validation sentences each. A model passes with at least "
        f"{first.get('least_complete', 0):.0%} where the shortcut is complete, the control within "
        f"{first.get('chance_margin', 0):.0%} of one half there, and elsewhere at most {first.get('margin', 0):.0%} less "
        "than the control."
    )
    if counted:
        caption += " Texts judged: those whose label the model gives as the shortcut has it."
    title = "What makes the shortcut a ground truth"
    return Table("gates", title, caption, tuple(columns), tuple(rows), marks_best=False)


#: The sentences that a gate is measured on.
GATE_SETS = {
    "complete": "with the shortcut",
    "incomplete": "with one word of it",
    "original": "without",
}
