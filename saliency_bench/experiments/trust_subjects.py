"""The models and texts of `trust`: what is known to matter in each text, and which model is asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from saliency_bench.data import movie_reviews, planted_instruction, shortcuts
from saliency_bench.data.example import Example
from saliency_bench.models import loading
from saliency_bench.models.model import Model
from saliency_bench.report.gates import PLANTED, RATED

SPLIT = "test"
#: Words that people rated so strongly or more, with the label's sign, are taken to matter (from 0 to 4).
STRONGLY = 1.0

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """A model whose texts have tokens that are known to matter.

    Attributes:
        kinds: of what matters.
        load: the model of a kind and a training seed, with the keywords of `loading.LoadOptions`.
        texts: the texts of a kind, under the configuration.
    """

    kinds: tuple[str, ...]
    load: Callable[..., Model]
    texts: Callable[[str, Config], list[Example]]


def _with_shortcuts(kind: str, config: Config) -> list[Example]:
    return shortcuts.load(
        kind=kind,
        split=SPLIT,
        seed=config["seed"],
        n_examples=config["n_examples"],
        share=1.0,
        incomplete=0.0,
    )


def _with_instructions(kind: str, config: Config) -> list[Example]:
    return planted_instruction.load(
        n_prompts=config["n_examples"], controls=0.0, seed=config["seed"]
    )


def _with_rated_words(kind: str, config: Config) -> list[Example]:
    sentences = movie_reviews.load(split=SPLIT, lexicon=STRONGLY)
    return [sentence for sentence in sentences if sentence.relevant][: config["n_examples"]]


def _shortcuts(source: str) -> Subject:
    return Subject(
        shortcuts.KINDS,
        lambda kind, **given: loading.load_shortcuts(kind=kind, source=source, **given),
        _with_shortcuts,
    )


def _nanoguard(kind: str, training_seed: int, **given: Any) -> Model:
    return loading.load_model("nanoguard", **given)


#: By `model` of conf/trust.yaml.
SUBJECTS: Mapping[str, Subject] = {
    "shortcuts": _shortcuts("shortcuts"),
    "smollm2_shortcuts": _shortcuts("smollm2_shortcuts"),
    "nanoguard": Subject((PLANTED,), _nanoguard, _with_instructions),
    "default": Subject(
        (RATED,), lambda kind, **given: loading.load_default(**given), _with_rated_words
    ),
    "smollm2_sentiment": Subject(
        (RATED,),
        lambda kind, **given: loading.load_adapted("smollm2_sentiment", **given),
        _with_rated_words,
    ),
}
#: Every kind of what matters.
KINDS = (*shortcuts.KINDS, PLANTED, RATED)
