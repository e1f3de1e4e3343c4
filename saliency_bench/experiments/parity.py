"""Our numbers against Captum's: every shared method, on several models, in float32 and float64, as one matrix."""

import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from saliency_bench.attribution.captum import BACKENDS
from saliency_bench.attribution.explain import explain
from saliency_bench.attribution.methods import METHODS
from saliency_bench.attribution.parity import (
    has_rounded_weights,
    in_captums_rounding,
    relative_tolerance,
)
from saliency_bench.attribution.settings import checked_setting, checked_value
from saliency_bench.core import conf as conf_files
from saliency_bench.core import ranges
from saliency_bench.core.errors import InputError, ValidationError, unknown
from saliency_bench.core.rows import Setting, as_list, expand_axes
from saliency_bench.core.text import Encoded
from saliency_bench.data import DATASETS
from saliency_bench.experiments.premises import Premise, premises
from saliency_bench.experiments.publish import name_of, refuse_a_run
from saliency_bench.experiments.random_models import random_model, random_texts
from saliency_bench.models import loading, references
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks import sequence_classification as task
from saliency_bench.report.formats import to_csv, to_markdown
from saliency_bench.report.table import Cell, Column, Table
from saliency_bench.store.durable import replace_file
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.run import MANIFEST, write_json
from saliency_bench.study.block import OpenBlock, opened_blocks
from saliency_bench.study.budget import ON_CPU

OUT = Path("results") / "validate"
NO_MODEL = "none"
OPTIONS = ("out", "model", "n_examples", "seed")

AGREES, DIFFERS, BIASED = "agrees", "differs", "differs by the known bias"
#: Told apart by shape, not by colour.
MARKS = {AGREES: "✓", DIFFERS: "✗", BIASED: "≠"}

#: What Captum calls a trapezoidal rule has weights that sum to (n-1)/n.
BIASED_RULE = "captum_riemann_trapezoid"

#: Hyperparameters by which the rows of the matrix differ.
VARIANTS = ("quadrature", "statistic", "sampler")

#: Above this relative difference a tolerance no longer sees what a wrong implementation would give.
WIDE = 1e-3

_PLAIN_WIDTH = 160  # of a file or pipe, which has none

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What the command line gives; `config` is conf/validate.yaml with it."""

    out: Path
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """A model in one type, and what it reads."""

    name: str
    dtype: str
    model: Model
    encoded: Sequence[Encoded]
    random: bool = False  # built here, and small


@dataclass(frozen=True)
class Pair:
    """A setting of ours and its Captum twin; `bias`: ours is larger by this share of Captum's, by definition."""

    native: Setting
    captum: Setting
    bias: float = 0.0

    @property
    def method(self) -> str:
        """The method, and Captum's other way to it."""
        layer = self.captum.backend == "captum_layer"
        return f"{self.native.method} (layer)" if layer else self.native.method

    @property
    def variant(self) -> str:
        """What tells the rows of one method apart."""
        values = [
            str(self.native.hyper[key])
            for key in VARIANTS
            if self.native.hyper.get(key) is not None
        ]
        return ", ".join(values) + (f" against {BIASED_RULE}" if self.bias else "")


@dataclass(frozen=True)
class Comparison:
    """The text on which two settings are furthest apart, in units of what its tolerance allows.

    Differences and tolerances are relative to Captum's largest score of that text. `copied` is what is left of them
    where our engine is given Captum's own nodes and weights; None where Captum rounds none.
    """

    pair: Pair
    model: str
    dtype: str
    n_texts: int
    difference: float
    tolerance: float
    copied: "tuple[float, float] | None" = None

    @property
    def verdict(self) -> str:
        """Agrees, differs, or differs as it must. What is not a number differs."""
        off = [pair for pair in (self.as_shipped, self.copied) if pair and not pair[0] <= pair[1]]
        if off:
            return DIFFERS
        return BIASED if self.pair.bias else AGREES

    @property
    def as_shipped(self) -> tuple[float, float]:
        """The difference to Captum as it is, and its tolerance."""
        return self.difference, self.tolerance


@dataclass(frozen=True)
class Outcome:
    """Everything that was compared, what both sides share, and what is known of each model."""

    comparisons: Sequence[Comparison]
    premises: Sequence[Premise]
    models: Mapping[str, Mapping[str, Any]]
    started: datetime
    seconds: float


def options(words: Sequence[str]) -> Options:
    """The words of a command line, each `key=value`.

    Raises:
        InputError: a word is none of these, or its value is not usable.
    """
    config = conf_files.read("", "validate")
    out = OUT
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise InputError(f"validate: {word!r}: expected key=value, with {', '.join(OPTIONS)}")
        if key not in OPTIONS:
            raise unknown("option of validate", key, list(OPTIONS))
        if key == "out":
            out = Path(value)
        else:
            config[key] = value if key == "model" else _whole(key, value)
    refuse_a_run(out)
    return Options(out, config)


def validate(chosen: Options, progress: Progress = lambda *_: None) -> Outcome:
    """Compares every pair on every model.

    Raises:
        InputError: the model does not load.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    models: dict[str, dict[str, Any]] = {}
    found: list[Comparison] = []
    shared: list[Premise] = []
    progress("loading the model", 0, 0)
    for subject in _subjects(chosen.config):
        models.setdefault(subject.name, dict(subject.model.facts) | {"dtypes": []})
        models[subject.name]["dtypes"].append(subject.dtype)
        shared += premises_of(subject)
        found += compared(subject, chosen.config, progress)
    return Outcome(found, shared, models, started, time.monotonic() - clock)


def conclude(
    chosen: Options, outcome: Outcome, command: Sequence[str], console: Console | None = None
) -> None:
    """Prints the matrix and writes it to the folder.

    Raises:
        ValidationError: a pair is further apart than its tolerance, or what both sides share is not what it should
            be; everything has been printed and written.
    """
    show(outcome.comparisons, outcome.premises, outcome.seconds, chosen.out, console)
    _write(chosen, outcome, command)
    if wrong := [one for one in outcome.comparisons if one.verdict == DIFFERS]:
        raise ValidationError(_complaint(wrong))
    if broken := [one for one in outcome.premises if not one.holds]:
        raise ValidationError(_complaint_of_premises(broken))


def compared(subject: Subject, config: Mapping[str, Any], progress: Progress) -> list[Comparison]:
    """Every pair on one subject."""
    model = subject.model
    own = pairs(model, config)
    done, whole = 0, len(subject.encoded) * len(own)
    stage = f"{subject.name} {subject.dtype}"
    ratios: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    refs = References(model)
    with model.frozen():
        for planned, block in opened_blocks(refs, subject.encoded, "predicted", ON_CPU):
            check = BlockCheck(block, own)
            for number, pair in enumerate(own):
                progress(stage, done, whole)
                ratios.setdefault(number, []).append(check.differences(pair))
                done += len(planned.indices)
    progress(stage, whole, whole)
    return [
        _comparison(subject, pair, *map(np.concatenate, zip(*ratios[number], strict=True)))
        for number, pair in enumerate(own)
    ]


def premises_of(subject: Subject) -> list[Premise]:
    """What our numbers and Captum's share, held against what shares nothing with them, on the first block of texts.

    Captum's own noise takes many gradients: it is asked for on the small random models alone, in float64.
    """
    refs = References(subject.model)
    own_noise = subject.random and subject.dtype == "float64"
    with subject.model.frozen():
        _, block = next(opened_blocks(refs, subject.encoded, "predicted", ON_CPU))
        return premises(block, subject.name, subject.dtype, own_noise)


class BlockCheck:
    """One block with everything that several pairs share: our scores, tolerances, and scores in Captum's rounding."""

    def __init__(self, block: OpenBlock, own: Sequence[Pair]) -> None:
        self.block = block
        native = {pair.native.id: pair.native for pair in own}
        self.context = block.context("logit", own[0].native.seed)
        self.native = self._scores(list(native.values()))
        self._tolerances: dict[tuple[str, bool], Float[np.ndarray, " B"]] = {}
        self._copied: dict[str, Float[np.ndarray, "B T"]] = {}

    def differences(self, pair: Pair) -> tuple[Float[np.ndarray, "B 2"], Float[np.ndarray, "B 2"]]:
        """Differences and tolerances of each text: as shipped, and with weights copied (NaN where none are)."""
        captum = self._scores([pair.captum])[pair.captum.id]
        twin = pair.captum.twin("native")
        shipped = _relative(self.native[pair.native.id] / (1 + pair.bias), captum)
        nothing = np.full_like(shipped, np.nan)
        exact, allowed = nothing, nothing
        if not pair.bias and self._double and has_rounded_weights(twin):
            exact = _relative(self._in_captums_rounding(twin), captum)
            allowed = self._tolerance(twin, copied=True)
        return np.stack([shipped, exact], 1), np.stack([self._tolerance(twin), allowed], 1)

    @property
    def _double(self) -> bool:
        return self.block.model.dtype == torch.float64

    def _scores(self, settings: Sequence[Setting]) -> dict[str, Float[np.ndarray, "B T"]]:
        made = explain(self.context, settings)
        return {key: np.asarray(one.scores.cpu()) for key, one in made.items()}

    def _tolerance(self, setting: Setting, copied: bool = False) -> Float[np.ndarray, " B"]:
        key = setting.id, copied
        if key not in self._tolerances:
            self._tolerances[key] = relative_tolerance(self.context, setting, copied=copied)
        return self._tolerances[key]

    def _in_captums_rounding(self, setting: Setting) -> Float[np.ndarray, "B T"]:
        if setting.id not in self._copied:
            made = in_captums_rounding(self.context, setting)
            self._copied[setting.id] = np.asarray(made.scores.cpu())
        return self._copied[setting.id]


def pairs(model: Model, config: Mapping[str, Any]) -> list[Pair]:
    """Every method that a Captum backend has, with the configured values, as far as the model can be asked for it."""
    found: list[Pair] = []
    for backend, registry in BACKENDS.items():
        for method in registry.names():
            for hyper in _hyper(method, config):
                found += _pairs(model, backend, method, hyper, config["seed"])
    return found


def _pairs(
    model: Model, backend: str, method: str, hyper: Mapping[str, Any], seed: int
) -> Iterator[Pair]:
    fitted = _fitted(model, backend, hyper)
    if fitted is None:
        return
    reduction = _entry(method).get("reduction", "sum")
    make = partial(
        checked_setting,
        method,
        method,
        reduction=reduction,
        target="predicted",
        output="logit",
        seed=seed,
    )
    captum, native = (make(backend=name, hyper=fitted) for name in (backend, "native"))
    yield Pair(native, captum)
    if backend == "captum" and hyper.get("quadrature") == BIASED_RULE:
        trapezoid = make(backend="native", hyper=fitted | {"quadrature": "trapezoid"})
        yield Pair(trapezoid, captum, bias=1 / (hyper["n_steps"] - 1))


def _entry(method: str) -> dict[str, Any]:
    return conf_files.method_defaults(method) if method in conf_files.names("method") else {}


def _hyper(method: str, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of a method's hyperparameters: validate.yaml's, else those of conf/method/."""
    given = _entry(method) | config["hyper"] | config["method"].get(method, {})
    return expand_axes(
        {
            key: [
                checked_value(method, key, one, f"method.{method}.{key}")
                for one in as_list(given[key])
            ]
            for key in METHODS.hyperparameters(method)
            if key in given
        }
    )


def _fitted(model: Model, backend: str, hyper: Mapping[str, Any]) -> dict[str, Any] | None:
    """The hyperparameters with a baseline that the model has; None where the backend can start from none of its."""
    if "baseline" not in hyper:
        return dict(hyper)
    known = [hyper["baseline"], *references.FALLBACK]
    if backend == "captum_layer":
        known = [name for name in (*known, *references.TOKENS) if name in references.TOKENS]
    baseline = next((name for name in known if references.available(model, name)), None)
    return None if baseline is None else dict(hyper) | {"baseline": baseline}


def _relative(
    ours: Float[np.ndarray, "B T"], captum: Float[np.ndarray, "B T"]
) -> Float[np.ndarray, " B"]:
    """Of each text, the largest difference over Captum's largest score; two maps of zeros do not differ."""
    apart, size = np.abs(ours - captum).max(1), np.abs(captum).max(1)
    return np.where(size > 0, apart / np.where(size > 0, size, 1), np.where(apart == 0, 0, np.inf))


def _comparison(
    subject: Subject,
    pair: Pair,
    differences: Float[np.ndarray, "N 2"],
    tolerances: Float[np.ndarray, "N 2"],
) -> Comparison:
    """The worst text of each kind; a difference that is not a number is worse than any."""
    worst = np.nan_to_num(differences / tolerances, nan=np.inf).argmax(0)
    both = [
        (float(differences[row, kind]), float(tolerances[row, kind]))
        for kind, row in enumerate(worst)
    ]
    copied = None if np.isnan(tolerances[:, 1]).all() else both[1]
    return Comparison(pair, subject.name, subject.dtype, len(differences), *both[0], copied)


# --- what is compared on


def _subjects(config: Mapping[str, Any]) -> Iterator[Subject]:
    n, seed = config["n_examples"], config["seed"]
    if config["model"] != NO_MODEL:
        examples = DATASETS["movie_reviews"](split="test")[:n]
        for dtype in config["dtypes"]:
            model = loading.load_model(config["model"], dtype=dtype, device="cpu")
            yield Subject(model.name, dtype, model, task.encode(model, examples))
    for architecture in config["random_models"]:
        for dtype in config["dtypes"]:
            model = random_model(architecture, dtype, seed)
            texts = random_texts(model, n, config["n_tokens"], seed)
            yield Subject(f"random {architecture}", dtype, model, texts, random=True)


# --- what is printed and written


def show(
    found: Sequence[Comparison],
    shared: Sequence[Premise],
    seconds: float,
    out: Path,
    console: Console | None = None,
) -> None:
    """Prints the matrix, a table for each type; models that do not fit beside each other come below."""
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=_PLAIN_WIDTH)
    for table in matrices(found):
        for part in _fitting(table, console.width):
            console.print(_to_rich(part))
    for line in (
        *notes(found, shared),
        f"{len(found)} pairs in {seconds:.0f} s. Written to {out}.",
    ):
        console.print(Text(line), soft_wrap=True)


def matrices(found: Sequence[Comparison]) -> list[Table]:
    """Rows are methods, columns models: a table for each type, and one for weights copied from Captum."""
    dtypes = list(dict.fromkeys(one.dtype for one in found))
    tables = [
        _matrix(
            f"parity_{dtype}",
            f"{dtype}: ours against Captum",
            "Tolerances are derived in saliency_bench.attribution.parity.",
            [one for one in found if one.dtype == dtype],
            lambda one: _cell(one, one.as_shipped),
        )
        for dtype in dtypes
    ]
    if copied := [one for one in found if one.copied]:
        tables.append(
            _matrix(
                "parity_copied",
                "float64, Captum's own float32 nodes and weights in our engine",
                "What is left is the order of sums.",
                copied,
                lambda one: _cell(one, one.copied),
            )
        )
    return tables


def _matrix(
    name: str,
    title: str,
    caption: str,
    found: Sequence[Comparison],
    cell: Callable[[Comparison], str],
) -> Table:
    models = list(dict.fromkeys(one.model for one in found))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in found:
        rows.setdefault((one.pair.method, one.pair.variant), {})[one.model] = cell(one)
    columns = [Column("method", "Method"), Column("variant", "Rule, statistic, sampler")]
    return Table(
        name=name,
        title=title,
        caption=caption,
        columns=(*columns, *(Column(model, model) for model in models)),
        rows=tuple((*key, *(own.get(model) for model in models)) for key, own in rows.items()),
        marks_best=False,
    )


def _cell(one: Comparison, numbers: tuple[float, float] | None) -> str:
    assert numbers is not None
    difference, tolerance = numbers
    verdict = BIASED if one.pair.bias else AGREES
    mark = MARKS[verdict if difference <= tolerance else DIFFERS]
    return f"{mark} {f'{difference:.0e}' if difference else 'equal'} / {tolerance:.0e}"


def notes(found: Sequence[Comparison], shared: Sequence[Premise]) -> list[str]:
    """What the marks mean, the known bias, what float32 cannot see, what both sides share, and how many pairs agree."""
    marks = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    lines = [
        "Each cell: the largest difference of a token score, over Captum's largest score of the text / its tolerance. "
        f"{marks}."
    ]
    biased = [one for one in found if one.pair.bias]
    for bias in sorted({one.pair.bias for one in biased}):
        own = [one for one in biased if one.pair.bias == bias]
        rest = max(one.difference for one in own)
        lines.append(
            f"The trapezoidal rule differs by the known bias 1/(n-1) = {bias:.4g} at n = {round(1 / bias) + 1} steps: "
            "the weights of Captum's riemann_trapezoid sum to (n-1)/n. Without it the largest difference is "
            f"{rest:.0e}."
        )
    if wide := [one for one in found if one.tolerance > WIDE]:
        methods = ", ".join(sorted({one.pair.method for one in wide}))
        lines.append(
            f"{methods} in {', '.join(sorted({one.dtype for one in wide}))}: the tolerance is above {WIDE:g}, since "
            "Captum takes a variance as E g² - (E g)², of which so many digits cancel. There float64 carries the check."
        )
    if shared:
        lines.append(_premises_line(shared))
    lines.append(_counted(found))
    return lines


def _premises_line(shared: Sequence[Premise]) -> str:
    """What Captum is handed, and whether it is right."""
    broken = [one for one in shared if not one.holds]
    said = "hold" if not broken else f", of which {len(broken)} do not hold"
    return (
        "Captum is handed our noise, baselines and references. They are held against the embedding matrix, token ids, "
        f"the normal distribution and Captum's own draws: {len(shared)} checks {said}."
    )


def premises_table(shared: Sequence[Premise]) -> Table:
    """A row for every check of what both sides share."""
    names = ("premise", "model", "dtype", "difference", "tolerance", "holds")
    return Table(
        name="premises",
        title="What ours and Captum's share",
        caption="",
        columns=tuple(Column(name, name) for name in names),
        rows=tuple(
            (one.name, one.model, one.dtype, one.difference, one.tolerance, str(one.holds).lower())
            for one in shared
        ),
        marks_best=False,
    )


def _complaint_of_premises(broken: Sequence[Premise]) -> str:
    one = broken[0]
    return (
        f"{one.name} on {one.model} in {one.dtype} is off by {one.difference:.2g}, expected at most "
        f"{one.tolerance:.2g} ({len(broken)} such checks fail). Both sides share it, so that pairs agree all the same."
    )


def _counted(found: Sequence[Comparison]) -> str:
    """How many pairs there are of every verdict: one that differs by the known bias does not agree."""
    of = Counter(one.verdict for one in found)
    if of[AGREES] == len(found):
        return f"All {len(found)} pairs agree."
    words = [f"{of[AGREES]} of {len(found)} pairs agree"]
    if of[BIASED]:
        words.append(f"{of[BIASED]} differ by the known bias and by nothing else")
    if of[DIFFERS]:
        words.append(f"{of[DIFFERS]} differ")
    return f"{', '.join(words)}."


def _fitting(table: Table, width: int) -> Iterator[Table]:
    """The table cut into parts of this width: the first two columns in each, and at least one model."""
    widths = [
        max(len(column.label), *(len(str(row[i])) for row in table.rows)) + 3
        for i, column in enumerate(table.columns)
    ]
    part: list[int] = []
    for index in range(2, len(widths)):
        if part and sum(widths[:2]) + sum(widths[i] for i in (*part, index)) > width:
            yield _columns(table, part)
            part = []
        part.append(index)
    yield _columns(table, part)


def _columns(table: Table, kept: Sequence[int]) -> Table:
    order = (0, 1, *kept)
    return replace(
        table,
        columns=tuple(table.columns[i] for i in order),
        rows=tuple(tuple(row[i] for i in order) for row in table.rows),
    )


def _to_rich(table: Table) -> RichTable:
    title = Text(table.title, style="bold")
    shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        shown.add_column(Text(column.label), no_wrap=True)
    before: Cell = None
    for row in table.rows:
        cells = [Text("–" if cell is None else str(cell)) for cell in row]
        for cell in cells:
            if cell.plain.startswith(MARKS[DIFFERS]):
                cell.stylize("bold reverse")
        if row[0] == before:  # a method is named once
            cells[0] = Text("")
        before = row[0]
        shown.add_row(*cells)
    return shown


def long_table(found: Sequence[Comparison]) -> Table:
    """A row for every comparison, for other programs."""
    keys = ("method", "backend", "reduction")
    hyper = sorted({key for one in found for key in one.pair.captum.hyper})
    names = (*keys, "native_quadrature", *hyper, "model", "dtype", "n_texts", "known_bias")
    numbers = ("difference", "tolerance", "difference_copied", "tolerance_copied", "verdict")
    return Table(
        name="parity",
        title="Ours against Captum",
        caption="",
        columns=tuple(Column(name, name) for name in (*names, *numbers)),
        rows=tuple(_long_row(one, keys, hyper) for one in found),
        marks_best=False,
    )


def _long_row(one: Comparison, keys: Sequence[str], hyper: Sequence[str]) -> tuple[Cell, ...]:
    captum, native = one.pair.captum, one.pair.native
    values = [captum.hyper.get(key) for key in hyper]
    return (
        *(getattr(captum, key) for key in keys),
        native.hyper.get("quadrature"),
        *(str(value).lower() if isinstance(value, bool) else value for value in values),
        one.model,
        one.dtype,
        one.n_texts,
        one.pair.bias,
        *one.as_shipped,
        *(one.copied or (None, None)),
        one.verdict,
    )


def _write(chosen: Options, outcome: Outcome, command: Sequence[str]) -> None:
    """The matrix for people, every comparison for programs, and what made them."""
    found = outcome.comparisons
    parts = ["# saliency-bench validate\n", *map(to_markdown, matrices(found))]
    text = "\n".join([*parts, *(f"{line}\n" for line in notes(found, outcome.premises))])
    replace_file(chosen.out / "parity.md", text.encode())
    replace_file(chosen.out / "parity.csv", to_csv(long_table(found)).encode())
    replace_file(chosen.out / "premises.csv", to_csv(premises_table(outcome.premises)).encode())
    computation = {
        "device": "cpu",
        "dtypes": list(chosen.config["dtypes"]),
        "threads": torch.get_num_threads(),
        "token_budget": ON_CPU,
    }
    provenance = collect(
        computation, command=command, started=outcome.started, ended=datetime.now(UTC)
    )
    manifest = {
        "name": "validate",
        "command": portable(shlex.join(command)),
        "config": dict(chosen.config) | {"model": name_of(chosen.config["model"])},
        "models": dict(outcome.models),
        "n_pairs": len(found),
        "n_differ": sum(one.verdict == DIFFERS for one in found),
        "n_premises": len(outcome.premises),
        "n_broken_premises": sum(not one.holds for one in outcome.premises),
        "n_known_bias": sum(one.verdict == BIASED for one in found),
        "derived_in": "saliency_bench.attribution.parity",
    }
    write_json(chosen.out / MANIFEST, manifest | provenance)


def _complaint(wrong: Sequence[Comparison]) -> str:
    """The first of the pairs that differ, and which others do."""
    one = wrong[0]
    kind, (difference, tolerance) = "", one.as_shipped
    if difference <= tolerance and one.copied:
        kind, (difference, tolerance) = " with Captum's own weights", one.copied
    others = sorted({other.pair.method for other in wrong} - {one.pair.method})
    return (
        f"{' '.join(filter(None, (one.pair.method, one.pair.variant)))} on {one.model} in {one.dtype} differs from "
        f"Captum's{kind} by {difference:.2g} of the largest score, expected at most {tolerance:.2g}"
        f" ({len(wrong)} pairs differ{', also of ' + ', '.join(others) if others else ''}). See the matrix."
    )


def _whole(key: str, value: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,30}", value):
        raise InputError(f"{key}={value}: expected {ranges.range_of(key)}")
    ranges.check(int(value), key)
    return int(value)
