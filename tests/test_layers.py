"""A module imports only from what stands left of it, and nothing heavy comes along unasked."""

import ast
import subprocess
import sys
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

#: From left to right. Parts of one tuple do not import each other.
LAYERS = [
    ("errors",),
    ("rows", "encoded", "signatures", "ranges"),
    ("registry",),
    ("seeding", "types", "conf_files", "orders", "overrides"),
    ("streams",),
    ("store",),
    ("stats",),
    ("ranks",),
    ("report",),
    ("maps",),
    ("data",),
    ("models",),
    ("tasks",),
    ("attribution", "evaluation"),
    ("blocks",),
    ("judge", "convergence"),
    ("bench",),
    ("study",),
    ("api", "runner"),
    ("checks", "config_errors", "hydra_words", "progress", "trusted"),
    ("verbs",),
    ("config",),
    ("scale",),
    ("cli",),
    ("__main__",),
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: "attribution", "cli"."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The parts that a file imports, inside functions too, but not for annotations only."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            deeper = [f"{module}.{alias.name}" for alias in node.names]
            names = deeper if module == "saliency_bench" else [module]
        found |= {name.split(".")[1] for name in names if name.startswith("saliency_bench.")}
        waiting.extend(ast.iter_child_nodes(node))
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_left(path):
    part = part_of(path)
    for other in imported(path) - {part} - {"__version__"}:
        assert RANK[other] < RANK[part], f"{part} imports {other}"


def test_the_check_sees_imports_inside_functions_and_skips_annotations(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from saliency_bench.cli import main\n"
        "def function():\n    from saliency_bench import runner\n    import saliency_bench.store.run\n",
        "utf-8",
    )
    assert imported(file) == {"runner", "store"}


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
    code = "from saliency_bench.cli import main; main(['--help']); main(['--version'])"
    assert loaded_after(code).isdisjoint(HEAVY)


def test_what_reads_results_needs_no_torch():
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in FILES
        if part_of(path) in ("rows", "store", "stats", "report") and path.name != "__init__.py"
    ]
    assert names
    code = "\n".join(f"import {name}" for name in names)
    assert loaded_after(code).isdisjoint({"torch", "transformers", "captum", "hydra"})


def test_only_the_command_line_and_the_configuration_know_hydra():
    knowing = {
        part_of(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if name.split(".")[0] in ("hydra", "omegaconf")
    }
    assert knowing == {"cli", "config", "config_errors", "hydra_words"}
