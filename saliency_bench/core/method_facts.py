"""Facts about the method of a setting. `settings.json` has them beside the setting; they are no part of its id.

They stand where the method is registered (`attribution.methods`) and are stored with the setting, so that code that reads
results imports no method. Runs of earlier versions do not have them: then they are derived from the setting as far as
possible.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

#: The key beside the fields of a setting.
FACTS = "facts"
#: The fact of a setting with a backward rule: by part of the model, the modules at which the rule acts and how often.
BACKWARD_PARTS = "backward_parts"
#: These are lengths of vectors, which have no sign.
UNSIGNED_REDUCTIONS = ("l1", "l2")
OURS = ("native", "none")
COLOR = re.compile("#[0-9A-Fa-f]{6}")

#: The part of a method in a comparison: a method to be evaluated, chance, a baseline for others, or a bound on all.
Role = Literal["method", "chance", "baseline", "bound"]

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """Facts about a setting's method, for people and for figures.

    `label` is the method as it is written in text, `entry` the configuration's entry (`entry_label`), and `backend` the name of the code
    that computes it ("" if no gradient is taken). `reference`: our code is compared with it. `signed`: its scores can be
    negative (None: it depends on the scores). `plain`: other methods are variants of it. `explains_output`: it explains the
    setting's output; not so if the class has no effect, or if the method has a loss of its own. `color` is "#RRGGBB" or None.
    """

    label: str
    entry: str
    backend: str
    reference: bool
    signed: bool | None = None
    role: Role = "method"
    plain: bool = False
    explains_output: bool = True
    color: str | None = None


_NAMES = [field.name for field in fields(Facts)]


def facts_of(setting: Setting) -> Facts:
    """Reads the facts of a setting; those that are absent are derived from its names and its reduction."""
    method = str(setting.get("method") or setting.get("name") or "")
    backend, reduction = str(setting.get("backend", "")), setting.get("reduction")
    derived = Facts(
        label=method,
        entry=str(setting.get("name") or method),
        backend="" if backend == "none" else backend,
        reference=backend not in ("", *OURS),
        signed=False if reduction in UNSIGNED_REDUCTIONS else True if reduction == "dot" else None,
    )
    stored = setting.get(FACTS) or {}
    return replace(derived, **{key: stored[key] for key in _NAMES if key in stored})


def entry_label(setting: Setting, details: Sequence[str] = ()) -> str:
    """Returns the entry of a setting as it is written in text, with details: "SmoothGrad (n_samples=8)".

    An entry whose name is its user's own has its method's label, and its name without the method's: smoothgrad_range is
    "SmoothGrad (range)". An own name that a detail has as its value is left out.
    """
    facts, name = facts_of(setting), str(setting.get("name"))
    label, words = facts.entry, list(details)
    if facts.entry == name and FACTS in setting:
        own = name.removeprefix(f"{setting.get('method')}_").replace("_", " ")
        told = name == facts.label or any(detail.endswith(f"={own}") for detail in details)
        label, words = facts.label, words if told else [own, *words]
    return f"{label} ({', '.join(words)})" if words else label


def backward_parts(setting: Setting) -> Mapping[str, Mapping[str, int]]:
    """Returns the modules at which the setting's backward rule acts and how often, by part; empty without a rule."""
    parts = (setting.get(FACTS) or {}).get(BACKWARD_PARTS) or {}
    return {str(part): dict(modules) for part, modules in parts.items()}


def is_reference(setting: Setting) -> bool:
    """Whether our code is compared with this setting."""
    return facts_of(setting).reference


def competes(setting: Setting) -> bool:
    """Whether a setting is one of those that are compared: no chance, no bound, and no twin of ours."""
    return facts_of(setting).role in ("method", "baseline") and not is_reference(setting)


def signed(setting: Setting, scores: Iterable[float]) -> bool:
    """Whether the scores of a map have a sign: a fact of the method, or else whether any score is negative."""
    stored = facts_of(setting).signed
    return any(score < 0 for score in scores) if stored is None else stored
