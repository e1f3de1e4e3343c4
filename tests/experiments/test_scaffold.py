"""What all experiments share: options, refusals, and results that are published with their provenance."""

import io
import json

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from saliency_bench.cli import main as cli
from saliency_bench.core.errors import InputError, ValidationError
from saliency_bench.experiments import scaffold
from saliency_bench.experiments.reports import ExperimentReport, show
from saliency_bench.experiments.scaffold import MODULES, Outcome, experiment, publish
from saliency_bench.report.table import Column, Table

ALL = list(MODULES)
MISTAKES = {
    "all": [
        (["n_exmaples=3"], ["'n_exmaples'", "'n_examples'"]),
        (["here"], ["'here'", "key=value"]),
        (["out="], ["out="]),
        (["n_examples=0"], ["n_examples=0", "at least 1"]),
        (["n_examples=two"], ["n_examples=two", "a whole number"]),
        (["n_examples=2.5"], ["n_examples=2.5", "a whole number"]),
        (["seeds=[a"], ["expected YAML"]),
    ],
    "validate": [
        (["seed=-1"], ["seed=-1"]),
        (["model=./nowhere"], ["nowhere"]),
        (["hyper.quadrature=[simpson]"], ["'simpson'", "midpoint"]),
        (["hyper.n_steps=20000"], ["n_steps=20000", "10000"]),
        (["random_models=[brt]"], ["'brt'", "'bert'"]),
        (["dtypes=[float23]"], ["float23", "float32"]),
    ],
    "throughput": [
        (["stable_within=0"], ["stable_within=0", "above 0"]),
        (["length=8"], ["'length'"]),
        (["length.lengths=[8,x]"], ["length.lengths", "a whole number"]),
        (["length.lengths=[]"], ["length.lengths=[]"]),
        (["sections=[speed]"], ["'speed'", "contestants"]),
        (["contestants=[outs]"], ["'outs'", "'ours'"]),
        (["options.captum_sorted.interfaces=[layers]"], ["'layers'", "'layer'"]),
        (["evaluation.methods=[vanila]"], ["'vanila'", "'vanilla'"]),
        (["evaluation.metrics=[sgr]"], ["'sgr'", "'srg'"]),
        (["evaluation.removals=[maks]"], ["'maks'", "'mask'"]),
        (["profile=fast"], ["profile 'fast'", "full"]),
        (["runtime.dtype=float23"], ["float23", "float32"]),
        (["baseline=max_entropy"], ["max_entropy", "mask"]),
        (["quadrature=simpson"], ["simpson", "midpoint"]),
        (["quadrature=trapezoid", "n_steps=1"], ["n_steps=1"]),
        (["accuracy.calibrated_steps=2"], ["n_steps=2", "calibrated"]),
        (["runtime.threads=many"], ["runtime.threads=many"]),
        (["runtime.token_budget=0"], ["runtime.token_budget=0", "at least 1"]),
        (["runtime.token_budget=plenty"], ["runtime.token_budget='plenty'", "calibrate"]),
        (["runtime.token_budget=1.5"], ["runtime.token_budget=1.5"]),
        (["model=./nowhere"], ["nowhere"]),
    ],
    "trust": [
        (["workers=0"], ["workers=0", "at least 1"]),
        (["kinds=single_tokne"], ["'single_tokne'", "'single_token'"]),
        (["corruptions=[worst]"], ["worst", "last"]),
        (["removals=[maks]"], ["maks", "'mask'"]),
        (["removals=[mask,mask]"], ["twice"]),
        (["metrics=[completeness_gap]"], ["completeness_gap", "removes nothing"]),
        (["metrics=[soft_retention]"], ["soft_retention", "direction"]),
        (["metrics=[sgr]"], ["sgr", "srg"]),
        (["output=logits"], ["logits", "'logit'"]),
        (["tie=-1"], ["tie=-1", "at least 0"]),
        (["statistics.confidence=95"], ["confidence", "between 0 and 1"]),
        (["training_seeds=[7]"], ["training_seed=7"]),
    ],
    "sanity": [
        (["randomisation.n_draws=0"], ["randomisation.n_draws=0", "1 to 10000"]),
        (["sections=[randomization]"], ["'randomization'", "'randomisation'"]),
        (["methods=[vanila]"], ["'vanila'", "'vanilla'"]),
        (["methods=[vanilla,vanilla]"], ["twice"]),
        (["removal.operators=[maks]"], ["'maks'", "'mask'"]),
        (["removal.fractions=[1.5]"], ["1.5", "up to 1"]),
        (["randomisation.orders=[up]"], ["'up'", "cascading"]),
        (["stability.noise_seeds=[0]"], ["two or more"]),
        (["sensitivity.radius=0"], ["radius", "above 0"]),
        (["texts=nowhere.txt"], ["nowhere.txt", "could not be read"]),
        (["statistics.confidence=95"], ["confidence", "between 0 and 1"]),
        (["model=nowhere"], ["nowhere"]),
    ],
}


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [(verb, *case) for verb in ALL for case in (*MISTAKES["all"], *MISTAKES[verb])],
)
def test_a_mistake_is_one_message_and_leaves_nothing_behind(verb, words, said, capsys, elsewhere):
    assert cli.main([verb, *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("saliency-bench:")]
    assert len(lines) == 1
    assert all(word in lines[0] for word in said), err
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("verb", ALL)
def test_the_folder_of_a_run_is_refused(verb, elsewhere):
    (elsewhere / "run").mkdir()
    (elsewhere / "run" / "settings.json").write_text("[]", "utf-8")
    with pytest.raises(InputError, match="holds the results of a run"):
        experiment(verb).options(["out=run"])


@pytest.mark.parametrize("verb", ALL)
def test_the_shipped_configuration_is_valid(verb, elsewhere):
    assert experiment(verb).options([]).config == experiment(verb).options([]).config
    assert experiment(verb).options(["n_examples=7"]).config["n_examples"] == 7


def table(n_columns):
    columns = [Column("key", "Key"), *(Column(f"c{i}", f"Column {i}") for i in range(n_columns))]
    cells = [f"{'x' * 20} {i}" for i in range(n_columns)]
    return Table("t", "Title", "", tuple(columns), (("first", *cells),), marks_best=False)


def test_columns_that_do_not_fit_beside_each_other_come_below_and_none_is_cut(tmp_path):
    stream = io.StringIO()
    console = Console(file=stream, width=60, highlight=False)
    show(ExperimentReport("name", [table(5)], ["A note."]), tmp_path, console)
    printed = stream.getvalue()
    assert all(f"{'x' * 20} {i}" in printed for i in range(5))
    assert "…" not in printed
    assert max(map(len, printed.splitlines()[:-2])) <= 60
    assert printed.count("first") == 3  # two columns at a time
    assert "A note." in printed


def test_everything_is_written_and_shown_before_a_failure_is_raised(elsewhere, capsys):
    options = experiment("sanity").options(["out=here", "model=default"])
    drawn = {"old": Figure(), "gone": None}
    report = ExperimentReport("sanity", [table(1)], [], [table(1)], lambda: drawn)
    computation = scaffold.computation(options.config["runtime"], threads=3)
    failure = ValidationError("wrong")
    outcome = Outcome(report, {"rows.csv": b"a\n"}, {"n_rows": 1}, computation, failure)
    gone = elsewhere / "here" / "figures" / "gone.png"
    gone.parent.mkdir(parents=True)
    gone.write_bytes(b"of an earlier run")
    with pytest.raises(ValidationError, match="wrong"):
        publish(options, outcome, ["saliency-bench", "sanity", f"out={elsewhere}/here"])
    here = elsewhere / "here"
    assert {str(path.relative_to(here)) for path in here.rglob("*.*")} == {
        *("rows.csv", "sanity.md", "manifest.json", "figures/old.png", "figures/old.pdf"),
        *(f"tables/t.{suffix}" for suffix in ("csv", "md", "tex")),
    }
    manifest = json.loads((here / "manifest.json").read_text("utf-8"))
    assert (manifest["name"], manifest["n_rows"]) == ("sanity", 1)
    assert manifest["identity"]["computation"]["threads"] == 3
    assert manifest["config"]["n_examples"] == options.config["n_examples"]
    assert str(elsewhere) not in json.dumps(manifest)
    assert not gone.exists()
    assert "Written to here." in capsys.readouterr().out
