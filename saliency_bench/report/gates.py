"""The table of gates: whether a model follows its shortcut, so that the shortcut is a ground truth for attributions."""

from collections.abc import Callable, Mapping
from typing import Any

from saliency_bench.report.table import Cell, Column, Field, Table, filled

#: Kinds of what matters in a text that are no shortcuts: an instruction in a prompt, and words that people rated.
PLANTED, RATED = "planted_instruction", "rated_words"
#: The names of what is known to matter, in text.
KINDS = {
    "single_token": "Single token",
    "token_in_context": "Token in context",
    "ordered_pair": "Ordered pair",
    PLANTED: "Planted instruction",
    RATED: "Words that people rated",
}
#: The sentences that a gate is measured on.
GATE_SETS = {
    "complete": "with the shortcut",
    "incomplete": "with one word of it",
    "original": "without",
}


def by_kind_and_seed(
    models: Mapping[str, Mapping[str, Any]],
) -> list[tuple[str, Mapping[str, Any]]]:
    """Sorts models by kind and training seed."""
    kinds = list(KINDS)

    def place(item: tuple[str, Mapping[str, Any]]) -> tuple[int, int]:
        kind = item[1]["kind"]
        return kinds.index(kind) if kind in kinds else len(kinds), int(item[1]["training_seed"])

    return sorted(models.items(), key=place)


def gates(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns the table of each model's accuracy on held-out sentences, beside that of the control."""
    gate_facts = (facts["gate"] for facts in models.values() if "gate" in facts)
    first: Mapping[str, Any] = next(gate_facts, {})
    counted = any("n_judged" in facts for facts in models.values())

    def accuracy(key: str, name: str) -> Callable[[Mapping[str, Any]], Cell]:
        return lambda facts: (facts.get("gate") or {}).get(key, {}).get(name)

    def passed(facts: Mapping[str, Any]) -> Cell:
        gate = facts.get("gate") or {}
        return "✓" if gate.get("passed") else f"no: {gate.get('reason')}"

    fields: list[Field] = [
        (Column("kind", "Shortcut"), lambda facts: KINDS.get(facts["kind"], facts["kind"])),
        (Column("training_seed", "Training seed"), lambda facts: int(facts["training_seed"])),
        *(
            (Column(name, f"Accuracy, {words}"), accuracy("accuracy", name))
            for name, words in GATE_SETS.items()
        ),
        *(
            (Column(f"control_{name}", f"Control, {words}"), accuracy("control", name))
            for name, words in GATE_SETS.items()
        ),
        (Column("passed", "Passed"), passed),
    ]
    caption = (
        f"On {first.get('n_examples', 0)} validation sentences each. A model passes with at least "
        f"{first.get('least_complete', 0):.0%} where the shortcut is complete, the control within "
        f"{first.get('chance_margin', 0):.0%} of one half there, and elsewhere at most {first.get('margin', 0):.0%} less "
        "than the control."
    )
    if counted:
        fields.append((Column("n_judged", "Texts judged"), lambda facts: facts["n_judged"]))
        caption += " Texts judged: those whose label the model gives as the shortcut has it."
    title = "What makes the shortcut a ground truth"
    items = [facts for _, facts in by_kind_and_seed(models)]
    return filled("gates", title, caption, fields, items, False)
