"""A room imports only from floors below its own, no files import each other, and nothing heavy comes along unasked."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import saliency_bench

PACKAGE = Path(saliency_bench.__file__).parent
HEAVY = {
    "torch",
    "transformers",
    "hydra",
    "omegaconf",
    "captum",
    "pandas",
    "matplotlib",
    "seaborn",
    "scipy",
    "pyarrow",
}

#: Rooms from the ground up: each imports only from floors below its own, and no room from another on its floor.
FLOORS = [
    ("core",),
    ("data", "store"),
    ("models", "report"),
    ("attribution", "evaluation"),
    ("studies",),
    ("experiments", "api"),
    ("cli",),
    ("__main__",),
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    """The room that a file stands in: "attribution", "api"."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def names_imported(path: Path) -> set[str]:
    """The dotted names that a file imports, inside functions and for annotations too: "saliency_bench.core.text.Encoded"."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from; what `saliency_bench/__init__.py` offers is no room."""
    rooms = {
        name.split(".")[1] for name in names_imported(path) if name.startswith("saliency_bench.")
    }
    return rooms & set(FLOOR)


def graph(package: Path) -> dict[str, set[str]]:
    """By file of a package, the files that it imports; the `__init__.py` of a folder bears the folder's name.

    That Python runs the `__init__.py` of each folder on the way to a file makes no edge.
    """
    files = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in package.rglob("*.py")
    }

    def home(name: str) -> str:
        """The file that a dotted name is from; "" for names of other packages."""
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name

    return {
        file: {home(name) for name in names_imported(path)} - {""} for file, path in files.items()
    }


def circle(package: Path) -> list[str]:
    """Files of a package that import each other in a circle, the first again at the end; empty where there is none."""
    try:
        TopologicalSorter(graph(package)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def runs_back_up(path: Path, room: str) -> set[str]:
    """The rooms that a file of `room` must not import from."""
    return {other for other in imported(path) - {room} if FLOOR[other] >= FLOOR[room]}


def test_the_listing_of_the_package_is_short_and_every_room_has_a_floor():
    names = {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "__pycache__", "py.typed"}
    assert {name.removesuffix(".py") for name in names} == set(FLOOR)
    assert len(names) <= 12
    assert len(FLOORS) <= 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_runs_back_up(path):
    assert runs_back_up(path, room_of(path)) == set()


def test_a_study_does_not_see_its_report():
    assert [
        path for path in FILES if room_of(path) == "studies" and "report" in imported(path)
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        "from saliency_bench.cli.main import main\n",
        "def function():\n    from saliency_bench.cli import main\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import saliency_bench.cli.main\n",
    ],
    ids=["at the top", "inside a function", "for annotations"],
)
def test_an_import_that_runs_back_up_is_seen(tmp_path, text):
    file = tmp_path / "module.py"
    file.write_text(f"from saliency_bench.core.errors import InputError\n{text}", "utf-8")
    assert imported(file) == {"core", "cli"}
    assert runs_back_up(file, "studies") == {"cli"}


def test_no_files_import_each_other_in_a_circle():
    assert {"saliency_bench", "saliency_bench.core.maps"} < set(graph(PACKAGE))
    assert circle(PACKAGE) == []


@pytest.mark.parametrize(
    "text",
    [
        "from planted.upper import function\n",
        "def function():\n    import planted.upper\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from planted import upper\n",
    ],
    ids=["at the top", "inside a function", "for annotations"],
)
def test_a_circle_of_files_is_seen(tmp_path, text):
    package = tmp_path / "planted"
    (package / "room").mkdir(parents=True)
    (package / "upper.py").write_text("import planted.room.lower\nimport os.path\n", "utf-8")
    lower = package / "room" / "lower.py"
    lower.write_text("", "utf-8")
    assert circle(package) == []
    lower.write_text(text, "utf-8")
    assert set(circle(package)) == {"planted.upper", "planted.room.lower"}
    # The same through a folder's `__init__.py`.
    lower.write_text("from planted.room import name\n", "utf-8")
    assert circle(package) == []
    (package / "room" / "__init__.py").write_text(text, "utf-8")
    assert set(circle(package)) == {"planted.upper", "planted.room.lower", "planted.room"}


#: The files that import modules by name, which the tests above cannot follow, and what for.
BY_NAME = {
    "__init__.py": "the public API, when a name is first used",
    "cli/main.py": "the file of a verb",
    "core/registry.py": "every file of a folder that holds parts",
    "experiments/scaffold.py": "the file of an experiment",
    "studies/executors.py": "a library that may be absent",
}


def test_only_these_files_import_modules_by_name():
    files = [PACKAGE / "__init__.py", *FILES]
    found = {
        str(path.relative_to(PACKAGE))
        for path in files
        if any(word in path.read_text("utf-8") for word in ("import_module(", "__import__("))
    }
    assert found == {*BY_NAME}


def loaded_after(code: str) -> set[str]:
    """The top-level modules in a fresh interpreter that has run the code."""
    script = f"{code}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import saliency_bench").isdisjoint(HEAVY)


def test_help_and_version_load_nothing_heavy():
    code = "from saliency_bench.cli.main import main; main(['--help']); main(['--version'])"
    assert loaded_after(code).isdisjoint(HEAVY)


def test_what_reads_results_needs_no_torch():
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in FILES
        if room_of(path) in ("core", "store", "report")
        and path.name not in ("__init__.py", "tensors.py", "random.py", "removal_order.py")
    ]
    assert names
    code = "\n".join(f"import {name}" for name in names)
    assert loaded_after(code).isdisjoint({"torch", "transformers", "captum", "hydra"})


def test_explaining_waits_for_nothing_that_it_does_not_use(folder):
    words = ["explain", "the film w1", "model=hub", f"model.path={folder}", "runtime.device=cpu"]
    words += ["method=[vanilla,smoothgrad,integrated_gradients]"]
    code = f"""
from saliency_bench.cli.main import main
assert main({words}) == 0
import sys
assert "scipy.stats" not in sys.modules"""
    loaded = loaded_after(code)
    assert "torch" in loaded
    assert loaded.isdisjoint({"pandas", "matplotlib", "seaborn", "captum", "pyarrow", "peft"})


def test_only_the_command_line_knows_hydra():
    knowing = {
        room_of(path)
        for path in FILES
        if {name.split(".")[0] for name in names_imported(path)} & {"hydra", "omegaconf"}
    }
    assert knowing == {"cli"}
