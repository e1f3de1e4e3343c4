"""Every number of the configuration has a range, which is checked in one place."""

import math
import re
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

from saliency_bench.attribution.methods import METHODS
from saliency_bench.cli import config
from saliency_bench.core import conf as conf_files
from saliency_bench.core import ranges
from saliency_bench.core.errors import InputError
from saliency_bench.core.signatures import parameters
from saliency_bench.data import DATASETS
from saliency_bench.evaluation.metrics import METRICS
from saliency_bench.experiments.scaffold import experiment
from saliency_bench.studies.checks import validate as validate_config

FOLDER = conf_files.folder()
#: Files whose keys are those of a study as a whole.
WHOLE = ("preset", "experiment")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def numbers(value: Any, key: str) -> list[tuple[str, Any]]:
    """Every number in YAML with its dotted key."""
    if isinstance(value, dict):
        return [
            one
            for name, inner in value.items()
            for one in numbers(inner, f"{key}.{name}" if key else name)
        ]
    if isinstance(value, list):
        return [one for inner in value for one in numbers(inner, key)]
    return [(key, value)] if is_number(value) else []


def shipped() -> list[tuple[str, Any]]:
    found = []
    for path in sorted(FOLDER.rglob("*.yaml")):
        group = path.parent.name if path.parent != FOLDER else ""
        prefix = "" if group in WHOLE or not group else group
        found += numbers(yaml.safe_load(path.read_text("utf-8")), prefix)
    return found


def numeric(kind: Any) -> bool:
    """Whether values of a type can be numbers, alone or in a list."""
    if get_origin(kind) in (Union, UnionType):
        return any(map(numeric, get_args(kind)))
    if get_origin(kind) is not None:
        return any(map(numeric, get_args(kind)))
    return kind in (int, float)


def schema(kind: type, key: str = "") -> list[str]:
    """The dotted keys of a schema that hold numbers."""
    found = []
    for name, hint in get_type_hints(kind).items():
        own = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
        found += schema(own, f"{key}{name}.") if own else [f"{key}{name}"] * numeric(hint)
    return found


def test_every_number_that_is_shipped_is_in_its_range():
    assert len(shipped()) > 200
    for key, value in shipped():
        own = ranges.range_of(key)
        assert own is not None, key
        assert value in own, (key, value, str(own))


def test_every_number_of_the_schema_has_a_range():
    keys = schema(config.Config) + [
        f"model.{one.name}"
        for kind in config.MODELS.values()
        for one in fields(kind)
        if one.type == "int"
    ]
    assert {"seed", "convergence.largest_gap", "runtime.threads", "choose.n_examples"} <= {*keys}
    assert [key for key in keys if ranges.range_of(key) is None] == []


@pytest.mark.parametrize(
    ("group", "registry"), [("method", METHODS), ("metric", METRICS), ("data", DATASETS)]
)
def test_every_number_that_a_component_takes_has_a_range(group, registry):
    known = [
        f"{group}.{key}" if group == "data" else f"{group}.{name}.{key}"
        for name in registry.names()
        for key, kind in parameters(registry[name]).items()
        if numeric(kind)
    ]
    assert known
    assert [key for key in known if ranges.range_of(key) is None] == []


@pytest.mark.parametrize("key", list(ranges.RANGES))
def test_what_is_no_finite_number_is_in_no_range(key):
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match=f"^{key}="):
            ranges.check({key: value})


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("convergence.largest_gap", [-1, -1e-9], [0, 0.05, 10]),
        ("convergence.smallest_tau", [7, 1.01, -1.01], [-1, 0.95, 1]),
        ("convergence.n_examples", [-1], [0, 5]),
        ("n_examples", [0, -5], [1, 10**9]),
        ("seed", [-1, 2**63], [0, 2**63 - 1]),
        ("agreement.k", [0, 1.1], [0.01, 1]),
        ("agreement.p", [0, 1], [0.5]),
        ("statistics.confidence", [0, 1, 95], [0.5, 0.999]),
        ("statistics.n_resamples", [99, 1_000_001], [100, 9999]),
        ("data.share", [-0.1, 1.1], [0, 1]),
        ("metric.token_f1.share", [0, 1.1], [0.2, 1]),
        ("metric.soft_sufficiency.retained", [0, 1], [0.5]),
        ("method.lime.kernel_width", [0, -1], [0.25, 3]),
        ("method.lime.penalty", [-1], [0, 1]),
        ("method.x.n_steps", [0, 10_001, 2.5], [1, 10_000]),
        ("method.allennlp_smooth_gradient.stdev", [-0.1], [0, 0.01]),
        ("runtime.executor.gpus_per_worker", [-1], [0, 1]),
        ("runtime.executor.memory_gb", [0], [1]),
        ("runtime.threads", [0, 1025], [1, 1024]),
    ],
)
def test_a_range_ends_where_the_numbers_cease_to_mean_something(key, wrong, right):
    for value in wrong:
        with pytest.raises(InputError, match=rf"^{key}=.*: expected"):
            ranges.check({key: value})
        with pytest.raises(InputError, match=rf"^{key}=.*: expected"):
            ranges.check({key: [value]})
    ranges.check({key: right})


@pytest.mark.parametrize("name", ["sanity", "trust", "throughput", "validate"])
def test_no_number_of_a_verb_may_be_negative_or_infinite(name):
    own = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    for key in dict(numbers(own, "")):
        for value in (-1, -math.inf, math.nan):
            with pytest.raises(InputError, match=f"^{re.escape(key)}="):
                ranges.check({key: value})


@pytest.mark.parametrize(
    ("verb", "key"),
    [
        ("sanity", "sensitivity.radius"),
        ("sanity", "stability.noise_seeds"),
        ("sanity", "runtime.threads"),
        ("trust", "tie"),
        ("trust", "training_seeds"),
        ("throughput", "tolerance.float32"),
        ("throughput", "sweep.extra_steps"),
        ("throughput", "length.lengths"),
    ],
)
def test_a_verb_holds_its_numbers_to_their_ranges(verb, key):
    for value in ("-1", "[3,-1]") if key.endswith("s") and "." in key else ("-1",):
        with pytest.raises(InputError, match=re.escape(key)):
            experiment(verb).options([f"{key}={value}"])


def test_a_seed_of_validate_has_the_range_of_all_seeds():
    for word in ("seed=-1", f"seed={2**63}", "n_examples=0", "seed=٣", "seed=a"):
        with pytest.raises(InputError, match="expected a whole number"):
            experiment("validate").options([word])
    assert experiment("validate").options(["seed=3"]).config["seed"] == 3


def test_a_file_of_ones_own_is_held_to_the_ranges(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nconvergence: {smallest_tau: 7}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text, "utf-8")
    cfg = config.load([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    with pytest.raises(InputError, match=r"convergence\.smallest_tau=7.*-1 to 1"):
        validate_config(cfg)
