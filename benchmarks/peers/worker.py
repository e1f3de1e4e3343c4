"""Another library at work in a process, and perhaps an environment, of its own; spoken to in lines of JSON.

Run as a script by `peers`, with the interpreter in whose environment the library is installed. It imports nothing of
saliency_bench, which need not be there. A line in, a line out:

    {"do": "prepare", "peer": ..., "model": folder, "texts": [...], "targets": [...], "n_steps": n, "threads": n}
    {"do": "run", "task": ...}  ->  {"seconds": of the work alone, "scores": per text, or null}

Libraries that print are heard on standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any


class TransformersInterpret:
    """`SequenceClassificationExplainer`, a text at a time as its users call it."""

    packages = ("transformers-interpret",)

    def __init__(self, model: Any, tokenizer: Any, work: Mapping[str, Any]) -> None:
        from transformers_interpret import SequenceClassificationExplainer

        self.explainer = SequenceClassificationExplainer(model, tokenizer)
        self.work = work

    def ids(self) -> list[list[int]]:
        """The texts as it reads them: it sets spaces around punctuation first."""
        clean, encode = self.explainer._clean_text, self.explainer.tokenizer.encode
        return [encode(clean(text)) for text in self.work["texts"]]

    def integrated_gradients(self) -> list[list[float]]:
        """Scores of every text."""
        pairs = zip(self.work["texts"], self.work["targets"], strict=True)
        found = [
            self.explainer(text, index=target, n_steps=self.work["n_steps"])
            for text, target in pairs
        ]
        return [[score for _, score in one] for one in found]


class Interpreto:
    """`IntegratedGradients` on all texts in one call; its integrand is |gradient x point|, another quantity."""

    packages = ("interpreto",)

    def __init__(self, model: Any, tokenizer: Any, work: Mapping[str, Any]) -> None:
        import torch
        from interpreto import Granularity, IntegratedGradients

        self.tokenizer, self.work = tokenizer, work
        self.targets = torch.tensor(work["targets"])
        self.explainer = IntegratedGradients(
            model, tokenizer, granularity=Granularity.ALL_TOKENS, n_perturbations=work["n_steps"]
        )

    def ids(self) -> list[list[int]]:
        """The texts as it reads them."""
        return [self.tokenizer.encode(text) for text in self.work["texts"]]

    def integrated_gradients(self) -> None:
        """Its cost; the numbers are not ours."""
        found = self.explainer.explain(self.work["texts"], self.targets)
        assert len(found) == len(self.work["texts"])


class Ferret:
    """Gradient and Integrated Gradients, alone or with its three faithfulness metrics, a text at a time."""

    packages = ("ferret-xai",)

    def __init__(self, model: Any, tokenizer: Any, work: Mapping[str, Any]) -> None:
        # It imports a reader of precomputed data sets, with many packages, that nothing here uses.
        sys.modules.setdefault("thermostat", types.ModuleType("thermostat"))
        import ferret

        self.work, self.tokenizer = work, tokenizer
        self.gradient_explainer = ferret.GradientExplainer(
            model, tokenizer, multiply_by_inputs=False
        )
        self.ig_explainer = ferret.IntegratedGradientExplainer(model, tokenizer)
        self.metrics = [
            metric(model, tokenizer)
            for metric in (
                ferret.AOPC_Comprehensiveness_Evaluation,
                ferret.AOPC_Sufficiency_Evaluation,
                ferret.TauLOO_Evaluation,
            )
        ]

    def ids(self) -> list[list[int]]:
        """The texts as it reads them."""
        return [self.tokenizer.encode(text) for text in self.work["texts"]]

    def gradient(self) -> list[list[float]]:
        """Scores of every text: sums of absolute values, which is Captum's default."""
        return [one.scores.tolist() for one in self._gradients()]

    def integrated_gradients(self) -> list[list[float]]:
        """Scores of every text."""
        return [one.scores.tolist() for one in self._integrated()]

    def study(self) -> None:
        """Both methods, and three metrics of each; definitions differ from ours, so this is its cost."""
        for found in (self._gradients(), self._integrated()):
            for one in found:
                for metric in self.metrics:
                    metric.compute_evaluation(one, one.target)

    def _gradients(self) -> list[Any]:
        return [self.gradient_explainer(text, target) for text, target in self._pairs()]

    def _integrated(self) -> list[Any]:
        arguments = {"call_args": {"n_steps": self.work["n_steps"]}}
        return [self.ig_explainer(text, target, **arguments) for text, target in self._pairs()]

    def _pairs(self) -> Iterable[tuple[str, int]]:
        return zip(self.work["texts"], self.work["targets"], strict=True)


PEERS = {
    "transformers_interpret": TransformersInterpret,
    "interpreto": Interpreto,
    "ferret": Ferret,
}


class Session:
    """What is kept between two lines."""

    def __init__(self, peers: Mapping[str, Any] = PEERS) -> None:
        self.peers = peers
        self.peer: Any = None

    def answer(self, line: str) -> dict[str, Any]:
        """The answer to a line; a failure is one too."""
        asked = json.loads(line)
        try:
            return self.prepare(asked) if asked["do"] == "prepare" else self.run(asked["task"])
        except Exception as error:  # whatever a library raises is told, not left in a pipe
            return {"error": f"{type(error).__name__}: {error}"}

    def prepare(self, work: Mapping[str, Any]) -> dict[str, Any]:
        """Loads everything, and says which versions, and how the texts are read."""
        import torch
        import transformers

        torch.set_num_threads(work["threads"])
        kind = self.peers[work["peer"]]
        model = transformers.AutoModelForSequenceClassification.from_pretrained(work["model"])
        tokenizer = transformers.AutoTokenizer.from_pretrained(work["model"])
        self.peer = kind(model.eval(), tokenizer, work)
        packages = (*kind.packages, "captum", "torch", "transformers", "numpy")
        return {"versions": versions(packages), "ids": self.peer.ids()}

    def run(self, task: str) -> dict[str, Any]:
        """Does it all, and says how long that took."""
        started = time.perf_counter()
        scores = getattr(self.peer, task)()
        return {"seconds": time.perf_counter() - started, "scores": scores}


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Of installed packages."""
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def main() -> None:
    """Answers line by line until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session = Session()
    for line in sys.stdin:
        answers.write(json.dumps(session.answer(line)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
