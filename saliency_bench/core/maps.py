"""Attribution maps: scored texts that are saved, loaded and shown. Imports no torch."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from saliency_bench.core.display import fragment, record, to_rich
from saliency_bench.core.errors import InputError, counted
from saliency_bench.core.scored_text import ScoredText
from saliency_bench.core.text import Encoded

FORMAT = "saliency_bench.map/2"
N_IN_REPR = 8


@dataclass(frozen=True, eq=False, repr=False)
class AttributionMap(ScoredText):
    """The scores of one input under one setting.

    `scores` has one float64 per token as tokenised, special tokens included; `attributable` is False for these.
    `label` and `target` are the explained class, and `probability` is its probability on the unperturbed text. `against` is
    the other class of a contrast, whose score is subtracted; None without a contrast. `output_difference` is F(x) - F(x')
    and `completeness_gap` is Σ scores - (F(x) - F(x')); None if the method does not claim that they agree. `n_gradients` is
    the cost of this map alone. `setting` has every hyperparameter.

    Approximate methods have further fields, which are None for others: `standard_errors` of the scores; `split_half_tau`,
    the rank correlation of the scores from two halves of the random draws; `error`, an estimate of the relative error;
    `converged`, whether it is within the tolerance; and `reason`, why it is not (see `tensors.Uncertainty`). The error is an
    estimate: with adaptive Integrated Gradients at 1 %, about one converged map in 250 had a larger error on nets of ReLU
    units, and none of 200 on the bundled classifier.
    """

    def at(self, input_index: int) -> "AttributionMap":
        """Returns the same map for the input with this index."""
        return replace(self, input_index=input_index)

    def save(self, path: str | Path) -> None:
        """Writes the map as JSON. Floats are kept exactly; those that are not finite become the text "nan" or "inf"."""
        value = asdict(self) | {"format": FORMAT, "setting": dict(self.setting)}
        text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "AttributionMap":
        """Reads a map that `save` wrote.

        Raises:
            InputError: the file is missing, or is not such a map.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
            if value.pop("format") != FORMAT:
                raise KeyError("format")
            encoded = {key: _tuples(item) for key, item in value.pop("encoded").items()}
            value["scores"] = np.asarray(value["scores"], dtype=np.float64)
            if "target" in value["setting"]:  # a pair stays one: a list would be several targets
                value["setting"]["target"] = _tuples(value["setting"]["target"])
            for name in ("draws", "standard_errors"):
                if value[name] is not None:
                    value[name] = np.asarray(value[name], dtype=np.float64)
            for name in ("probability", "completeness_gap", "output_difference", "error"):
                value[name] = None if value[name] is None else float(value[name])
            return cls(encoded=Encoded(**encoded), **value)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is no saved attribution map ({type(error).__name__}: {error})"
            ) from error

    @classmethod
    def from_scores(
        cls,
        scores: Sequence[float] | Float[np.ndarray, " T"],
        like: ScoredText,
        *,
        name: str = "scores",
        draws: Float[np.ndarray, "N T"] | None = None,
    ) -> "AttributionMap":
        """Returns a map of external scores for the input of another map, so that they can be evaluated.

        Args:
            scores: one score per token of `like`, special tokens included.
            like: a map of the same input, from which tokens and explained class are taken
                (`attribute(model, texts, "random")` is cheap).
            name: the name of the scores in tables.
            draws: score vectors, `scores` among them, over which metrics are averaged.

        Raises:
            InputError: the number of scores is not the number of tokens, or a score is not finite.
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != (len(like.tokens),):
            raise InputError(
                f"expected {counted(len(like.tokens), 'score')}, one per token of {like.example_id}, "
                f"got shape {values.shape}"
            )
        if not np.isfinite(values).all():
            where = int(np.argmin(np.isfinite(values)))
            raise InputError(f"scores[{where}] is {values[where]}, expected a finite number")
        setting = {"name": name, "method": "file", "backend": "none", "setting_id": name}
        kept = ("encoded", "target", "label", "probability", "input_index", "against")
        of_input = {key: getattr(like, key) for key in kept}
        return cls(setting=setting, scores=values, draws=draws, **of_input)

    def __repr__(self) -> str:
        """Returns one line: method, class, probability and the first tokens with their scores."""
        shown = " ".join(f"{token} {score:+.2g}" for token, score in list(self)[:N_IN_REPR])
        more = " …" if len(self.tokens) > N_IN_REPR else ""
        method = self.setting.get("method", "scores")
        return f"<{method} of {self.label!r}, p = {self.probability:.3f}: {shown}{more}>"

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Yields tokens and scores in order."""
        return iter(zip(self.tokens, self.scores.tolist(), strict=True))

    def to_html(self, *, top: int | None = None, special_tokens: bool = False) -> str:
        """Returns the coloured text as a piece of a page; tooltips have the exact scores.

        The panel is dark if the page, or the theme of the notebook, is dark (CSS `color-scheme`).

        Args:
            top: the number of tokens to colour, those with the largest magnitudes; None: all.
            special_tokens: whether special tokens such as [CLS] are shown.

        Raises:
            InputError: `top` is not a whole number of at least 1.
        """
        return fragment(self, top=top, special_tokens=special_tokens)

    def to_record(self, shape: str = "article") -> dict[str, Any]:
        """Returns the map as plain data in the shape of an older tool, with its origin (see `core.display.record`).

        Args:
            shape: "article", or "allennlp", which has the scores and no tokens, class or probability.

        Raises:
            InputError: there is no such shape.
        """
        return record(self, shape)

    def _repr_html_(self) -> str:
        return self.to_html()

    def __rich__(self) -> Any:
        return to_rich(self)


def _plain(value: Any) -> Any:
    """Returns a value that JSON can hold: arrays as lists, and floats that are not finite as text that `float` reads."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
