"""The subject of the benchmark: a model, texts and a configuration, and the cases that sections make of them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import Encoded
from saliency_bench.experiments.throughput.contestants import Problem, Scores
from saliency_bench.experiments.throughput.trial import (
    Case,
    Clock,
    Protocol,
    Row,
    absent_rows,
    entered,
    expected_of,
    measured,
)
from saliency_bench.models.model import Model
from saliency_bench.models.references import References, resolve
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.budget import resolve as resolve_budget


@dataclass(frozen=True)
class Bench:
    """A model, texts and a configuration as conf/throughput.yaml has it."""

    config: Mapping[str, Any]
    model: Model
    encoded: Sequence[Encoded]
    load: Callable[..., Model]  # the same model with another `dtype`
    progress: Callable[[str, int, int], None] = lambda *_: None
    clock: Clock = time.perf_counter
    references: References = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", References(self.model))

    def problem(self, **changes: Any) -> Problem:
        """The configured problem with some of its values changed."""
        config = self.config
        plain = Problem(
            self.references,
            tuple(self.encoded),
            resolve(self.model, config["baseline"]),
            config["quadrature"],
            config["n_steps"],
            resolve_budget(
                config["runtime"]["token_budget"], self.model, [*map(len, self.encoded)]
            ),
        )
        return replace(plain, **changes)

    def protocol(self) -> Protocol:
        """The protocol of timing, as configured."""
        config = self.config
        keys = ("n_repeats", "max_warmups", "stable_within", "product_seconds")
        tolerance = config["tolerance"][self.model.precision]
        return Protocol(**{key: config[key] for key in keys}, tolerance=tolerance, clock=self.clock)

    def small(self, section: Mapping[str, Any], **changes: Any) -> Problem:
        """The configured problem with the number of texts and of steps that a section has."""
        plain = {
            "encoded": tuple(self.encoded[: section["n_examples"]]),
            "n_steps": section["n_steps"],
        }
        return self.problem(**(plain | changes))

    def cases(
        self,
        section: str,
        cases: Mapping[str, Problem],
        contestants: Sequence[str],
        options: Mapping[str, Mapping[str, Any]] | None = None,
        truth: Scores | None = None,
    ) -> Iterator[Row]:
        """The rows of cases with some contestants; `options` replace some of theirs."""
        merged = dict(self.config["options"])
        for name, changed in (options or {}).items():
            merged[name] = merged[name] | changed
        for done, (name, problem) in enumerate(cases.items()):
            self.progress(section, done, len(cases))
            lengths = set(map(len, problem.encoded))
            case = Case(section, name, problem, lengths.pop() if len(lengths) == 1 else None)
            expected = expected_of(problem, [problem.setting])
            entrants, absent = entered(problem, contestants, merged)
            yield from absent_rows(case, absent)
            pairs = [(contestant, expected) for contestant in entrants]
            yield from measured(case, pairs, self.protocol(), truth)
        self.progress(section, len(cases), len(cases))


def texts_of_length(
    model: Model, encoded: Sequence[Encoded], length: int, n: int
) -> tuple[Encoded, ...]:
    """`n` texts of so many tokens: the ordinary tokens of these end to end, each framed as the first of them is.

    Raises:
        InputError: the model takes no texts of this length, or there is no room beside the special tokens.
    """
    first = encoded[0]
    inner = [place for place, special in enumerate(first.special) if not special]
    before, after = first.input_ids[: inner[0]], first.input_ids[inner[-1] + 1 :]
    room = length - len(before) - len(after)
    if room < 1:
        raise InputError(
            f"length={length}: expected more than the {len(before) + len(after)} special tokens of a text"
        )
    stream = [
        token
        for item in encoded
        for token, special in zip(item.input_ids, item.special, strict=True)
        if not special
    ]
    texts = []
    for number in range(n):
        words = [stream[(number * room + place) % len(stream)] for place in range(room)]
        inputs: dict[str, Any] = {"input_ids": [*before, *words, *after]}
        if first.token_type_ids is not None:
            inputs["token_type_ids"] = [first.token_type_ids[0]] * length
        name = f"length-{length}-{number}"
        texts.append(encoded_ids(model, inputs, name, None, f"length={length}"))
    return tuple(texts)
