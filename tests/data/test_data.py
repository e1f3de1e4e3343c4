"""Datasets by name."""

import subprocess
import sys

import pytest

from saliency_bench.core.errors import InputError
from saliency_bench.data import DATASETS

HEAVY = ("datasets", "numpy", "pandas", "pyarrow", "torch", "transformers")


def test_datasets_are_found_by_name():
    assert {"movie_reviews", "file", "hub"} <= set(DATASETS.names())


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("movie_reviews", ["split", "lexicon"]),
        (
            "file",
            [
                "path",
                "text",
                "text_pair",
                "label",
                "id",
                "relevant",
                "relevant_format",
                "options",
                "segments",
                "messages",
                "format",
                "quotes",
            ],
        ),
        (
            "hub",
            [
                "path",
                "split",
                "name",
                "revision",
                "text",
                "text_pair",
                "label",
                "id",
                "relevant",
                "relevant_format",
                "options",
                "segments",
                "messages",
            ],
        ),
    ],
)
def test_everything_a_dataset_takes_can_be_configured(name, keys):
    assert DATASETS.hyperparameters(name) == keys


def test_a_dataset_is_loaded_by_name(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text\nfine\n")
    assert DATASETS["file"](path=str(path), text="text")[0].text == "fine"


def test_an_unknown_dataset_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'movie_reviews'"):
        DATASETS["movie_review"]


def test_importing_the_datasets_loads_nothing_heavy():
    code = f"import sys, saliency_bench.data; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
