"""Settings as plain data together with the facts of their methods, as in `settings.json` and in a map's `setting`."""

import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from saliency_bench.attribution import captum
from saliency_bench.attribution.backward import KEY, RULES, Rule
from saliency_bench.attribution.methods import ABOUT, METHODS
from saliency_bench.attribution.methods.base import About
from saliency_bench.core.method_facts import (
    BACKWARD_PARTS,
    FACTS,
    OURS,
    UNSIGNED_REDUCTIONS,
    Facts,
)
from saliency_bench.core.rows import Setting


def described(
    setting: Setting, parts: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """The setting's fields and hyperparameters, its id, and the facts of its method, which are no part of the id.

    `parts` has, by backward rule, the parts of the model at which the rule acts (`backward.score.Parts`).
    """
    about = about_of(setting.method)
    rule = RULES.get(setting.hyper.get(KEY, ""))
    backend = setting.backend
    facts = Facts(
        label=about.label if rule is None else by_rule(about.label, rule),
        entry=_entry(setting, about, rule),
        backend="" if backend == "none" else captum.LABELS.get(backend, backend),
        reference=backend not in OURS,
        signed=False if setting.reduction in UNSIGNED_REDUCTIONS else about.signed,
        role=about.role,
        plain=about.family == setting.method,
        explains_output=about.explains_output,
        color=_color(setting.method, about) if rule is None else _rule_color(setting, rule),
    )
    of_rule = {BACKWARD_PARTS: parts[rule.name]} if rule and parts and rule.name in parts else {}
    return setting.to_dict() | {FACTS: asdict(facts) | of_rule}


def by_rule(label: str, rule: Rule) -> str:
    """The label of a method with a backward rule: "AttnLRP × input" for "Gradient × input"."""
    product = label.removeprefix("Gradient ×")
    return f"{rule.label} ×{product}" if product != label else f"{label}, {rule.label}"


def _entry(setting: Setting, about: About, rule: Rule | None) -> str:
    """The label of a shipped entry is that of its method, with its rule if it has one; any other entry has its name alone."""
    if rule is None:
        return about.label if setting.name == setting.method else setting.name
    shipped = (setting.method, rule.name, f"{rule.name}_baseline")
    return by_rule(about.label, rule) if setting.name in shipped else setting.name


def _rule_color(setting: Setting, rule: Rule) -> str:
    """A shade of the rule's colour, which depends on the method."""
    return _lighter(rule.color, 0.6 * (zlib.crc32(setting.method.encode()) % 5) / 4)


def named(name: str) -> dict[str, Any]:
    """The name, label and colour of a method or an entry, for figures that show no setting."""
    about = about_of(name)
    return {
        "name": name,
        "method": name,
        FACTS: {"label": about.label, "color": _color(name, about)},
    }


def about_of(name: str) -> About:
    """The facts of a method; for a name that is no method, facts with that name as the label."""
    is_ours = name in METHODS and name in ABOUT
    return ABOUT[name] if is_ours else About(label=name)


def _color(name: str, about: About) -> str | None:
    """The method's colour, or a lighter shade of its family's; None if neither has one."""
    if about.color is None and about.family in ABOUT and ABOUT[about.family].color:
        return _lighter(
            str(ABOUT[about.family].color), 0.2 + 0.4 * (zlib.crc32(name.encode()) % 5) / 4
        )
    return about.color


def _lighter(color: str, share: float) -> str:
    parts = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(part + share * (255 - part)):02X}" for part in parts)
