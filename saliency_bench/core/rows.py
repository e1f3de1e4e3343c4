"""The columns of every table of results, and the settings that they refer to. Imports no torch.

A run folder has one Parquet file per table (`TABLES`), `settings.json`, `manifest.json` and the files derived from them.
Tables are long: one number per row; the other columns say of which setting, text and metric it is.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from saliency_bench.core.errors import InputError

OK = "ok"
NOT_APPLICABLE = "not_applicable"  # the metric is not defined here; the reason says why
FAILED = "failed"  # NaN, infinity or an exception where there should be a value
STATUSES = (OK, NOT_APPLICABLE, FAILED)

DISAGREES = "disagrees"  # a contestant of the throughput benchmark with other numbers than ours: it was not timed

#: The name of the matrix products that run among the contestants of the throughput benchmark.
MATMUL = "matmul"

#: The class whose score is explained: by index, by name, by a word such as "predicted", or against another class
#: (`tasks.targets`).
Target = str | int | tuple[str | int, str | int]

#: The columns of a text's parts: names, texts (0, or 1 for the second of a pair), first characters and ends.
PARTS = ("part_names", "part_segments", "part_starts", "part_ends")

#: What replaces a removed token, by removal operator; the manifest of a run has the tokens as the tokenizer writes them.
REPLACING: Mapping[str, str] = {
    "mask": "the mask token",
    "pad": "the pad token",
    "unk": "the unk token",
    "zero": "a zero vector",
    "mean": "the mean embedding",
}

#: Columns and Arrow types of each table, in order. Rows are sorted by `SORT_KEYS` before they are written.
TABLES: dict[str, dict[str, str]] = {
    "examples": {
        "cell_id": "string",
        "example_id": "string",
        "text": "string",
        "text_pair": "string",  # null for single texts
        "gold": "int64",  # null without a gold label
        "gold_label": "string",
        "predicted": "int64",  # null if the outputs are not finite; then label, probability and "correct" are null too
        "predicted_label": "string",
        "probability": "float64",  # of the predicted class, on the full text
        "correct": "bool",  # null without a gold label or a prediction
        "n_tokens": "int64",  # special tokens included
        "truncated": "bool",
        "part_names": "list<string>",  # named segments of the text (passages, turns of a chat); null if there are none
        "part_segments": "list<int64>",  # 0: in text, 1: in text_pair
        "part_starts": "list<int64>",
        "part_ends": "list<int64>",
    },
    "rows": {
        "cell_id": "string",
        "setting_id": "string",
        "example_id": "string",
        "metric": "string",
        "removal": "string",  # null if nothing is removed
        "value": "float64",  # null unless status is ok
        "unit": "string",
        "higher_is_better": "bool",  # null if neither is better
        "status": "string",
        "reason": "string",
    },
    "curves": {
        "cell_id": "string",
        "setting_id": "string",
        "example_id": "string",
        "removal": "string",
        "k": "int64",  # number of units dropped, or kept
        "n_units": "int64",
        "deletion": "float64",  # output of the explained class (or difference of two) without the top k
        "insertion": "float64",  # the same with only the top k
        "flipped": "bool",  # without the top k the model predicts another class
    },
    "maps": {
        "cell_id": "string",
        "setting_id": "string",
        "example_id": "string",
        "target": "int64",
        "against": "int64",  # the class whose score is subtracted in a contrast; null elsewhere
        "label": "string",
        "probability": "float64",  # of the explained class, on the full text
        "tokens": "list<string>",
        "token_ids": "list<int64>",
        "attributable": "list<bool>",
        "starts": "list<int64>",  # character offsets into text or text_pair; -1 for special tokens
        "ends": "list<int64>",
        "segments": "list<int64>",  # 0: text, 1: text_pair, -1: special
        "words": "list<int64>",  # the word each token is a piece of; -1: special
        "scores": "list<float64>",
        "completeness_gap": "float64",  # sum of scores - (F(x) - F(x')); null if the method does not claim completeness
        "output_difference": "float64",  # F(x) - F(x'); null likewise
        "n_gradients": "int64",
        "standard_errors": "list<float64>",  # of the scores; null if nothing is drawn at random
        "split_half_tau": "float64",  # rank correlation of two halves of the draws; null likewise
        "error": "float64",  # estimate of the scores' relative error; null if there is none
        "converged": "bool",  # whether the error is within the tolerance; null without a tolerance
    },
    "agreement": {
        "cell_id": "string",
        "setting_a": "string",
        "setting_b": "string",
        "example_id": "string",
        "metric": "string",
        "value": "float64",
        "chance": "float64",  # the mean over pairs of random rankings
        "status": "string",
        "reason": "string",
    },
    "convergence": {
        "cell_id": "string",
        "setting_id": "string",
        "example_id": "string",
        "against": "string",  # "limit": extrapolated from half of the nodes; "doubled": twice the steps; "reference": a dense map
        "tau": "float64",  # rank correlation (Kendall's tau-b) of the two maps; null if all scores of a map are equal
        "error": "float64",  # largest difference of a token's scores, over the largest score of the other map
    },
    "timings": {
        "cell_id": "string",
        "setting_id": "string",
        "repeat": "int64",
        "seconds": "float64",
        "n_examples": "int64",
        "n_tokens": "int64",
        "n_gradients": "int64",
        "peak_bytes": "int64",  # growth of resident (CPU) or allocated (CUDA) memory; null if unknown
        "device": "string",
    },
    "warnings": {
        "cell_id": "string",
        "example_id": "string",
        "source": "string",
        "message": "string",
    },
}

#: Columns that runs of earlier versions do not have; they are read as null.
ADDED: dict[str, tuple[str, ...]] = {
    "examples": PARTS,
    "maps": ("against", "standard_errors", "split_half_tau", "error", "converged"),
    "agreement": ("chance",),
}

SORT_KEYS: dict[str, list[str]] = {
    "examples": ["cell_id", "example_id"],
    "rows": ["cell_id", "setting_id", "example_id", "metric", "removal"],
    "curves": ["cell_id", "setting_id", "example_id", "removal", "k"],
    "maps": ["cell_id", "setting_id", "example_id"],
    "agreement": ["cell_id", "setting_a", "setting_b", "example_id", "metric"],
    "convergence": ["cell_id", "setting_id", "example_id", "against"],
    "timings": ["cell_id", "setting_id", "repeat"],
    "warnings": ["cell_id", "example_id", "source", "message"],
}


#: Columns of the throughput benchmark's table, in order: a row per section, case, contestant and repeat. A number is null
#: if the contestant was not timed or the number is unknown.
THROUGHPUT = (
    "section",
    "case",
    "contestant",
    "length",  # tokens of every text; null if they differ
    "n_steps",
    "token_budget",
    "dtype",
    "baseline",
    "quadrature",
    "repeat",
    "seconds",  # of explaining all examples, from token ids to scores on the host
    "n_examples",
    "n_tokens",  # of all examples, no padding
    "n_gradients",  # of all examples
    "padded_tokens",  # that pass through the model for one gradient of each example; null if unknown
    "useful_flop",  # of all gradients, no padding; of the products for "matmul"
    "peak_bytes",
    "first_seconds",  # of the first run, which includes compilation
    "n_warmups",
    "stable",  # whether the last two warm-ups took about as long
    "error",  # of the worst text: largest difference from the reference (ours, a dense or a float64 one) over the largest score
    "error_median",  # of the middle text
    "device",
    "threads",
    "describe",
    "status",  # ok, disagrees, failed, not_applicable
    "reason",
)


#: Columns of the table of `saliency-bench trust`, in order: a row per model, text, corruption, metric and removal.
TRUST = (
    "kind",  # of shortcut
    "training_seed",
    "example_id",
    "corruption",
    "metric",
    "removal",
    "preferred",  # 1 if the metric gives the true ranking the better value, 0.5 for a tie, 0 else; null without a value
    "reason",  # why there is no value
)

#: Columns of the sanity checks' table, in order; the meaning of `case` and `level` depends on the section.
SANITY = (
    "section",
    "model",
    "method",  # null if the section is not about methods
    "case",  # order of randomisation, kind of seed, removal operator, treatment of special tokens
    "level",  # part of the model, pair of seeds, fraction removed, special token
    "draw",  # of random weights; null if there is one draw
    "measure",
    "example_id",
    "value",  # null if there is none
    "reason",  # why there is none
)


def digest(value: Any, length: int = 12) -> str:
    """Returns the first hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    canonical = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Setting:
    """A method entry with one value per axis, and the backend that computes it.

    `name` is the entry's name in the configuration ("ig_zero"). It labels the rows and is not part of the id: two entries
    that compute the same numbers are the same setting.
    """

    name: str
    method: str
    backend: str  # native, captum; "none" for rankings without gradients
    reduction: str  # l2, l1, sum, dot; "none" for methods that give one number per token
    target: Target
    output: str
    seed: int
    hyper: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """The hash of everything that can change a number."""
        return digest({key: value for key, value in asdict(self).items() if key != "name"})

    def at(self, target: Target) -> "Setting":
        """Returns the same setting with another target."""
        return replace(self, target=target)

    def twin(self, backend: str) -> "Setting":
        """Returns the same setting with another backend."""
        return replace(self, backend=backend)

    def to_dict(self) -> dict[str, Any]:
        """Returns the setting as plain data, with its hyperparameters as keys of their own."""
        flat = asdict(self)
        hyper: dict[str, Any] = flat.pop("hyper")
        return hyper | flat | {"setting_id": self.id}


def replaced_by(removal: Any, setting: Mapping[str, Any], tokens: Mapping[str, str]) -> str | None:
    """Returns what replaces removed tokens, in words or as the tokenizer writes it; None if nothing does.

    Args:
        removal: the operator of a row, or a missing value if it removes nothing; "baseline" is that of the setting.
        setting: the setting of the row.
        tokens: the tokenizer's tokens by operator.
    """
    operator = str(setting.get("baseline") if removal == "baseline" else removal)
    return tokens.get(operator, REPLACING.get(operator))


def expand_axes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns every combination of the values that are lists, the last key fastest; one combination if none is a list."""
    combinations = product(*map(as_list, values.values()))
    return [dict(zip(values, combination, strict=True)) for combination in combinations]


def check_axis(where: str, values: Sequence[Any]) -> None:
    """Raises an `InputError` for an axis without values or with the same value twice."""
    if not values:
        raise InputError(f"{where} is an empty list. Give at least one value.")
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{where} lists {value!r} twice. Remove one.")


def as_list(value: Any) -> list[Any]:
    """Returns the values of an axis; a value that is not a list is the only one."""
    return list(value) if isinstance(value, list | tuple) else [value]
