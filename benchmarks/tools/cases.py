"""The cells: the methods of each tool, the models that they explain, and one measurement."""

import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any, TypeVar, cast

import torch

from benchmarks.tools import models
from benchmarks.tools.laws import PARTS, Measurement, Subject, measured, restores
from benchmarks.tools.state import state

T = TypeVar("T")

CLASSIFIERS = ("bert/sdpa", "llama/sdpa")
TRAINED = (*CLASSIFIERS, "default/sdpa")
LANGUAGE = ("gpt2/sdpa", "llama_lm/sdpa")
#: Every model with both kinds of attention.
EVERYWHERE = tuple(
    f"{model}/{attention}"
    for model in ("bert", "llama", "default", "gpt2", "llama_lm")
    for attention in ("sdpa", "eager")
)
#: By tool, its package, and by method the models with their attention.
TOOLS: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]] = {
    "saliency_bench": (
        "saliency-bench",
        {
            "vanilla": (*CLASSIFIERS, *LANGUAGE),
            "input_x_gradient": (*CLASSIFIERS, *LANGUAGE),
            "integrated_gradients": (*TRAINED, *LANGUAGE),
            "smoothgrad": CLASSIFIERS,
            "attnlrp": EVERYWHERE,
            "cp_lrp": EVERYWHERE,
            "gim": EVERYWHERE,
        },
    ),
    "captum": (
        "captum",
        {
            "saliency": ("bert/sdpa",),
            "input_x_gradient": ("bert/sdpa",),
            "integrated_gradients": ("bert/sdpa",),
            "noise_tunnel": ("bert/sdpa",),
            "layer_gradient_x_activation": CLASSIFIERS,
            "layer_integrated_gradients": TRAINED,
        },
    ),
    "transformers_interpret": ("transformers-interpret", {"integrated_gradients": TRAINED}),
    "ferret": (
        "ferret-xai",
        {
            "gradient": CLASSIFIERS,
            "gradient_x_input": CLASSIFIERS,
            "integrated_gradients": CLASSIFIERS,
        },
    ),
    "interpreto": (
        "interpreto",
        {
            "saliency": CLASSIFIERS,
            "integrated_gradients": TRAINED,
            "smoothgrad": CLASSIFIERS,
        },
    ),
    "inseq": (
        "inseq",
        {
            "saliency": LANGUAGE,
            "input_x_gradient": LANGUAGE,
            "integrated_gradients": LANGUAGE,
        },
    ),
    "lxt": (
        "lxt",
        {
            "attnlrp": (
                "bert/sdpa",
                "bert/eager",
                "gpt2/sdpa",
                "gpt2/eager",
                "llama_lm/sdpa",
                "llama_lm/eager",
            ),
            "cp_lrp": ("gpt2/sdpa", "gpt2/eager", "llama_lm/sdpa", "llama_lm/eager"),
        },
    ),
    "gim": (
        "gim-explain",
        {
            "context": (
                "default/sdpa",
                "default/eager",
                "bert/sdpa",
                "bert/eager",
                "llama/sdpa",
                "llama/eager",
            ),
            "explain": ("gpt2/sdpa", "gpt2/eager", "llama_lm/sdpa", "llama_lm/eager"),
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """A method of a tool on a model with an implementation of attention."""

    tool: str
    method: str
    model: str
    attention: str


def cases(tool: str) -> list[Case]:
    """All cases of a tool, in the order of the table."""
    _, methods = TOOLS[tool]
    return [
        Case(tool, method, *where.split("/"))
        for method, places in methods.items()
        for where in places
    ]


def loads(tool: str) -> Measurement:
    """Whether the tool can be imported here, or what it raises."""
    try:
        import_module(f"benchmarks.tools.adapters.{tool}")
    except Exception as error:  # a library can fail in any way
        return _raised(error)
    return Measurement("held")


def _raised(error: Exception) -> Measurement:
    first = f"{type(error).__name__}: {error}".split("\n")[0]
    return Measurement("raises", note=re.sub(r" \(/[^)]*\)", "", first))  # no paths of this machine


def measure(law: str, case: Case) -> Measurement:
    """A law on a case; what the tool raises is a measurement too."""
    try:
        adapter = import_module(f"benchmarks.tools.adapters.{case.tool}")
        if law == "restores":
            return _restores(adapter, case)
        module = models.build(case.model, case.attention, biases=law != "conserve")
        torch.manual_seed(models.SEED)
        subject: Subject = adapter.opened(case, module, models.tokenizer(case.model))
        return measured(law, _with_reasons(subject))
    except Exception as error:  # whatever a tool raises is what is to be shown
        return _raised(error)


def apart(function: Callable[[], T]) -> T:
    """The result of a function in a copy of the process, so that what it patches is not seen outside.

    Raises:
        RuntimeError: the function raised something; its name and message.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python warns of threads that are not in the copy; none holds a lock that it needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            with os.fdopen(writer, "wb") as out:
                pickle.dump(_answer(function), out)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as received:
        content = received.read()
    _, status = os.waitpid(child, 0)
    if not content:
        raise RuntimeError(f"the process ended with status {status} and no answer")
    failed, result = pickle.loads(content)  # noqa: S301 - written by the copy above
    if failed:
        raise RuntimeError(result)
    return cast(T, result)


def _answer(function: Callable[[], T]) -> tuple[bool, T | str]:
    try:
        return False, function()
    except Exception as error:
        return True, f"{type(error).__name__}: {error}"


def versions(tool: str) -> dict[str, str]:
    """Of the tool and of what it runs on; `-` where the tool has no package here."""
    found = {}
    for package in (TOOLS[tool][0], "torch", "transformers", "captum", "numpy"):
        try:
            found[package] = version(package)
        except Exception:  # a package without metadata
            found[package] = "-"
    return found


def _restores(adapter: Any, case: Case) -> Measurement:
    module, tokenizer = models.build(case.model, case.attention), models.tokenizer(case.model)
    before = state(module, tokenizer)
    adapter.opened(case, module, tokenizer).explain([models.LONG])
    return restores(before, state(module, tokenizer))


def _with_reasons(subject: Subject) -> Subject:
    """The subject with the reasons that follow from what it has: no rule, no parts; no sum that is promised."""
    rule = bool(subject.parts)
    absent = "the rule has no such part here" if rule else "no backward rule"
    implied = {f"acts_{part}": absent for part in PARTS if part not in subject.parts}
    if subject.output is None:
        implied["forward"] = "the forward pass is not replaced"
    for law in ("complete", "conserve"):
        if subject.change is None:
            implied[law] = "no sum is promised"
    return Subject(**{**vars(subject), "reasons": {**implied, **subject.reasons}})
