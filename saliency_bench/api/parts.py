"""Facts about methods, metrics and other parts, by name: from the registries, docstrings and conf/."""

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from saliency_bench.attribution import captum
from saliency_bench.attribution.backward import rules
from saliency_bench.attribution.methods import ABOUT, KINDS, METHODS, ONLY
from saliency_bench.attribution.reduction import REDUCTIONS
from saliency_bench.attribution.settings import CHOICES
from saliency_bench.core import conf as conf_files
from saliency_bench.core import ranges, signatures
from saliency_bench.core.errors import InputError, shown
from saliency_bench.core.registry import BASELINES, REMOVALS, Registry
from saliency_bench.data import DATASETS
from saliency_bench.evaluation.metrics import INFO, METRICS
from saliency_bench.evaluation.removal import MAPS_BASELINE, operators

#: The result of each kind of method, and the reductions that make one number of it.
GIVES = {
    "gradient": ("one gradient per token", tuple(REDUCTIONS)),
    "square": ("one vector of squares per token", ("sum", "l2", "l1")),
    "product": ("one vector per token, the input multiplied in", ("sum", "l2", "l1")),
    "token": ("one number per token", ()),
}
READS = {
    "curve": "the deletion and insertion curves of the ranking",
    "attribution": "the scores alone, without the model",
    "query": "the scores, and what the model says of further texts",
    "truth": "the scores, and the ground truth of the text",
}
#: Stand-ins for an absent token, as a baseline and as a removal.
VECTORS = {
    "mask": "The embedding of the tokenizer's mask token.",
    "pad": "The embedding of the tokenizer's padding token.",
    "unk": "The embedding of the tokenizer's token for unknown words.",
    "zero": "The zero vector.",
    "mean": "The mean of the model's embedding matrix.",
    MAPS_BASELINE: "Each map's own baseline.",
}
#: The registries of the functions that entries name.
PARTS: Mapping[str, Registry[Any]] = {"method": METHODS, "metric": METRICS}
#: Paths and names that a user fills in.
MISSING = "???"


@dataclass(frozen=True)
class Parameter:
    """A key of an entry: its default in conf/, the values that it takes, and its meaning."""

    name: str
    default: Any
    allowed: str
    meaning: str


@dataclass(frozen=True)
class Part:
    """The description of a part.

    `group` is its kind, `about` a sentence, `facts` further statements by heading, `text` its docstring. `words` select
    it on the command line, and `python` uses it from Python ("" where that makes no sense).
    """

    group: str
    name: str
    about: str
    words: str
    python: str
    facts: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    parameters: tuple[Parameter, ...] = ()


def find(name: str) -> list[Part]:
    """All parts of a name, since a name may stand for several: `mask` is a removal and a baseline.

    Raises:
        InputError: there is none; the nearest names are suggested.
    """
    parts = [describe(name) for describe, names in GROUPS.values() if name in names()]
    if not parts:
        every = {each for _, names in GROUPS.values() for each in names()}
        near = get_close_matches(name, sorted(every), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else "."
        raise InputError(f"nothing is called {shown(name)}{hint} All names: saliency-bench list")
    return parts


def family(group: str, name: str) -> str:
    """The heading under which an entry of a method or a metric is listed."""
    entry = conf_files.entry(group, name)
    function = PARTS[group][entry[group]]
    if entry.get(rules.KEY, rules.PLAIN) != rules.PLAIN:
        return "Gradients by a backward rule (the LRP family)"
    if group == "method":
        head = ABOUT[entry[group]].family or entry[group]
        if head in {about.family for about in ABOUT.values()}:
            return ABOUT[head].label
    return heading(function)


def listed(group: str) -> dict[str, list[str]]:
    """The entries of methods or metrics by heading; families come first, in the order of `GIVES`."""
    kinds = [*GIVES]

    def place(name: str) -> tuple[bool, int, str]:
        part, title = conf_files.entry(group, name)[group], family(group, name)
        alone = title == heading(PARTS[group][part])
        return alone, kinds.index(KINDS[part]) if group == "method" else 0, title

    headings: dict[str, list[str]] = {}
    for name in sorted(conf_files.names(group), key=place):
        headings.setdefault(family(group, name), []).append(name)
    return headings


def heading(function: Callable[..., Any]) -> str:
    """The first sentence of the module that a part stands in."""
    module = inspect.getmodule(function)
    return (inspect.getdoc(module) or "").split("\n")[0].rstrip(".")


def parameters(group: str, name: str) -> tuple[Parameter, ...]:
    """The keys of an entry, or of a file of conf/model/ or conf/data/, without the key that names the function."""
    content = _content(group, name)
    function = str(content.get(group) or content.get("dataset") or content.get("name"))
    meanings = _meanings(group, name)
    kept = {key: value for key, value in content.items() if value != function or key in meanings}
    return tuple(
        Parameter(key, value, _allowed(group, function, key), meanings.get(key, ""))
        for key, value in kept.items()
    )


def _content(group: str, name: str) -> dict[str, Any]:
    """The content of an entry, or of a file with the files that it extends."""
    if group in PARTS:
        return conf_files.entry(group, name)
    content = conf_files.read(group, name)
    bases = [base for base in content.pop("defaults", []) if base in conf_files.names(group)]
    return {key: value for base in bases for key, value in _content(group, base).items()} | content


def _meanings(group: str, name: str) -> dict[str, str]:
    """The comments beside the keys of an entry, by key."""
    comments: dict[str, str] = {}
    if group not in PARTS:
        bases = conf_files.read(group, name).get("defaults", [])
        for base in set(bases) & set(conf_files.names(group)):
            comments |= _meanings(group, base)
    text = (conf_files.folder() / group / f"{name}{conf_files.SUFFIX}").read_text("utf-8")
    return comments | dict(re.findall(r"^\s*(\w+):[^#\n]*#\s*(.+)$", text, re.MULTILINE))


def _allowed(group: str, function: str, key: str) -> str:
    """The values that a key takes, in words."""
    if group == "method" and key in ("reduction", rules.KEY):
        return ", ".join(GIVES[KINDS[function]][1] if key == "reduction" else rules.NAMES)
    registry = {**PARTS, "data": DATASETS}.get(group)
    types = signatures.parameters(registry[function]) if registry and function in registry else {}
    if group == "method" and (names := CHOICES.get(key)) is not None:
        return ", ".join(_names(names))
    if key == "baseline":
        return ", ".join([*_names(BASELINES), "text:WORDS", "vector:FILE"])
    declared = signatures.in_words(types[key]) if key in types else ""
    if (numbers := ranges.range_of(f"{group}.{key}")) is None:
        return declared
    others = [word for word in declared.split(" or ") if word in ("text", "null")]
    return " or ".join([str(numbers), *("auto" if word == "text" else word for word in others)])


def _names(names: Collection[str] | Registry[Any]) -> list[str]:
    return names.names() if isinstance(names, Registry) else [*names]


def _method(name: str) -> Part:
    entry = conf_files.entry("method", name)
    method = entry["method"]
    keys = parameters("method", name)
    gives, reductions = GIVES[KINDS[method]]
    facts = {"Family": family("method", name), "Gives": gives}
    if reductions:
        facts["Reductions"] = ", ".join([entry["reduction"] + " (default)"] + [
            name for name in reductions if name != entry["reduction"]
        ])  # fmt: skip
    facts["Scores sum to"] = ABOUT[method].sums_to or "nothing that is claimed"
    facts["Captum"] = _captum(method)
    text = _prose(METHODS[method])
    if source := _source(text.split("\n\n")[0], conf_files.summary("method", name)):
        facts["Source"] = source
    if ABOUT[method].backward:
        facts["Backward rules"] = ", ".join(rules.NAMES)
    numbers = [key for key in keys if type(key.default) in (int, float)]
    changed = next(iter(numbers), None)
    word = f" method.{name}.{changed.name}={changed.default}" if changed else ""
    keyword = f", {changed.name}={changed.default!r}" if changed else ""
    if missing := [key for key in keys if key.default == MISSING]:
        word = f" method.{name}.{missing[0].name}=FILE"
        keyword = f', {missing[0].name}="FILE"'
    return Part(
        "method",
        name,
        conf_files.summary("method", name),
        f"method=[{name}]{word}",
        f'sb.attribute(model, texts, method="{name}"{keyword})',
        facts,
        text,
        keys,
    )


def _source(*texts: str) -> str:
    """The last reference in brackets of the first text with a reference."""
    cited = (re.findall(r"\(([^()]*\b(?:19|20)\d\d\b[^()]*)\)", text) for text in texts)
    return next((references[-1] for references in cited if references), "")


def _prose(function: Callable[..., Any]) -> str:
    """The docstring, without its sections and the ends of its lines."""
    text = re.split(r"\n\n(?:Args|Returns|Raises):", inspect.getdoc(function) or "")[0]
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _captum(method: str) -> str:
    if method in ONLY:
        return "computes it" if ONLY[method] == "captum" else "has no such method"
    return (
        "has it too: backend=[native,captum]" if method in captum.METHODS else "has no such method"
    )


def _metric(name: str) -> Part:
    entry = conf_files.entry("metric", name)
    function = METRICS[entry["metric"]]
    info = INFO[entry["metric"]]
    low, high = (f"{bound:g}".replace("-inf", "−∞").replace("inf", "∞") for bound in info.bounds)
    better = {True: "higher", False: "lower", None: "neither"}[info.higher_is_better]
    facts = {
        "Family": family("metric", name),
        "Reads": READS[info.reads],
        "Better": better,
        "Unit": "a pure number" if info.unit == "1" else info.unit,
        "Bounds": f"{low} to {high}",
        "Source": info.source,
    }
    return Part(
        "metric",
        name,
        conf_files.summary("metric", name),
        f"metric=[{name}]",
        f'sb.evaluate(model, maps, metrics=["{name}"])',
        facts,
        _prose(function),
        parameters("metric", name),
    )


def _removal(name: str) -> Part:
    about = VECTORS.get(name) or _first_sentence(REMOVALS[name])
    if name in VECTORS:
        about = f"{about[:-1]} takes the place of a removed token."
    python = f'sb.evaluate(model, maps, removal="{name}")'
    return Part("removal", name, about, f"evaluation.removal={name}", python)


def _baseline(name: str) -> Part:
    about = VECTORS.get(name) or _first_sentence(BASELINES[name])
    words = f"method=[integrated_gradients] method.integrated_gradients.baseline={name}"
    return Part("baseline", name, about, words, f'sb.attribute(model, texts, baseline="{name}")')


def _first_sentence(part: Callable[..., Any]) -> str:
    return re.split(r"(?<=\.)\s", inspect.getdoc(part) or "")[0]


def _file(group: str, name: str) -> Part:
    """A model, a data set, an experiment or a preset: a file of conf/."""
    described = group in ("model", "data")
    keys = parameters(group, name) if described else ()
    missing = "".join(f" {group}.{key.name}=PATH" for key in keys if key.default == MISSING)
    function = _content(group, name).get("dataset") if group == "data" else None
    text = _prose(DATASETS[function]) if function else ""
    return Part(
        group,
        name,
        conf_files.summary(group, name),
        f"{group}={name}{missing}",
        _loading(name, keys) if group == "model" else "",
        text=text,
        parameters=keys,
    )


def _loading(name: str, keys: Collection[Parameter]) -> str:
    """The call that loads a model, where Python has one."""
    if name == "default":
        return 'sb.load_model("default")'
    paths = [key.default for key in keys if key.name == "path"]
    return f'sb.load_model("{paths[0]}")'.replace(MISSING, "FOLDER_OR_HUB_ID") if paths else ""


def _suite(name: str) -> Part:
    """A frozen study, which has a verb of its own."""
    return Part("suite", name, conf_files.summary("suite", name), f"suite {name} method=[NAME]", "")


def _of_file(group: str) -> tuple[Callable[[str], Part], Callable[[], Collection[str]]]:
    return lambda name: _file(group, name), lambda: conf_files.names(group)


#: For each group: the function that describes a part of it, and the one that lists the names.
GROUPS: Mapping[str, tuple[Callable[[str], Part], Callable[[], Collection[str]]]] = {
    "method": (_method, lambda: conf_files.names("method")),
    "metric": (_metric, lambda: conf_files.names("metric")),
    "removal": (_removal, operators),
    "baseline": (_baseline, BASELINES.names),
    **{group: _of_file(group) for group in ("data", "model", "experiment", "preset")},
    "suite": (_suite, lambda: conf_files.names("suite")),
}
