"""Facts about the method of a setting, as `settings.json` holds them beside the setting. They are no part of its id.

It is said where the method is registered (`attribution.methods`) and travels with the setting, so that what reads
results imports no method. Runs of earlier versions do not have it: then it is derived from the setting as far as possible.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

#: The key beside the fields of a setting.
FACTS = "facts"
#: Among the facts of a setting whose gradients are by a backward rule: by part, how often it is in which modules.
BACKWARD_PARTS = "backward_parts"
#: Lengths of vectors have no sign.
UNSIGNED_REDUCTIONS = ("l1", "l2")
OURS = ("native", "none")
COLOR = re.compile("#[0-9A-Fa-f]{6}")

#: What a method is among the contestants: a method to be evaluated; chance; what others are compared with; a bound on all.
Role = Literal["method", "chance", "baseline", "bound"]

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """What is known of a setting's method, for people and for figures.

    `label` is the method as it is written in text, `entry` the same of the configuration's entry, and `backend` says
    whose code computes it ("" where no gradient is taken). `reference` says that it is what our code is compared with,
    `signed` whether its scores can be negative (None: it depends on the scores), `color` is "#RRGGBB" or None,
    `plain` that other methods are variants of it, `explains_output` that it explains the setting's output: not
    so where the class has no say, or the method has a loss of its own.
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


_NAMES = [one.name for one in fields(Facts)]


def facts_of(setting: Setting) -> Facts:
    """Reads the facts of a setting; what is absent is derived from its names and its reduction."""
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


def backward_parts(setting: Setting) -> Mapping[str, Mapping[str, int]]:
    """By part at which the setting's backward rule acts, how often it is in which modules; empty without a rule."""
    parts = (setting.get(FACTS) or {}).get(BACKWARD_PARTS) or {}
    return {str(part): dict(modules) for part, modules in parts.items()}


def is_reference(setting: Setting) -> bool:
    """Whether it stands for what our code is compared with."""
    return facts_of(setting).reference


def signed(setting: Setting, scores: Iterable[float]) -> bool:
    """Whether the scores of a map have a sign: as its method says, else whether any is negative."""
    stored = facts_of(setting).signed
    return any(score < 0 for score in scores) if stored is None else stored
