"""`saliency-bench list` and `saliency-bench info`: the names that can be selected, and a description of each part."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, one_of
from saliency_bench.core.program import WIDEST, as_typed, program
from saliency_bench.studies.progress import importing

if TYPE_CHECKING:
    from saliency_bench.api.parts import Parameter, Part

#: The words that `list` takes, and the folder of conf/ of each.
GROUPS = {
    "methods": "method",
    "metrics": "metric",
    "models": "model",
    "data": "data",
    "experiments": "experiment",
    "presets": "preset",
    "suites": "suite",
}
#: Groups that a verb of their own chooses from, not `GROUP=NAME`.
CHOSEN = {"suite": "saliency-bench suite NAME"}
#: Groups whose files select a whole study.
STUDIES = ("experiment", "suite")
#: The experiments by what they are for; any other one is under `MORE`.
EXPERIMENTS = {
    "A first study": ("quickstart",),
    "Comparing methods": ("method_comparison", "full_comparison", "families", "smoothing", "ancestors"),
    "Choosing steps, noise and ways of removing": (
        "step_sweep", "noise_sweep", "ig_accuracy", "noise_accuracy", "removal_grid",
    ),
    "Checking a tool": ("captum_parity", "throughput"),
    "Where the truth is known": ("known_truth", "shortcuts", "planted_instruction", "agreement"),
    "Words that people marked": ("plausibility", "rationales"),
    "Published protocols": ("reproduce_bastings", "reproduce_naopc", "reproduce_sig"),
}  # fmt: skip
MORE = "Others"
#: The command at the end of an experiment's sentence, which its name in the list says too.
_COMMAND = re.compile(r": saliency-bench( experiment=\S+)?$")


def list_parts(words: list[str]) -> None:
    """Prints the names of these kinds, of all kinds where none is given, with the sentence that heads each file."""
    for kind in words:
        one_of("list", kind, GROUPS)
    console = _console()
    for kind in words or GROUPS:
        group = GROUPS[kind]
        families = _families(group)
        chosen = as_typed(CHOSEN.get(group, f"{group}=..."))
        console.print(Text(f"{kind} ({chosen})", style="bold"))
        console.print()
        for heading, names in families.items():
            if heading:
                console.print(Text(heading, style="italic"))
            rows = [(name, _COMMAND.sub("", conf_files.summary(group, name))) for name in names]
            console.print(_columns(rows, "bold"))
            console.print()
    console.print(Text(f"All about one of them: {program()} info NAME"))


def info(words: list[str]) -> None:
    """Prints the description of every part of this name."""
    if len(words) != 1:
        raise InputError(f"info takes one name, got {len(words)}: saliency-bench info NAME")
    with importing():
        from saliency_bench.api import parts
    console = _console()
    for part in parts.find(words[0]):
        _print_part(console, part)


def _families(group: str) -> dict[str, list[str]]:
    """The names of a group by heading, methods and metrics by family, experiments by purpose, others without one."""
    if group == "experiment":
        known = {name for names in EXPERIMENTS.values() for name in names}
        others = [name for name in conf_files.names(group) if name not in known]
        return {heading: [*names] for heading, names in EXPERIMENTS.items()} | (
            {MORE: others} if others else {}
        )
    if group not in ("method", "metric"):
        return {"": conf_files.names(group)}
    with importing():
        from saliency_bench.api import parts
    return parts.listed(group)


def _console() -> Console:
    console = Console(highlight=False)
    console.width = min(console.width, WIDEST)
    return console


def _columns(rows: Iterable[Sequence[str]], first: str = "") -> Table:
    """Rows without a frame; the first cell is not broken."""
    table = Table(show_header=False, box=None, padding=(0, 0, 0, 2))
    for index, row in enumerate(rows):
        if not index:
            for place in range(len(row)):
                table.add_column(style=first if not place else "", no_wrap=not place)
        table.add_row(*map(Text, row))
    return table


def _print_part(console: Console, part: "Part") -> None:
    console.print(Text(part.name, style="bold").append(f"  {part.group}", style="not bold dim"))
    console.print(Text(part.about))
    console.print()
    if part.facts:
        console.print(_columns(part.facts.items()))
        console.print()
    if part.group in STUDIES:
        _print_study(console, part)
    if part.text:
        console.print(Text("What it computes", style="italic"))
        console.print(Padding(Text(part.text), (0, 0, 1, 2)))
    if part.parameters:
        console.print(Text("Parameters, their defaults, and what they may be", style="italic"))
        console.print(_columns(map(_parameter, part.parameters), "bold"))
        console.print()
    console.print(Text("To use it", style="italic"))
    used = [f"{program()} {part.words}", part.python]
    for line in filter(None, used):
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print()


def _print_study(console: Console, part: "Part") -> None:
    """What an experiment or a suite runs."""
    from saliency_bench.cli import study_facts

    if more := study_facts.remarks(part.group, part.name):
        console.print(Padding(Text(more), (0, 0, 1, 0)))
    console.print(_columns(study_facts.facts(part.group, part.name).items()))
    console.print()
    console.print(Text("Methods, with their hyperparameters", style="italic"))
    console.print(_columns(study_facts.entries(part.group, part.name), "bold"))
    console.print()


def _parameter(key: "Parameter") -> tuple[str, str]:
    """A parameter with its default, and what it means; of names that its comment lists, the comment alone."""
    numbers = key.allowed.startswith(("a ", "true"))
    parts = [key.meaning, key.allowed if numbers or not key.meaning else ""]
    return f"{key.name} = {_default(key.default)}", "; ".join(filter(None, parts))


def _default(value: object) -> str:
    """A default as conf/ has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
