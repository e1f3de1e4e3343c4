"""Configurations: what composes, what is refused and with which words, and which settings come out."""

from pathlib import Path

import jaxtyping
import pytest
import yaml

from saliency_bench.attribution.backward import RULES
from saliency_bench.attribution.methods import ABOUT, KINDS, METHODS
from saliency_bench.cli import config
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError
from saliency_bench.core.signatures import typed
from saliency_bench.data import DATASETS
from saliency_bench.evaluation.metrics import INFO

EXPERIMENTS = conf_files.names("experiment")


def refusal(*overrides: str) -> str:
    """The one message that these overrides get."""
    with pytest.raises(InputError) as caught:
        config.validate(config.load(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


def expand(*overrides: str):
    return config.settings(config.load(["~experiment", *overrides]))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_is_valid(name):
    cfg = config.load([f"experiment={name}"])
    config.validate(cfg)
    assert cfg.name == name


@pytest.mark.parametrize("name", ["reproduce_sig", "reproduce_naopc"])
def test_a_protocol_runs_on_another_model_and_data(name):
    cfg = config.load([f"experiment={name}", "model=default", "data=movie_reviews"])
    config.validate(cfg)
    assert cfg.model.name == "default"
    assert cfg.data["dataset"] == "movie_reviews"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_headed_by_the_command_that_runs_it(name):
    command = "saliency-bench" if name == "quickstart" else f"saliency-bench experiment={name}"
    assert conf_files.summary("experiment", name).endswith(f": {command}")


#: Presets of others' methods; the rest are of others' metrics.
OF_METHODS = ("allennlp", "captum", "koren")


@pytest.mark.parametrize("name", conf_files.names("preset"))
def test_every_preset_composes_and_says_how_it_is_asked_for(name):
    # Methods that a preset chooses, an experiment would choose otherwise.
    words = [f"preset={name}", *(["~experiment"] if name in OF_METHODS else [])]
    config.validate(config.load(words))
    command = " ".join(["saliency-bench", *words])
    assert conf_files.summary("preset", name).endswith(f": {command}")


@pytest.mark.parametrize("name", sorted({*conf_files.names("preset")} - {*OF_METHODS}))
def test_of_a_preset_of_metrics_these_alone_are_computed(name):
    cfg = config.load([f"preset={name}"])
    assert len(cfg.metric) < 5
    both = config.load([f"preset={name}", "experiment=method_comparison"])
    assert both.metric == cfg.metric and both.name == "method_comparison"


def test_dig_and_sig_differ_in_what_replaces_tokens_for_log_odds():
    entries = [config.load([f"preset={name}"]).metric["dig_log_odds"] for name in ("dig", "sig")]
    assert [entry.pop("removal") for entry in entries] == ["pad", "mask"]
    assert entries[0] == entries[1]


@pytest.mark.parametrize("group", ["method", "metric"])
def test_every_file_of_a_group_holds_one_entry_of_its_own_name(group):
    for name in conf_files.names(group):
        content = conf_files.read(group, name)
        assert list(content) == [name]
        assert content[name][group]
        assert conf_files.summary(group, name)


def test_every_method_has_a_file_that_names_all_its_hyperparameters():
    by_rule = {name for rule in RULES for name in (rule, f"{rule}_baseline")}
    assert set(conf_files.names("method")) == set(METHODS.names()) | by_rule
    for name in conf_files.names("method"):
        entry = conf_files.method_defaults(name)
        method = entry["method"]
        others = {"method"} if KINDS[method] == "token" else {"method", "reduction"}
        others |= {"backward"} if ABOUT[method].backward else set()
        assert set(entry) == others | set(METHODS.hyperparameters(method))


CALIBRATED = {"quadrature": "calibrated", "n_steps": 18}


@pytest.mark.parametrize(
    "name", ["method_comparison", "plausibility", "full_comparison", "smoothing"]
)
def test_studies_take_calibrated_nodes_and_those_of_captum_stay_to_be_chosen(name):
    entry = config.load([f"experiment={name}"]).method["integrated_gradients"]
    assert {key: entry[key] for key in CALIBRATED} == CALIBRATED
    plain = config.load(["~experiment", "method=[integrated_gradients]"])
    usual = conf_files.method_defaults("integrated_gradients")
    assert plain.method == {"integrated_gradients": usual}
    assert (usual["quadrature"], usual["n_steps"]) == ("gauss_legendre", 50)


def test_a_calibrated_entry_is_the_usual_one_but_for_its_nodes_and_can_be_left_out():
    (entry,) = config.load(["method=[calibrated/integrated_gradients]"]).method.values()
    assert entry == conf_files.method_defaults("integrated_gradients") | CALIBRATED
    assert list(config.load(["method=[vanilla]"]).method) == ["vanilla"]


@pytest.mark.parametrize("name", ["quickstart", "captum_parity", "throughput"])
def test_captum_is_compared_at_equal_rules(name):
    settings = config.settings(config.load([f"experiment={name}"]))
    ids = {setting.id for setting in settings}
    captum = [setting for setting in settings if setting.backend == "captum"]
    assert captum and all(setting.twin("native").id in ids for setting in captum)


def test_plain_yaml_and_hydra_read_the_same_method():
    cfg = config.load(["~experiment", "method=[smoothgrad]"])
    assert cfg.method == {"smoothgrad": conf_files.method_defaults("smoothgrad")}


def test_plain_yaml_and_hydra_read_the_same_runtime():
    found = vars(config.load([]).runtime)
    of_studies = {"executor": {"name": "here"}, "device_map": None}
    assert found == conf_files.runtime_defaults() | of_studies


def test_an_unknown_choice_of_plain_yaml_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'vanilla'"):
        conf_files.method_defaults("vanila")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("n_exmples=3", ["'n_exmples'", "'n_examples'"]),
        ("runtime.dtyp=float32", ["'runtime.dtyp'", "'runtime.dtype'"]),
        ("method.smoothgrad.n_sample=3", ["method.smoothgrad", "'n_sample'", "'n_samples'"]),
        ("method.smothgrad.n_samples=3", ["method.smothgrad.method is missing", "selected"]),
        ("+method.smoothgrad.n_sample=3", ["method.smoothgrad", "'n_samples'"]),
        ("model.pat=x", ["'model.pat'", "'model.path'"]),
        ("model.path=x", ["'model.path'", "chosen for model", "model=hub"]),
        ("removal=[mask]", ["'removal'", "did you mean 'evaluation.removal'?"]),
        ("path=x", ["'path'", "did you mean 'data.path' or 'model.path'?"]),
        ("+data.splt=test", ["data", "'split'"]),
        ("method=[vanila]", ["'vanila'", "'vanilla'"]),
        ("experiment=quickstrt", ["'quickstrt'", "'quickstart'"]),
        ("n_examples=many", ["n_examples", "many"]),
        ("timing.enabled=perhaps", ["timing.enabled", "perhaps"]),
        ("method.vanilla=3", ["method.vanilla"]),
        ("n_examples=0", ["n_examples=0", "at least 1"]),
        ("runtime.threads=0", ["runtime.threads=0", "1 to 1024"]),
        ("runtime.token_budget=0", ["runtime.token_budget=0"]),
        ("statistics.confidence=1.5", ["statistics.confidence=1.5"]),
        ("statistics.reference=vanila", ["statistics.reference", "'vanilla'"]),
        ("statistics.pairs=vanilla", ["statistics.pairs='vanilla'", "smoothgrad:vanilla"]),
        ("statistics.pairs={vanila:random}", ["statistics.pairs", "'vanilla'"]),
        ("statistics.pairs={vanilla:randm}", ["statistics.pairs", "'random'"]),
        ("statistics.pairs={vanilla:vanilla}", ["vanilla against itself"]),
        ("statistics.endpoint=sgr", ["statistics.endpoint", "'srg'"]),
        ("name=../../etc", ["name='../../etc'"]),
        ("output=logits", ["output", "'logit'"]),
        ("method.smoothgrad.output=logits", ["method.smoothgrad.output", "'logit'"]),
        ("method.smoothgrad.output=[]", ["method.smoothgrad.output", "empty"]),
        ("backend=captun", ["backend", "'captum'"]),
        ("backend=[]", ["backend", "empty"]),
        ("backend=[native,native]", ["backend", "'native'", "twice"]),
        ("too_long=cut", ["too_long", "'cut'"]),
        ("evaluation.removal=masked", ["evaluation.removal", "'mask'"]),
        ("runtime.dtype=float23", ["runtime.dtype", "'float32'"]),
        ("runtime.device=gpu", ["runtime.device", "'gpu'"]),
        ("runtime.attention=flash", ["runtime.attention", "'flash'"]),
        ("method=[]", ["method is empty"]),
        ("seed=${nothing}", ["seed", "nothing"]),
        ("seed=${seed}", ["seed"]),
        ("method=[vanilla", ["[vanilla"]),
        ("method.smoothgrad.n_samples=0", ["method.smoothgrad.n_samples=0"]),
        ("method.smoothgrad.n_samples=2.5", ["method.smoothgrad.n_samples=2.5", "whole number"]),
        ("method.smoothgrad.n_samples=true", ["method.smoothgrad.n_samples=True"]),
        ("method.smoothgrad.n_samples=[4,4]", ["method.smoothgrad.n_samples", "4", "twice"]),
        ("method.smoothgrad.n_samples=[]", ["method.smoothgrad.n_samples", "empty"]),
        ("method.smoothgrad.noise_std=-0.1", ["method.smoothgrad.noise_std=-0.1"]),
        ("method.smoothgrad.noise_std=nan", ["method.smoothgrad.noise_std=nan"]),
        ("method.smoothgrad.noise_std=inf", ["method.smoothgrad.noise_std=inf"]),
        ("method.smoothgrad.reduction=l3", ["method.smoothgrad.reduction", "'l3'"]),
        ("~method.smoothgrad.reduction", ["method.smoothgrad.reduction", "missing"]),
        ("~method.smoothgrad.n_samples", ["method.smoothgrad", "n_samples"]),
        ("~method.smoothgrad.method", ["method.smoothgrad.method is missing"]),
        ("method.smoothgrad.method=smothgrad", ["method.smoothgrad.method", "'smoothgrad'"]),
        ("method.integrated_gradients.n_steps=-3", ["method.integrated_gradients.n_steps=-3"]),
        ("method.integrated_gradients.n_steps=1000000000", ["10000"]),
        ("method.integrated_gradients.reduction=dot", ["integrated_gradients", "dot"]),
        ("method.input_x_gradient.reduction=dot", ["input_x_gradient", "dot"]),
        ("method.integrated_gradients.quadrature=simpson", ["quadrature", "'simpson'"]),
        ("method.smoothgrad.n_samples=few", ["method.smoothgrad.n_samples", "'few'", "auto"]),
        ("method.smoothgrad.noise_range=0.1", ["noise_std and noise_range", "null"]),
        ("method.smoothgrad.noise_std=null", ["method.smoothgrad", "noise_range"]),
        ("method.smoothgrad.sampler=sobol", ["method.smoothgrad", "'sobol'", "antithetic"]),
        ("method.integrated_gradients.baseline=masc", ["baseline", "'mask'"]),
        ("method.integrated_gradients.baseline_special_tokens=drop", ["'drop'", "keep"]),
        ("+method.random.reduction=l2", ["method.random.reduction", "Remove"]),
        ("+method.leave_one_out.backend=[captum]", ["method.leave_one_out.backend"]),
        ("method.leave_one_out.removal=gone", ["method.leave_one_out.removal", "'gone'"]),
        ("agreement.metrics=[tau]", ["agreement.metrics", "kendall_tau"]),
        ("agreement.metrics=[rbo,rbo]", ["agreement.metrics", "twice"]),
        ("agreement.granularity=letter", ["agreement.granularity", "word"]),
        ("agreement.k=0", ["agreement.k", "fraction"]),
        ("agreement.p=1", ["agreement.p=1.0", "between 0 and 1"]),
        ("data.dataset=movies", ["data.dataset", "'movie_reviews'"]),
        ("data.lexicon=high", ["data.lexicon='high'", "a finite number"]),
        ("model=hub", ["model.path is missing", "model=hub model.path=FOLDER"]),
        ("data=file", ["data.path is missing", "data=file data.path=reviews.csv"]),
        ("metric=[srgg]", ["metric", "'srg'"]),
        ("+metric.srg.share=0.5", ["metric.srg", "share"]),
        ("metric.srg.metric=srgg", ["metric.srg.metric", "'srg'"]),
        ("metric.sufficiency.grid=erasr", ["metric.sufficiency.grid", "'eraser'"]),
        ("metric.sufficiency.grid=[0.1,1.5]", ["metric.sufficiency.grid=1.5"]),
        ("metric.sufficiency.grid=[x]", ["metric.sufficiency.grid='x'"]),
        ("metric.sufficiency.grid=[]", ["metric.sufficiency.grid", "empty"]),
        ("metric.log_odds.fraction=0", ["metric.log_odds.fraction=0"]),
        ("~metric.log_odds.fraction", ["metric.log_odds", "fraction"]),
        ("convergence.largest_gap=-1", ["convergence.largest_gap=-1", "at least 0"]),
        ("convergence.largest_gap=nan", ["convergence.largest_gap=nan", "at least 0"]),
        ("convergence.smallest_tau=7", ["convergence.smallest_tau=7", "-1 to 1"]),
        ("seed='a'", ["seed", "a whole number", "'a'"]),
        ("data.lexicon=-1", ["data.lexicon=-1", "up to 4"]),
        ("+foo=1", ["unknown key 'foo'"]),
        ("++convergence.largest_gp=0.1", ["'convergence.largest_gp'", "convergence.largest_gap"]),
        ("+model.path=x", ["'model.path'", "model=hub"]),
        ("+choose.x=1", ["'choose.x'"]),
        ("+runtime.thread=1", ["'runtime.thread'", "'runtime.threads'"]),
        ("+runtime.executor.worker=1", ["runtime.executor", "'worker'"]),
        ("+timing.deep.er=1", ["'timing.deep'"]),
        ("~seed", ["seed is missing"]),
        ("model={a: b}", ["'model.a'"]),
        ("data={a: b}", ["'data.a'"]),
        ("choose={split: validation, n: 3}", ["'choose.n'", "n_examples"]),
        ("method.vanilla.reduction={a: b}", ["method.vanilla.reduction", "l2"]),
        ("method.vanilla.reduction=[[l2]]", ["method.vanilla.reduction", "'l2'"]),
        ("method.vanilla.backend={a: b}", ["method.vanilla.backend", "expected a list"]),
        ("method.vanilla.backend=[[native]]", ["method.vanilla.backend", "'native'"]),
        ("model.name=hub", ["model.name=hub", "model=hub"]),
        ("model.name=defualt", ["model.name", "'default'"]),
        ("choose.split=test", ["choose.split=test", "data.split=test"]),
        ("choose={split: validation, metric: sgr}", ["choose.metric", "'srg'"]),
    ],
)
def test_a_mistake_is_refused_by_the_key_that_it_is_in(override, words):
    message = refusal(override)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.labels=[a,a]", ["model.labels", "twice"]),
        ("model.labels=[]", ["model.labels", "a name for each class"]),
        ("model.name=default", ["model.name=default", "hub"]),
        ("model.name=shortcuts", ["model.name=shortcuts", "hub"]),
        ("model.task=classification", ["model.task", "sequence-classification"]),
        ("model.path=", ["model.path is empty"]),
    ],
)
def test_a_mistake_in_a_model_is_refused_before_it_is_loaded(override, words):
    message = refusal("model=hub", "model.path=x", override)
    assert all(word in message for word in words), message


def test_a_label_that_is_a_list_is_no_name():
    jaxtyping.config.update("jaxtyping_disable", True)  # a user's calls are not type-checked
    try:
        message = refusal("model=hub", "model.path=x", "model.labels=[[a],b]")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert message.startswith("model.labels=[['a'], 'b']: expected a name for each class")


@pytest.mark.parametrize(
    ("runtime", "override", "words"),
    [
        ("processes", "runtime.executor.workers=-1", ["workers=-1", "at least 1"]),
        ("slurm", "runtime.executor.memory_gb=-1", ["memory_gb=-1", "at least 1"]),
        ("slurm", "runtime.executor.gpus_per_worker=-1", ["gpus_per_worker=-1", "at least 0"]),
        ("slurm", "runtime.executor.cluster=slrum", ["runtime.executor.cluster", "'slurm'"]),
        ("ray", "runtime.executor={address: [a]}", ["runtime.executor.address", "text or null"]),
    ],
)
def test_a_mistake_in_who_computes_is_refused(runtime, override, words):
    message = refusal(f"runtime={runtime}", override)
    assert all(word in message for word in words), message


def test_shares_are_fractions():
    for wrong in ("[x]", "[0.1,true]", "[0.5,1.5]"):
        override = f"metric.ferret_sufficiency.shares={wrong}"
        assert "shares=" in refusal("metric=[ferret_sufficiency]", override)


def test_a_mistake_in_what_is_not_selected_by_default_is_refused_too():
    message = refusal("method=[beam_search]", "method.beam_search.goal=all")
    assert "method.beam_search.goal" in message
    assert "srg" in message


def test_a_gpu_is_an_error_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "runtime.device=cuda" in refusal("runtime.device=cuda")
    config.validate(config.load(["runtime.device=auto"]))


@pytest.mark.parametrize(
    "place",
    ["+_target_", "+data._target_", "+model._target_", "+method.vanilla._target_"],
)
def test_a_configuration_calls_no_code(place, tmp_path):
    sentinel = tmp_path / "called"
    message = refusal(f"{place}=pathlib.Path.touch", f"out={sentinel}")
    assert "_target_" in message
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"n_exmples": 3}, ["'n_exmples'", "'n_examples'"]),
        ({"runtime": {"dtyp": "float32"}}, ["'runtime.dtyp'", "'runtime.dtype'"]),
        ({"n_examples": "many"}, ["n_examples", "many"]),
        ({"method": {"smoothgrad": {"n_sample": 3}}}, ["method.smoothgrad", "'n_samples'"]),
        ({"data": {"splt": "test"}}, ["data", "'split'"]),
        ({"method": {"mine": {"_target_": "os.system"}}}, ["method.mine._target_"]),
        ({"method": {"mine": {"reduction": "l2"}}}, ["method.mine.method is missing"]),
    ],
)
def test_a_mistake_in_a_file_is_refused_too(content, words, tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\n" + yaml.safe_dump(content)
    (tmp_path / "experiment" / "mine.yaml").write_text(text, "utf-8")
    defaults = f"method=[{','.join(conf_files.names('method'))}]"
    given = "method.file.path=scores.jsonl"
    message = refusal(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", defaults, given)
    assert all(word in message for word in words), message


def test_a_list_is_an_axis_and_the_last_hyperparameter_is_fastest():
    overrides = ["method.smoothgrad.n_samples=[4,8]", "method.smoothgrad.noise_std=[0.1,1]"]
    found = expand("method=[smoothgrad]", *overrides)
    assert [(s.hyper["n_samples"], s.hyper["noise_std"]) for s in found] == [
        (4, 0.1), (4, 1.0), (8, 0.1), (8, 1.0),
    ]  # fmt: skip


def test_settings_stand_in_the_order_of_entries_then_backends():
    found = expand("method=[vanilla,random,input_x_gradient]", "backend=[native,captum]")
    assert [(s.name, s.backend) for s in found] == [
        ("vanilla", "native"),
        ("vanilla", "captum"),
        ("random", "none"),
        ("input_x_gradient", "native"),
        ("input_x_gradient", "captum"),
    ]


def test_an_entry_may_have_a_backend_of_its_own():
    found = expand(
        "method=[vanilla,smoothgrad]", "backend=[native,captum]", "+method.vanilla.backend=[native]"
    )
    assert [s.backend for s in found] == ["native", "native", "captum"]


def test_an_entry_may_explain_outputs_of_its_own():
    found = expand("method=[vanilla,random]", "method.vanilla.output=[logit,probability]")
    assert [(s.name, s.output) for s in found] == [
        ("vanilla", "logit"),
        ("vanilla", "probability"),
        ("random", "logit"),
    ]
    (same,) = expand("method=[vanilla]", "output=probability")
    assert same.id == found[1].id


def test_optional_keys_of_entries_need_no_sign():
    cfg = config.load(["metric.srg.granularity=word"])
    assert cfg.metric["srg"]["granularity"] == "word"
    config.validate(cfg)


def test_one_number_has_one_name():
    (dotted,) = expand("method=[vanilla]", "method.vanilla.reduction=dot")
    (product,) = expand("method=[input_x_gradient]")
    assert dotted.id == product.id


def test_a_whole_number_where_a_number_is_meant_is_the_same_setting():
    (whole,) = expand("method=[smoothgrad]", "method.smoothgrad.noise_std=1")
    (decimal,) = expand("method=[smoothgrad]", "method.smoothgrad.noise_std=1.0")
    assert whole.id == decimal.id


def test_two_entries_that_compute_the_same_are_refused_by_both_names():
    message = refusal("~experiment", "method.vanilla.reduction=dot")
    assert "method.vanilla" in message
    assert "method.input_x_gradient" in message


def test_a_sweep_chooses_on_a_split_that_it_does_not_report():
    for name in ("noise_sweep", "step_sweep"):
        cfg = config.load([f"experiment={name}"])
        assert cfg.choose is not None
        assert (cfg.choose.split, cfg.data["split"]) == ("validation", "test")
    assert config.load([]).choose is None


def test_the_reference_is_the_first_entry_unless_it_is_named():
    assert config.load(["method=[smoothgrad,vanilla]"]).statistics.reference == "smoothgrad"
    assert config.load(["statistics.reference=random"]).statistics.reference == "random"


def test_the_sweeps_are_as_large_as_they_say():
    # 5 noise levels x 5 sample counts, 5 step counts x 5 rules x 3 baselines; and the random ranking.
    assert len(config.settings(config.load(["experiment=noise_sweep"]))) == 5 * 5 + 1
    assert len(config.settings(config.load(["experiment=step_sweep"]))) == 5 * 5 * 3 + 1


def test_the_metrics_that_are_there_by_default_cost_no_more_than_the_curves():
    chosen = config.load([]).metric
    assert {INFO[entry["metric"]].reads for entry in chosen.values()} == {"curve", "attribution"}


def test_every_dataset_has_a_file_that_names_all_its_hyperparameters():
    for name in DATASETS.names():
        assert set(conf_files.read("data", name)) == {"dataset", *DATASETS.hyperparameters(name)}


def test_no_configuration_file_uses_the_other_suffix():
    assert not list(Path(conf_files.folder()).rglob("*.yml"))


def test_types_are_those_that_the_function_declares():
    def function(*, a: int, b: float, c: str | None, d: list[float], e: bool) -> None: ...

    assert typed(function, "b", 1, "b") == 1.0
    assert type(typed(function, "b", 1, "b")) is float
    assert typed(function, "c", None, "c") is None
    assert typed(function, "d", [0.5], "d") == [0.5]
    for parameter, wrong in {"a": 1.0, "b": True, "c": 3, "d": "x", "e": 1}.items():
        with pytest.raises(InputError, match=f"^{parameter}="):
            typed(function, parameter, wrong, parameter)


@pytest.mark.parametrize("methods", ["vanilla", "smoothgrad,random", "integrated_gradients"])
def test_the_default_experiment_takes_any_choice_of_methods(methods):
    cfg = config.load([f"method=[{methods}]"])
    config.validate(cfg)
    assert {one.method for one in config.settings(cfg)} == set(methods.split(","))


@pytest.mark.parametrize(
    "override",
    ["method.integrated_gradients.quadrature=trapezoid", "method.smoothgrad.n_samples=auto"],
)
def test_captum_is_left_out_where_it_has_no_twin_unless_the_entry_asks_for_it(override):
    name = override.split(".")[1]
    found = expand(f"method=[{name}]", "backend=[native,captum]", override)
    assert [s.backend for s in found] == ["native"]
    message = refusal(f"method=[{name}]", f"+method.{name}.backend=[captum]", override)
    assert "backend: [native]" in message


def test_a_metric_that_asks_the_model_nothing_says_nothing_of_removals():
    for key in ("removal", "output"):
        assert "removes nothing" in refusal("metric=[auprc]", f"+metric.auprc.{key}=mask")
    cfg = config.load(["metric=[auprc]", "+metric.auprc.granularity=word"])
    config.validate(cfg)


@pytest.mark.parametrize("group", ["model=hub", "data=file", "data=hub"])
def test_what_only_the_user_can_give_is_asked_for(group):
    key = group.split("=")[0]
    with pytest.raises(InputError, match=rf"{key}\.path is missing\. Give it: {key}\.path="):
        config.load(["~experiment", group])
