"""One value is accepted or refused, in the same words, wherever it is given; and settings keep their ids."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from tiny import FrameTokenizer, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.api import arguments as api
from saliency_bench.attribution import settings
from saliency_bench.attribution.backward import rules as backward
from saliency_bench.attribution.captum import BACKENDS as CAPTUM
from saliency_bench.attribution.methods import METHODS
from saliency_bench.attribution.noise import UNITS
from saliency_bench.attribution.reduction import REDUCTIONS
from saliency_bench.cli import config
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError
from saliency_bench.core.ranges import MOST_POINTS
from saliency_bench.core.registry import BASELINES, Registry
from saliency_bench.core.rows import Setting
from saliency_bench.experiments.parity import pairs as parity
from saliency_bench.experiments.sanity import subjects
from saliency_bench.experiments.scaffold import experiment
from saliency_bench.experiments.throughput.contestants import setting_of
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.scores import CRITERION, OUTPUTS

GOLDEN = json.loads((Path(__file__).parent / "golden_settings.json").read_text("utf-8"))

#: The ids of settings, or why there are none.
Verdict = list[str] | str

#: Keys of a method entry that are given.
Entry = dict[str, Any]

#: Of every type, in and out of every range, and lists of these; given to every hyperparameter.
VALUES: list[Any] = [
    None, True, -1, 0, 1, 4, MOST_POINTS + 4, -0.5, 0.5, 2.5, math.nan, math.inf, "", "nonsense", "auto", {"a": 1}, [],
    [4, 8], [4, 4.0], [[4]], [4, "nonsense"],
]  # fmt: skip

#: Names and files of hyperparameters that are not names of one list (`settings.CHECKS`).
FILES = [
    "text:",
    "text:a film",
    "vector:absent.npy",
    "file:absent.txt",
    "vocabulary",
    "movie_reviews",
]

#: Keys that every entry may have, and their names.
SHARED: dict[str, list[str]] = {
    "backward": list(backward.NAMES),
    "reduction": list(REDUCTIONS),
    "backend": list(settings.BACKENDS),
    "output": list(OUTPUTS),
}

#: No name of any of these.
OF_NO_NAME: list[Any] = [None, True, 1, 2.5, math.nan, "", "nonsense", {"a": 1}, [], [None]]

#: Besides the command.
WAYS = ("python", "sanity", "throughput", "validate")


pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.fixture(scope="module")
def model():
    return sb.wrap_model(tiny_bert(), FrameTokenizer(), labels=("a", "b", "c"))


@cache
def composed(method: str) -> config.Config:
    file = ["method.file.path=scores.jsonl"] if method == "file" else []
    return config.load(["~experiment", f"method=[{method}]", *file])


def command(method: str, entry: Entry, backend: str = "native", output: Any = "logit") -> Verdict:
    """What the command makes of these keys of the method's entry."""
    cfg = replace(composed(method), backend=[backend], output=output)
    cfg.method = {method: cfg.method[method] | entry}
    return _verdict(lambda: config.validate(cfg) or config.settings(cfg))


def _verdict(expanded: Callable[[], Iterable[Setting]]) -> Verdict:
    try:
        return [setting.at("predicted").id for setting in expanded()]
    except InputError as error:
        return str(error)


class Reached(Exception):
    """The settings that a call of `attribute` came to."""


class Ways:
    """The other four ways from a value to settings; each stops before anything is computed.

    None where a way has no such value: the message is then another function's.
    """

    def __init__(self, model: Model, patch: pytest.MonkeyPatch) -> None:
        self.model, self.patch = model, patch
        self.defaults = cache(conf_files.method_defaults)
        patch.setattr(api, "fit_settings", self._stop)
        patch.setattr(subjects, "fit_settings", lambda model, expanded: (expanded, []))

    @staticmethod
    def _stop(model: Model, expanded: list[Setting], longest: int) -> NoReturn:
        raise Reached(expanded)

    def python(self, method: str, entry: Entry) -> Verdict | None:
        """Keywords of `attribute`; those that all methods have are no error for one that ignores them."""
        apart = [key for key in ("backend", "reduction") if key in entry]
        if "output" in entry or (apart and not settings.has_backends(method)):
            return None
        if any(entry.get(key, "") is None for key in ("baseline", "reduction")):  # the entry's
            return None

        def reached() -> list[Setting]:
            with pytest.raises(Reached) as reached:
                sb.attribute(self.model, token_inputs(4), method, token_budget=512, **entry)
            expanded: list[Setting] = reached.value.args[0]
            return expanded

        return _verdict(reached)

    def sanity(self, method: str, entry: Entry) -> Verdict:
        """An entry of conf/method/, of which a section changes no key."""
        changed = {**self.defaults(method), **entry}
        with self.patch.context() as patch:
            patch.setattr(conf_files, "method_defaults", lambda name: changed)
            return _verdict(lambda: subjects.settings_of(self.model, [method], 0).values())

    def throughput(self, method: str, entry: Entry) -> Verdict:
        """An entry of conf/method/ with what a section changes."""
        return _verdict(lambda: [setting_of(method, **entry)])

    def validate(self, method: str, entry: Entry, backend: str) -> Verdict:
        """The keys `hyper` and `method` of conf/validate.yaml, for one backend that has the method."""
        declared = METHODS.hyperparameters(method)
        hyper = {key: value for key, value in entry.items() if key in declared}
        rest = {key: value for key, value in entry.items() if key not in declared}
        of_file = {"hyper": hyper, "method": {method: rest}, "seed": 0}
        with self.patch.context() as patch:
            names = SimpleNamespace(names=lambda: [method])
            patch.setattr(parity, "BACKENDS", {backend: names})
            return _verdict(lambda: parity.settings_of(of_file))


@pytest.fixture
def ways(model, monkeypatch) -> Ways:
    return Ways(model, monkeypatch)


def cases(method: str) -> list[Entry]:
    """Entries with one value each time, those of noise with its other units off, as Python does by itself."""
    file = {"path": "scores.jsonl"} if method == "file" else {}
    units = [f"noise_{unit}" for unit in UNITS]
    entries: list[Entry] = [file, file | {"nonsense": 1}, file | {"n_step": 3}]
    for key in METHODS.hyperparameters(method):
        others = dict.fromkeys(units) if key in units else {}
        values = [*VALUES, *several(names_of(key))]
        entries += [file | others | {key: value} for value in values]
    for key, names in SHARED.items():
        entries += [file | {key: value} for value in (*OF_NO_NAME, *several(names))]
    return entries


def names_of(key: str) -> list[str]:
    """The names that a hyperparameter may be; none where it is a number."""
    if key in settings.CHECKS:
        return [*BASELINES.names(), *FILES]
    names = settings.CHOICES.get(key, ())
    return names.names() if isinstance(names, Registry) else [*names]


def several(names: list[str]) -> list[Any]:
    """Each name, and lists of names: all, the first twice, and the first beside none."""
    return [*names, names, names[:1] * 2, [*names[:1], "nonsense"]] if names else []


def one_setting(method: str, verdict: Verdict) -> Verdict:
    """The verdict where a method may have one setting alone."""
    if isinstance(verdict, str) or len(verdict) == 1:
        return verdict
    return f"method.{method} has {len(verdict)} settings: expected one. Give each of its keys one value."


def disagreements(method: str, ways: Ways, names: Iterable[str] = WAYS) -> list[tuple[Any, ...]]:
    """The ways and entries of which a way makes something else than the command, and both verdicts."""
    differing: list[tuple[Any, ...]] = []
    for entry in cases(method):
        expected = command(method, entry)
        single = one_setting(method, expected)
        for name in names:
            if name == "validate":
                pairs = [
                    (command(method, entry, backend), ways.validate(method, entry, backend))
                    for backend, registry in CAPTUM.items()
                    if method in registry
                ]
            else:
                whole = expected if name == "python" else single
                pairs = [(whole, getattr(ways, name)(method, entry))]
            differing += [
                (name, entry, *pair) for pair in pairs if pair[1] is not None and pair[0] != pair[1]
            ]
    return differing


@pytest.mark.parametrize("method", METHODS.names())
def test_all_ways_agree_with_the_command_on_every_value_of_every_key(method, ways):
    assert disagreements(method, ways) == []


#: By verb and its keys of hyperparameters, the method whose hyperparameters these are.
OPTIONS = {
    "throughput": {"n_steps": "integrated_gradients", "quadrature": "integrated_gradients"},
    "validate": {"hyper.n_steps": "integrated_gradients", "hyper.n_samples": "smoothgrad"},
}


def options_of(verb: str, key: str, value: Any) -> str:
    """Why the verb refuses a value of its command line; empty if it takes it."""
    try:
        experiment(verb).options([f"{key}={json.dumps(value)}"])
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("verb", "key"), [(verb, key) for verb, keys in OPTIONS.items() for key in keys]
)
def test_a_verb_refuses_a_value_of_its_options_in_the_commands_words(verb, key):
    method, name = OPTIONS[verb][key], key.split(".")[-1]
    numbers = [
        value for value in VALUES if value is not None and not isinstance(value, list | dict)
    ]
    for value in [*numbers, *several(names_of(name))[: len(names_of(name))]]:
        if isinstance(value, float) and not math.isfinite(value):
            continue  # JSON has none of these
        expected, said = command(method, {name: value}), options_of(verb, key, value)
        if verb == "validate" and not isinstance(expected, str):
            continue  # it may refuse more: Captum's twins of a method have fewer values
        assert bool(said) == isinstance(expected, str), (value, said, expected)
        # An option of another type is refused before, with the shipped value as an example.
        if said and type(value) is type(conf_files.method_defaults(method)[name]):
            assert said.split(f"{name}=")[-1] == expected.split(f"{name}=")[-1]


@pytest.mark.parametrize("way", WAYS)
def test_a_way_that_checks_less_is_seen(way, ways, monkeypatch):
    checked = getattr(ways, way)

    def unchecked(*entry):
        with monkeypatch.context() as patch:
            patch.setattr(settings, "checked_value", lambda method, key, value, where: value)
            try:
                return checked(*entry)
            except Exception as error:
                return repr(error)

    monkeypatch.setattr(ways, way, unchecked)
    assert disagreements("integrated_gradients", ways, [way])


@pytest.mark.parametrize("output", [*OUTPUTS, "nonsense", "", 1, True, CRITERION, [*OUTPUTS]])
def test_python_and_the_command_agree_on_the_output_of_all_methods(output, ways):
    def reached():
        with pytest.raises(Reached) as reached:
            sb.attribute(ways.model, token_inputs(4), "vanilla", token_budget=512, output=output)
        return reached.value.args[0]

    assert _verdict(reached) == command("vanilla", {}, output=output)


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
def test_what_has_no_meaning_is_refused_by_both(method, given, said, ways):
    for verdict in (command(method, given), ways.python(method, given)):
        assert isinstance(verdict, str) and said in verdict


def test_an_unknown_hyperparameter_is_a_type_error_of_python_too(model):
    with pytest.raises(TypeError, match="did you mean 'n_steps'"):
        sb.attribute(model, token_inputs(4), "integrated_gradients", n_step=3)


@pytest.mark.parametrize("method", GOLDEN["method"])
def test_the_id_of_an_entry_is_what_it_was(method, ways):
    given = {"path": "scores.jsonl"} if method == "file" else {}
    assert command(method, given) == ways.python(method, given) == [GOLDEN["method"][method]]


@pytest.mark.parametrize("name", GOLDEN["experiment"])
def test_the_ids_of_an_experiment_are_what_they_were(name):
    found = config.settings(config.load([f"experiment={name}"]))
    assert [one.id for one in found] == GOLDEN["experiment"][name]


def test_a_whole_number_where_a_number_is_meant_is_one_setting_in_python_too(ways):
    whole, decimal = (ways.python("smoothgrad", {"noise_std": one}) for one in (1, 1.0))
    assert whole == decimal == command("smoothgrad", {"noise_std": 1.0})
