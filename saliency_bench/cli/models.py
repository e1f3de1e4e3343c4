"""`saliency-bench models`: trained models that other packages carry, and their conversion."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saliency_bench.core.errors import InputError, one_of
from saliency_bench.core.program import as_typed
from saliency_bench.models import encoder, preparing
from saliency_bench.studies.progress import progress


def models(words: list[str]) -> None:
    """Lists the models that can be prepared, or prepares one.

    Raises:
        InputError: other words than `prepare NAME`, or a package is missing; the message has the pip line.
    """
    if not words:
        _list()
        return
    one_of("models", words[0], ["prepare"])
    names = [*preparing.MODELS, *preparing.BASES]
    if len(words) != 2:
        raise InputError(
            f"models prepare takes one name of {', '.join(names)}, got {len(words) - 1}"
        )
    name = words[1]
    one_of("model", name, names)
    with progress() as show:
        folder = preparing.prepare(preparing.BASES.get(name, name), show)
    if _to_train(name):
        outcome = f"{preparing.BASES[name]} is ready in {folder}; the adapter is to be trained: docs/models.md"
    else:
        outcome = f"{name} is ready in {folder}: model={name}, or load_model({name!r}) in Python"
    Console(highlight=False, soft_wrap=True).print(outcome)


def _list() -> None:
    table = Table(box=None, show_header=False)
    for name, model in preparing.MODELS.items():
        state, color = _state(name, model)
        facts = f"{model.task}, {model.megabytes} MB, {model.licence}, from {model.package}"
        table.add_row(Text(name, style="bold"), Text(state, style=color), Text(facts))
    for name, base in preparing.BASES.items():
        state, color = _state(base, preparing.MODELS[base])
        if _to_train(name):
            state, color = "to train", "yellow"
        facts = f"an adapter on {base}: docs/models.md"
        table.add_row(Text(name, style="bold"), Text(state, style=color), Text(facts))
    console = Console(highlight=False)
    console.print(table)
    console.print(as_typed("To convert one, once: saliency-bench models prepare NAME"))


def _to_train(name: str) -> bool:
    """Whether a classifier's adapter is not in the package."""
    return name in preparing.BASES and not (encoder.MODELS / name).is_dir()


def _state(name: str, model: preparing.PackagedModel) -> tuple[str, str]:
    """The step that a model needs before it can be used, and its colour."""
    if preparing.is_prepared(name):
        return "ready", "green"
    if model.missing:
        return "package missing", "yellow"
    return "to convert", "yellow"
