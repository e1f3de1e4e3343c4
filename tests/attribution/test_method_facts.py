"""What a method is, is said where it is registered, and travels with the setting to whatever shows it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import saliency_bench
from saliency_bench.attribution.describe import about_of, described
from saliency_bench.attribution.methods import ABOUT, KINDS, METHODS, method
from saliency_bench.core.errors import StorageError
from saliency_bench.core.labels import hyperparameters, setting_labels
from saliency_bench.core.method_facts import FACTS, facts_of, is_reference, signed
from saliency_bench.core.rows import Setting
from saliency_bench.report import style
from saliency_bench.store.schema import check_settings

PACKAGE = Path(saliency_bench.__file__).parent
#: Where a method's name is no fact about methods: a choice of one to use, or a word with another meaning.
ELSEWHERE = {
    "api/__init__.py": {"integrated_gradients"},  # the default
    "attribution/captum.py": {"smoothgrad", "vargrad"},  # Captum's own
    "attribution/points.py": {"random"},  # random references
    "cli/doctor.py": {"integrated_gradients", "file"},  # what is tried out; pip's file: addresses
    "core/maps.py": {"file"},  # scores from elsewhere, in memory
    "evaluation/corruption.py": {"random"},  # a corruption of a ranking
    "experiments/parity/premises.py": {"smoothgrad", "vargrad"},  # what is measured
    "experiments/throughput/contestants.py": {"integrated_gradients"},
    "experiments/throughput/sections.py": {"smoothgrad", "integrated_gradients_adaptive"},
    "experiments/trust_report.py": {"random"},  # where a shortcut stands
    "report/leaderboard.py": {"vanilla"},  # whose time is the unit
}


def named(text: str) -> set[str]:
    """The method names among the string constants of a module."""
    constants = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    return {name for name in METHODS.names() if name in constants}


def setting(method="smoothgrad_squared", backend="native", reduction="sum", **changed):
    given = {"name": method, "target": "predicted", "output": "logit", "seed": 0} | changed
    return Setting(method=method, backend=backend, reduction=reduction, **given)


def test_no_module_outside_of_methods_names_a_method_but_to_use_it():
    found = {
        str(path.relative_to(PACKAGE)): names
        for path in PACKAGE.rglob("*.py")
        if PACKAGE / "attribution" / "methods" not in path.parents
        and (names := named(path.read_text("utf-8")))
    }
    assert found == ELSEWHERE


def test_a_list_of_methods_would_be_seen():
    assert named('"""vanilla"""\n_COLORS = {"vanilla": 1}\nx = f("lime")') == {"vanilla", "lime"}


def test_every_method_says_what_it_is():
    assert ABOUT.keys() == KINDS.keys() == {*METHODS.names()}
    assert all(of.family is None or of.family in ABOUT for of in ABOUT.values())
    others = [name for of in ABOUT.values() for name in (of.dot_twin, of.limit) if name]
    assert {*others} <= {*METHODS.names()}
    labels = [of.label for of in ABOUT.values()]
    colors = [of.color for of in ABOUT.values() if of.color]
    assert len({*labels}) == len(labels) and len({*colors}) == len(colors)


def test_facts_are_no_part_of_an_id_and_no_hyperparameter():
    one = setting(hyper={"n_samples": 4})
    flat = described(one)
    assert flat["setting_id"] == one.id and flat.keys() - one.to_dict().keys() == {FACTS}
    assert hyperparameters(flat) == {"n_samples": 4}
    check_settings([flat, one.to_dict()], Path("settings.json"))
    told = flat | {FACTS: flat[FACTS] | {"label": "Another"}}
    check_settings([told], Path("settings.json"))


def test_a_setting_says_what_its_method_and_its_reduction_are():
    captum = facts_of(described(setting("vanilla", "captum_layer", "l2", name="mine")))
    assert (captum.label, captum.entry, captum.backend) == (
        "Vanilla gradient",
        "mine",
        "Captum (layer)",
    )
    assert captum.reference and captum.signed is False and captum.plain
    chance = facts_of(described(setting("random", "none", "none")))
    assert (chance.role, chance.backend, chance.explains_output) == ("chance", "", False)
    assert not chance.reference and not chance.plain


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("vanilla", "vanilla", "Vanilla gradient"),
        ("vanilla_l1", "vanilla", "Vanilla gradient (l1)"),
        ("as_usual", "vanilla", "Vanilla gradient (as usual)"),
        ("vanilla", "smoothgrad", "SmoothGrad (vanilla)"),
    ],
)
def test_an_entry_with_a_name_of_its_own_is_labelled_by_its_method_and_that_name(
    name, method, expected
):
    settings = [
        described(setting(method, "native", "l2", name=name, hyper={"n_samples": n}))
        for n in (4, 8)
    ]
    assert setting_labels(settings[:1]) == {settings[0]["setting_id"]: expected}
    first, second = setting_labels(settings).values()
    joined = expected.removesuffix(")") + ", " if "(" in expected else f"{expected} ("
    assert (first, second) == (f"{joined}n_samples=4)", f"{joined}n_samples=8)")


def test_of_an_older_run_the_setting_tells_what_it_can():
    old = [setting("vanilla", backend, "l1").to_dict() for backend in ("native", "captum")]
    assert [*setting_labels(old).values()] == ["vanilla (native)", "vanilla (captum)"]
    assert [is_reference(one) for one in old] == [False, True]
    assert not signed(old[0], [-1.0])  # lengths
    summed = setting("lime", "captum", "none").to_dict()
    assert signed(summed, [-1.0]) and not signed(summed, [1.0])
    assert style.color(old[0]) in style._OTHERS


@pytest.mark.parametrize(
    "facts",
    [
        "text",
        {"label": 1},
        {"color": "red; background: url(https://elsewhere.example)"},
        {"color": "#00000"},
        {"signed": "yes"},
        {"signed": 1},
        {"reference": None},
    ],
)
def test_facts_of_another_kind_are_refused(facts):
    with pytest.raises(StorageError, match=rf"settings.json: entry 0: {FACTS}"):
        check_settings([setting().to_dict() | {FACTS: facts}], Path("settings.json"))


def test_a_colour_that_is_none_is_refused_where_it_is_said():
    with pytest.raises(ValueError, match="expected #RRGGBB"):
        method("token", color="red")(lambda ctx: ctx)


_MODULE = """
from saliency_bench.attribution.methods import method

@method("token", label="Halfway", signed=False, color="#123456", role="baseline")
def halfway(ctx):
    ...

@method("product", family="smoothgrad")
def half_smooth(ctx):
    ...
"""
_SCRIPT = """
import json
from saliency_bench.attribution.describe import described
from saliency_bench.attribution.settings import expand

entries = {"halfway": {}, "half_smooth": {"reduction": "sum"}}
made = expand({name: {"method": name, **entry} for name, entry in entries.items()})
print(json.dumps([described(one) for one in made]))
"""


def test_a_method_of_another_package_is_shown_as_it_says_where_the_package_is_not(tmp_path):
    info = tmp_path / "strangers-1.0.dist-info"
    info.mkdir()
    (tmp_path / "strangers.py").write_text(_MODULE, "utf-8")
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n", "utf-8"
    )
    points = "[saliency_bench.methods]\nhalfway = strangers:halfway\nhalf_smooth = strangers:half_smooth\n"
    (info / "entry_points.txt").write_text(points, "utf-8")
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    settings = json.loads(done.stdout)
    check_settings(settings, Path("settings.json"))
    assert "halfway" not in METHODS
    halfway, smooth = settings
    assert [*setting_labels(settings).values()] == ["Halfway", "Half smooth"]
    assert style.color(halfway) == "#123456" and facts_of(halfway).role == "baseline"
    assert not signed(halfway, [-1.0]) and signed(smooth, [1.0])
    family = about_of("smoothgrad").color
    lighter = [
        int(style.color(smooth)[at : at + 2], 16) - int(family[at : at + 2], 16) for at in (1, 3, 5)
    ]
    assert min(lighter) > 0 and style.color(smooth) not in {of.color for of in ABOUT.values()}
