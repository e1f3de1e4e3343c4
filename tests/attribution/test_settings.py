"""One value is accepted or refused, in the same words, wherever it is given; and settings keep their ids."""

import json
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from tiny import FrameTokenizer, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.api import settings as api
from saliency_bench.attribution import settings
from saliency_bench.attribution.methods import METHODS
from saliency_bench.attribution.noise import UNITS
from saliency_bench.cli import config
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError
from saliency_bench.core.ranges import MOST_POINTS
from saliency_bench.experiments.parity.pairs import pairs
from saliency_bench.experiments.sanity.asking import settings_of
from saliency_bench.experiments.throughput.contestants import setting_of

GOLDEN = json.loads((Path(__file__).parent / "golden_settings.json").read_text("utf-8"))

#: The ids of settings, or why there are none.
Verdict = list[str] | str

#: Of every type, in and out of every range, names of some hyperparameters and of none, and lists of these.
VALUES: list[Any] = [
    None, True, -1, 0, 1, 4, MOST_POINTS + 4, -0.5, 0.5, 2.5, math.nan, math.inf, "", "nonsense", "auto", "mask",
    "attention", "text:", "vector:absent.npy", "file:absent.txt", "vocabulary", "calibrated", "trapezoid",
    "antithetic", "replace", "first", "srg", "logit", "variance", {"a": 1}, [], [4, 8], [4, 4.0], [[4]],
    [4, "nonsense"], ["mask", "pad"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def _as_users_call():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def model():
    return sb.wrap_model(tiny_bert(), FrameTokenizer(), labels=("a", "b", "c"))


class Reached(Exception):
    """The settings that a call of `attribute` came to."""


@pytest.fixture
def python(model, monkeypatch) -> Callable[..., Verdict]:
    """What `attribute` makes of keywords, before anything is computed."""

    def stop(model, found, longest):
        raise Reached([one.id for one in found])

    monkeypatch.setattr(api, "fit_settings", stop)

    def verdict(method: str, given: Mapping[str, Any]) -> Verdict:
        try:
            sb.attribute(model, token_inputs(4), method, token_budget=512, **given)
        except Reached as reached:
            return reached.args[0]
        except InputError as error:
            return str(error)
        raise AssertionError("nothing was asked for")

    return verdict


@cache
def composed(method: str) -> config.Config:
    file = ["method.file.path=scores.jsonl"] if method == "file" else []
    return config.load(["~experiment", f"method=[{method}]", *file])


def command(method: str, given: Mapping[str, Any]) -> Verdict:
    """What the command makes of the same keys of the method's entry."""
    cfg = deepcopy(composed(method))
    cfg.method[method] |= given
    try:
        config.validate(cfg)  # which expands the entry too
        return [one.id for one in config.settings(cfg)]
    except InputError as error:
        return str(error)


def cases(method: str) -> list[dict[str, Any]]:
    """Keywords with one value each time, those of noise with its other units off, as Python does by itself."""
    file = {"path": "scores.jsonl"} if method == "file" else {}
    units = [f"noise_{unit}" for unit in UNITS]
    found: list[dict[str, Any]] = [file, file | {"nonsense": 1}, file | {"n_step": 3}]
    for key in METHODS.hyperparameters(method):
        others = dict.fromkeys(units) if key in units else {}
        for value in VALUES:
            if (key, value) != ("baseline", None):  # in Python: the entry's
                found.append(file | others | {key: value})
    return found


def disagreements(
    method: str, python: Callable[..., Verdict]
) -> list[tuple[dict[str, Any], Verdict, Verdict]]:
    both = ((given, command(method, given), python(method, given)) for given in cases(method))
    return [one for one in both if one[1] != one[2]]


@pytest.mark.parametrize("method", METHODS.names())
def test_command_and_python_agree_on_every_value_of_every_hyperparameter(method, python):
    assert disagreements(method, python) == []


def test_a_python_that_checks_less_is_seen(python, monkeypatch):
    def unchecked(method, given):
        with monkeypatch.context() as patch:
            patch.setattr(settings, "checked_value", lambda method, key, value, where: value)
            try:
                return python(method, given)
            except Exception as error:
                return repr(error)

    assert disagreements("leave_one_out", unchecked)


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("integrated_gradients", {"n_steps": 20_000}, "n_steps=20000: expected a whole number, 1"),
        ("integrated_gradients", {"n_steps": 2.5}, "n_steps=2.5: expected a whole number"),
        ("integrated_gradients", {"n_steps": True}, "n_steps=True: expected a whole number"),
        ("integrated_gradients", {"n_steps": [4, 4]}, "n_steps lists 4 twice"),
        ("beam_search", {"objective": "bad"}, "unknown method.beam_search.objective 'bad'"),
        ("raw_attention", {"query": "frist"}, "unknown method.raw_attention.query 'frist'"),
        ("vanilla", {"n_steps": 3}, "unknown hyperparameter of vanilla 'n_steps'"),
        ("smoothgrad", {"n_samples": 6}, "n_samples=6: expected a multiple of 4"),
        ("lime", {"kernel_width": 0.0}, "kernel_width=0.0: expected a number above 0"),
    ],
)
def test_what_has_no_meaning_is_refused_by_both(method, given, said, python):
    for verdict in (command(method, given), python(method, given)):
        assert isinstance(verdict, str) and said in verdict


def test_an_unknown_hyperparameter_is_a_type_error_of_python_too(model):
    with pytest.raises(TypeError, match="did you mean 'n_steps'"):
        sb.attribute(model, token_inputs(4), "integrated_gradients", n_step=3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_steps", 20_000),
        ("n_steps", 2.5),
        ("n_steps", "many"),
        ("quadrature", "simpson"),
        ("baseline", "masc"),
        ("baseline_special_tokens", "drop"),
    ],
)
def test_experiments_refuse_what_the_command_refuses_in_its_words(model, python, key, value):
    method = "integrated_gradients"
    said = command(method, {key: value})
    assert isinstance(said, str) and said == python(method, {key: value})
    entry = conf_files.method_defaults(method)
    validate = conf_files.read("", "validate") | {"method": {method: {key: value}}}
    for experiment in (
        lambda: setting_of(entry, **{key: value}),
        lambda: settings_of(model, [method], 0, **{key: value}),
        lambda: pairs(model, validate),
    ):
        with pytest.raises(InputError) as refused:
            experiment()
        assert str(refused.value) == said


@pytest.mark.parametrize("method", GOLDEN["method"])
def test_the_id_of_an_entry_is_what_it_was(method, python):
    given = {"path": "scores.jsonl"} if method == "file" else {}
    assert command(method, given) == python(method, given) == [GOLDEN["method"][method]]


@pytest.mark.parametrize("name", GOLDEN["experiment"])
def test_the_ids_of_an_experiment_are_what_they_were(name):
    found = config.settings(config.load([f"experiment={name}"]))
    assert [one.id for one in found] == GOLDEN["experiment"][name]


def test_a_whole_number_where_a_number_is_meant_is_one_setting_in_python_too(python):
    whole, decimal = (python("smoothgrad", {"noise_std": one}) for one in (1, 1.0))
    assert whole == decimal == command("smoothgrad", {"noise_std": 1.0})
