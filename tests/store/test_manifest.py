"""The manifest says what made the numbers, and never stands in the way of a run."""

import hashlib
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from saliency_bench.store import manifest
from saliency_bench.store.manifest import code, collect, cpu_model, portable

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
UNKNOWN = {"commit": None, "dirty": None, "dirty_sha256": None}


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("x = 1\n")
    git(tmp_path / "checkout", "init")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "-m", "first")
    return folder


def test_the_manifest_is_json_with_two_halves():
    started = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    found = collect({"threads": 2}, command=["saliency-bench"], started=started)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found.keys() == {"identity", "circumstances"}
    assert found["identity"]["computation"] == {"threads": 2}
    assert found["circumstances"]["started"] == "2030-01-01T10:00:00+00:00"
    assert found["circumstances"]["ended"] is None


def test_identity_does_not_depend_on_time_or_command():
    now = datetime.now(UTC)
    one = collect({}, command=["a"], started=now)
    two = collect({}, command=["b"], started=now + timedelta(days=1), ended=now)
    assert one["identity"] == two["identity"]
    assert one["circumstances"] != two["circumstances"]


def test_versions_are_read_without_importing_the_libraries():
    script = (
        "import sys; from datetime import datetime, UTC; from saliency_bench.store import manifest;"
        "found = manifest.collect({}, command=[], started=datetime.now(UTC));"
        "assert found['identity']['versions']['torch'];"
        "loaded = {'torch', 'numpy', 'pandas', 'matplotlib', 'hydra'} & sys.modules.keys();"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@needs_git
def test_a_clean_checkout_has_a_commit_and_no_digest(package):
    found = code(package)
    assert len(found["commit"]) == 40
    assert (found["dirty"], found["dirty_sha256"]) == (False, None)


@needs_git
def test_local_changes_are_told_apart_by_their_content(package):
    clean = code(package)["commit"]
    digests = set()
    for content in ("x = 2\n", "x = 3\n"):
        (package / "__init__.py").write_text(content)
        found = code(package)
        assert (found["commit"], found["dirty"]) == (clean, True)
        digests.add(found["dirty_sha256"])
    (package / "__init__.py").write_text("x = 1\n")
    (package / "new file é 愛.py").write_text("")
    digests.add(code(package)["dirty_sha256"])
    assert len(digests) == 3 and None not in digests


@needs_git
def test_the_digest_of_local_changes_is_that_of_names_and_contents(package):
    (package / "__init__.py").write_text("x = 2\n")
    content = hashlib.sha256(b"x = 2\n").hexdigest()
    expected = hashlib.sha256(f"package/__init__.py\0{content}\n".encode()).hexdigest()
    assert code(package)["dirty_sha256"] == expected


@needs_git
def test_another_repository_in_the_environment_is_not_asked(package, monkeypatch, tmp_path):
    expected = code(package)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    assert code(package) == expected


@needs_git
def test_a_deleted_file_is_a_local_change(package):
    (package / "gone.py").write_text("")
    git(package, "add", "gone.py")
    git(package, "commit", "-m", "second")
    (package / "gone.py").unlink()
    assert code(package)["dirty"] is True


@needs_git
def test_changes_outside_the_package_and_its_configuration_do_not_count(package):
    (package.parent / "notes.md").write_text("not code")
    assert code(package)["dirty"] is False
    (package.parent / "conf").mkdir()
    (package.parent / "conf" / "a.yaml").write_text("a: 1")
    assert code(package)["dirty"] is True


@needs_git
def test_an_installed_package_does_not_take_the_commit_of_the_checkout_around_it(package):
    installed = package.parent / "venv" / "saliency_bench"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert code(installed).items() >= UNKNOWN.items()


def test_outside_a_checkout_the_commit_is_unknown(tmp_path):
    assert code(tmp_path).items() >= UNKNOWN.items()


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code().items() >= UNKNOWN.items()


def test_a_git_that_hangs_is_given_up(monkeypatch, tmp_path):
    fake = tmp_path / "git"
    fake.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(manifest, "_GIT_SECONDS", 0.2)
    started = datetime.now(UTC)
    assert code(tmp_path).items() >= UNKNOWN.items()
    assert datetime.now(UTC) - started < timedelta(seconds=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2GHz\n", "Some CPU @ 2GHz"),
        ("processor\t: 0\nHardware\t: BCM2835\n", "BCM2835"),
    ],
)
def test_the_processor_is_named_as_the_system_names_it(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_model(tmp_path / "cpuinfo") == expected


def test_a_processor_without_a_name_has_an_architecture(tmp_path):
    assert cpu_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/project/run.py", "./run.py"),
        ("data.path=/home/ann/data/x.csv", "data.path=~/data/x.csv"),
        ("[/home/ann/project,/home/ann]", "[.,~]"),
        ("/home/anna/x.csv", "/home/anna/x.csv"),
        ("/mnt/home/ann/x", "/mnt/home/ann/x"),
        ("/home/ann/project2/x", "~/project2/x"),
        ("seed=0", "seed=0"),
    ],
)
def test_paths_name_no_user(text, expected):
    assert portable(text, cwd=Path("/home/ann/project"), home=Path("/home/ann")) == expected


def test_a_home_at_the_root_shortens_nothing():
    assert portable("/data/x", cwd=Path("/"), home=Path("/")) == "/data/x"
