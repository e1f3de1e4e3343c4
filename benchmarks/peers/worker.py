"""Another library at work in a process, and perhaps an environment, of its own; spoken to in lines of JSON.

Run as a script by `peers`, with the interpreter in whose environment the library is installed. It imports nothing of
saliency_bench, which need not be there. A line in, a line out:

    {"do": "prepare", "peer": ..., "model": folder, "texts": [...], "continuations": [...] or null, "targets": [...],
     "n_steps": n, "threads": n}
    {"do": "run", "task": ...}  ->  {"seconds": of the processor, for the work alone, "scores": per text, or null}

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


class Shap:
    """The Partition explainer, which estimates Owen values of the tokens from evaluations of the model."""

    packages = ("shap",)
    evaluations = 200  # of a text; its default is 500
    together = 64  # strings in a pass; its default of 10 is slower

    def __init__(self, model: Any, tokenizer: Any, work: Mapping[str, Any]) -> None:
        import shap

        self.model, self.tokenizer, self.work = model, tokenizer, work
        self.explainer = shap.Explainer(self.probabilities, tokenizer)

    def probabilities(self, texts: Sequence[str]) -> Any:
        """Of all classes."""
        import torch

        inputs = self.tokenizer([*texts], return_tensors="pt", padding=True)
        with torch.inference_mode():
            return self.model(**inputs).logits.softmax(-1).numpy()

    def ids(self) -> list[list[int]]:
        """The texts as it reads them."""
        return [self.tokenizer.encode(text) for text in self.work["texts"]]

    def partition(self) -> None:
        """Its cost; the tree has special tokens too, and a text whose tokens are masked is read anew."""
        options = {"max_evals": self.evaluations, "batch_size": self.together, "silent": True}
        values = self.explainer(self.work["texts"], **options)
        assert len(values) == len(self.work["texts"])


class Lxt:
    """The gradient times the input under the backward rules of AttnLRP, a text at a time as in its examples."""

    packages = ("lxt",)

    @staticmethod
    def patch() -> None:
        """Puts its own BERT in the place of transformers', before a model is loaded."""
        import torch
        from transformers.models.bert import modeling_bert

        # It imports torchvision's transformer, to patch it; no vision model is explained here.
        for name in ("torchvision", "torchvision.models", "torchvision.models.vision_transformer"):
            vision = sys.modules.setdefault(name, types.ModuleType(name))
        vision.nn = torch.nn  # type: ignore[attr-defined]
        from lxt.efficient import monkey_patch

        monkey_patch(modeling_bert)

    def __init__(self, model: Any, tokenizer: Any, work: Mapping[str, Any]) -> None:
        if not type(model).__module__.startswith("lxt."):
            raise RuntimeError(f"its rules are not in {type(model).__module__}")
        self.model, self.tokenizer, self.work = model.requires_grad_(False), tokenizer, work

    def ids(self) -> list[list[int]]:
        """The texts as it reads them."""
        return [self.tokenizer.encode(text) for text in self.work["texts"]]

    def attnlrp(self) -> list[list[float]]:
        """Scores of every text."""
        scores = []
        for text, target in zip(self.work["texts"], self.work["targets"], strict=True):
            inputs = self.tokenizer(text, return_tensors="pt")
            embeddings = self.model.get_input_embeddings()(inputs.input_ids).requires_grad_()
            output = self.model(inputs_embeds=embeddings, attention_mask=inputs.attention_mask)
            output.logits[0, target].backward()
            scores.append((embeddings.grad * embeddings)[0].sum(-1).tolist())
        return scores


class Inseq:
    """Integrated Gradients of the logit of the token that follows a prompt, one prompt at a time."""

    packages = ("inseq",)

    def __init__(self, model: Any, tokenizer: Any, work: Mapping[str, Any]) -> None:
        import inseq

        self.explainer = inseq.load_model(model, "integrated_gradients", tokenizer=tokenizer)
        self.tokenizer, self.work = tokenizer, work

    def ids(self) -> list[list[int]]:
        """The prompts as it reads them."""
        return [self.tokenizer.encode(text) for text in self.work["texts"]]

    def integrated_gradients(self) -> list[list[float]]:
        """Scores of every prompt."""
        scores = []
        pairs = zip(self.work["texts"], self.work["continuations"], strict=True)
        for (text, continuation), ids in zip(pairs, self.ids(), strict=True):
            attributed = self.explainer.attribute(
                text,
                text + continuation,
                n_steps=self.work["n_steps"],
                attributed_fn="logit",
                attr_pos_start=len(ids),
                attr_pos_end=len(ids) + 1,
                show_progress=False,
            )
            values = attributed.sequence_attributions[0].target_attributions
            scores.append(values[: len(ids), 0].sum(-1).tolist())
        return scores


PEERS = {
    "transformers_interpret": TransformersInterpret,
    "interpreto": Interpreto,
    "ferret": Ferret,
    "shap": Shap,
    "lxt": Lxt,
    "inseq": Inseq,
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
        getattr(kind, "patch", lambda: None)()
        generates = work["continuations"] is not None
        task = "CausalLM" if generates else "SequenceClassification"
        model = getattr(transformers, f"AutoModelFor{task}").from_pretrained(work["model"])
        tokenizer = transformers.AutoTokenizer.from_pretrained(work["model"])
        self.peer = kind(model.eval(), tokenizer, work)
        packages = (*kind.packages, "captum", "torch", "transformers", "numpy")
        return {"versions": versions(packages), "ids": self.peer.ids()}

    def run(self, task: str) -> dict[str, Any]:
        """Does it all, and says what that took of the processor, so that other processes do not count."""
        started = time.process_time()
        scores = getattr(self.peer, task)()
        return {"seconds": time.process_time() - started, "scores": scores}


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
