"""A memory of what was tried of a model, for later calls.

Preflight reports of a model that was loaded are kept for later processes, too.
"""

import hashlib
import platform
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache as once
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from saliency_bench.core.rows import digest
from saliency_bench.core.text import Encoded
from saliency_bench.core.version import __version__
from saliency_bench.core.versions import versions
from saliency_bench.models.extra import Extra
from saliency_bench.models.fingerprint import fingerprint, of_libraries, portable_fingerprint
from saliency_bench.models.model import Model
from saliency_bench.models.placement import placement_of
from saliency_bench.models.preflight import (
    PreflightReport,
    Refusal,
    inspect_model,
    inspect_texts,
    kind_of,
    refuse_unusable,
)
from saliency_bench.models.probing import PROBED_TOKENS
from saliency_bench.models.wrapping import call_module
from saliency_bench.store import cache

T = TypeVar("T")

#: The folder of the cache, and hexadecimal digits of a file's name.
KIND = "preflights"
DIGITS = 32

#: A probe of so many tokens stands for texts of any length; a shorter one for texts that are no longer.
ENOUGH_TOKENS = 16

#: Libraries whose version is part of the key.
_LIBRARIES = ("torch", "transformers", "accelerate", "peft", "numpy")


@dataclass(frozen=True)
class Passed:
    """The report of a model that was sound on a text of `n_tokens` tokens."""

    n_tokens: int
    report: PreflightReport

    def stands_for(self, n_tokens: int) -> bool:
        """Whether the report holds for a text of this length, so that it need not be probed."""
        return self.n_tokens >= min(n_tokens, ENOUGH_TOKENS)


@dataclass
class Memory:
    """The reports and refusals of a module with this fingerprint, by the facts of the model and by text; and other proofs."""

    fingerprint: Hashable
    passed: dict[Hashable, Passed] = field(default_factory=dict)
    refused: dict[Hashable, str] = field(default_factory=dict)
    proved: dict[Hashable, Any] = field(default_factory=dict)


_MEMORIES: "WeakKeyDictionary[nn.Module, Memory]" = WeakKeyDictionary()


def _memory_of(module: nn.Module, state: Hashable) -> Memory:
    """The memory of a module with this fingerprint; a new one if the module has changed."""
    memory = _MEMORIES.get(module)
    if memory is None or memory.fingerprint != state:
        memory = _MEMORIES[module] = Memory(state)
    return memory


def proved(model: Model, about: Hashable, prove: Callable[[], T]) -> T:
    """The result of a trial of the model, which is made once for a module as it is now.

    It is made again after any change that `fingerprint` sees, and for other facts and configurations: type, device, kind of
    attention, threads. Nothing is remembered of a model with a `forward` of the user's own.

    Args:
        model: the model.
        about: what is tried.
        prove: makes the trial.
    """
    if model.forward is not call_module:
        return prove()
    results = _memory_of(model.module, fingerprint(model.module)).proved
    key = about, _facts(model), _configurations(model)
    if key not in results:
        results[key] = prove()
    result: T = results[key]
    return result


def preflight_of(model: Model, texts: Sequence[Encoded]) -> tuple[PreflightReport, bool]:
    """The report of `inspect_texts` on these texts, and whether it was remembered for any of them.

    The model must be frozen. A report holds for all texts of its kind that are no longer (see `ENOUGH_TOKENS`), a
    refusal for the same text alone, in the same words. Nothing is remembered of a model with a `forward` of the user's
    own, since that may read inputs which are not compared here.

    Raises:
        InputError: see `inspect_model`.
    """
    if model.forward is not call_module:
        return inspect_texts(model, texts), False
    refuse_unusable(model)
    inspector = _Inspector(model)
    return inspect_texts(model, texts, inspector), inspector.has_recalled


class _Inspector:
    """Probes a model on texts that were not probed before."""

    def __init__(self, model: Model) -> None:
        state = fingerprint(model.module)
        self.memory = _memory_of(model.module, state)
        self.facts = _facts(model)
        self.file = _File(model, self.facts, unchanged=state == model.as_made)
        self.has_recalled = False

    def __call__(
        self, model: Model, ids: tuple[int, ...], types: tuple[int, ...] | None, extra: Extra
    ) -> PreflightReport:
        kind, text = kind_of(types, extra), (ids, types, extra)
        passed = self._passed(kind, len(ids))
        if passed is not None:
            self.has_recalled = True
            return passed.report
        if message := self._refused(text):
            raise Refusal(message)
        try:
            report = inspect_model(model, ids, types, extra)
        except Refusal as error:
            self.memory.refused[self.facts, text] = str(error)
            self.file.write(text, {"refusal": str(error)})
            raise
        passed = Passed(min(len(ids), PROBED_TOKENS), report)
        self.memory.passed[self.facts, kind] = passed
        self.file.write(kind, {"n_tokens": passed.n_tokens, "findings": report.to_dict()})
        return report

    def _passed(self, kind: Hashable, n_tokens: int) -> Passed | None:
        """The report on texts of this kind, if it holds for this length; otherwise None."""
        passed = self.memory.passed.get((self.facts, kind))
        if passed is None and (passed := _read_passed(self.file.read(kind))):
            self.memory.passed[self.facts, kind] = passed
        return passed if passed and passed.stands_for(n_tokens) else None

    def _refused(self, text: Hashable) -> str | None:
        """The reason why the model was refused on this text, or None."""
        message = self.memory.refused.get((self.facts, text)) or self.file.read(text).get("refusal")
        return message if isinstance(message, str) else None


def _facts(model: Model) -> tuple[Hashable, ...]:
    """The facts that a report depends on beside the module and the text."""
    parts = model.module.named_modules()
    layer = next((name for name, part in parts if part is model.embedding), id(model.embedding))
    attention = [
        getattr(part.config, "_attn_implementation", None)
        for level in model.configured
        for part in level
    ]
    return (
        *(model.task, model.name, model.labels, layer, model.wants_mask),
        None if model.takes is None else tuple(sorted(model.takes)),
        *(model.pad_token_id, model.max_length, model.short_last_layer),
        *(tuple(map(str, attention)), str(model.dtype), torch.get_num_threads()),
        tuple(sorted((placement_of(model.module) or {}).items())),
    )


def _configurations(model: Model) -> str:
    """A digest of all configurations inside the module."""
    configs = [part.config for level in model.configured for part in level]
    return digest([repr(sorted(vars(config).items())) for config in configs], DIGITS)


class _File:
    """The reports of one loaded model in the user's cache; they hold for the same content, code and machine only.

    `unchanged`: the module still is the one that its digests were taken of.
    """

    def __init__(self, model: Model, facts: tuple[Hashable, ...], *, unchanged: bool) -> None:
        self.model, self.facts, self.unchanged = model, facts, unchanged

    @cached_property
    def key(self) -> dict[str, str] | None:
        """The key of the reports; None where a later process could not recognise the model."""
        loaded = self.model.facts.get("source") not in (None, "module")
        usable = self.unchanged and loaded and of_libraries(self.model.module)
        return _key(self.model, self.facts) if usable else None

    def read(self, about: Hashable) -> dict[str, Any]:
        """The stored content for a kind of texts, or for one text; empty where there is none with this key."""
        if self.key is None:
            return {}
        content = cache.read(KIND, self._name(about))
        trusted = isinstance(content, dict) and content.get("key") == self.key
        return content if trusted else {}

    def write(self, about: Hashable, content: dict[str, Any]) -> None:
        """Stores content for a kind of texts, or for one text."""
        if self.key is not None:
            cache.write(KIND, self._name(about), {"key": self.key} | content)

    def _name(self, about: Hashable) -> str:
        return digest([self.key, repr(about)], DIGITS)


def _key(model: Model, facts: tuple[Hashable, ...]) -> dict[str, str]:
    """All that a report depends on beside the text: content, code, and the machine that computes."""
    device = model.device
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "version": f"{__version__} {_code_digest()}",
        **{name: str(number) for name, number in versions(_LIBRARIES).items()},
        "content": digest([dict(model.facts), portable_fingerprint(model.module)], DIGITS),
        "config": _configurations(model),
        "model": repr(facts),
        "device": f"{device.type} {chip} {torch.backends.cpu.get_cpu_capability()}",
    }


@once
def _code_digest() -> str:
    """A digest of the source files of this package, which define how a model is probed."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:DIGITS]


def _read_passed(content: dict[str, Any]) -> Passed | None:
    """The report in a file's content; None where it holds none."""
    n_tokens, values = content.get("n_tokens"), content.get("findings")
    names = {entry.name for entry in fields(PreflightReport)}
    if not isinstance(n_tokens, int) or not isinstance(values, dict) or {*values} != names:
        return None
    numbers = (bool, int, float, type(None))
    if not all(isinstance(value, numbers) for value in values.values()):
        return None
    return Passed(n_tokens, PreflightReport(**values))
