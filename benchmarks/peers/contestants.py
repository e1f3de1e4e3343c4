"""Other libraries as contestants, each in a process of its own: six that explain transformers.

Their requirements exclude ours (ferret wants transformers 4 and numpy 1), so each is given by the interpreter of an
environment where it is installed, and works behind a pipe (`peer_worker`). Ours and theirs have the same weights,
ids, classes, steps and threads. What they compute, as their code has it:

- transformers-interpret: Integrated Gradients of the probability, over the norm of all scores; from [PAD] with
  special tokens kept; token type 1 for the last token. One text at a time.
- ferret: Captum's `Saliency` with absolute values (our `vanilla` with `l1`), and Captum's Integrated Gradients of the
  logit from [PAD] with special tokens kept. One text at a time. Its metrics are defined in another way than ours.
- interpreto: a mean of |gradient x point| along a path from 0 that it calls Integrated Gradients. Its cost can be
  compared, its numbers cannot.
- shap: Owen values by its Partition explainer and its masker of strings, from 200 evaluations of a text. Ours is our
  binding of the same explainer, `partition_shap`, which needs shap here too. The trees differ: cost against cost.
- lxt: the gradient times the input where the backward pass follows AttnLRP's rules (our `attnlrp`). One text at a time.
- inseq: Captum's Integrated Gradients of the logit of a given next token, from the unknown token in every place. It
  explains generation, so it is given another model: GPT-2 in the size of ours (`generator`). One prompt at a time.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saliency_bench.core.errors import InputError, SaliencyBenchError, unknown
from saliency_bench.core.text import Encoded
from saliency_bench.experiments.throughput.contestants import Contestant
from saliency_bench.models.model import Model

WORKER = Path(__file__).with_name("worker.py")

#: What each peer can be asked to do.
TASKS: Mapping[str, Mapping[str, str]] = {
    "transformers_interpret": {
        "integrated_gradients": "Integrated Gradients of the probability, normalised, one text at a time"
    },
    "interpreto": {
        "integrated_gradients": "mean of |gradient x point|, another quantity: its cost"
    },
    "ferret": {
        "gradient": "Captum's Saliency, absolute values summed, one text at a time",
        "integrated_gradients": "Captum's Integrated Gradients of the logit, one text at a time",
        "study": "gradient and Integrated Gradients with its three faithfulness metrics: its cost",
    },
    "shap": {
        "partition": "Partition explainer, 200 evaluations a text, another tree than our binding's: its cost"
    },
    "lxt": {"attnlrp": "AttnLRP by gradient x input, one text at a time"},
    "inseq": {
        "integrated_gradients": "Captum's Integrated Gradients of a next token's logit, one prompt at a time"
    },
}

#: The peers whose Integrated Gradients start from [PAD] and from nothing else.
FROM_PAD = ("transformers_interpret", "ferret")

CLASSIFIER, GENERATOR = "classifier", "generator"
#: What those peers explain that do not explain a classifier.
EXPLAINS = {"inseq": GENERATOR}


@dataclass(frozen=True)
class Subject:
    """What is explained: texts, and for each the class of a classifier; or a prompt, and the token that follows it."""

    model: Model  # a transformers model with its tokenizer; its weights are handed over in a folder
    encoded: Sequence[Encoded]  # single texts; or prompts with their continuation
    targets: Sequence[int]


@dataclass
class Peers:
    """`contestants` can be run while the environment is open. `skipped`: peers and tasks that take no part, and why.

    `seconds` grows with every run: the processor time of the peer's process for its work, by contestant. `encoded`: the texts as a peer reads them, for ours to agree with.
    """

    contestants: list[Contestant] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    versions: dict[str, dict[str, str | None]] = field(default_factory=dict)
    encoded: dict[str, list[Encoded]] = field(default_factory=dict)


@contextmanager
def peer_contestants(
    subjects: Mapping[str, Subject],
    *,
    n_steps: int,
    baseline: str,
    pythons: Mapping[str, str],
    worker: Path = WORKER,
) -> Iterator[Peers]:
    """The peers that have an environment here, prepared; their processes end with the block.

    Args:
        subjects: by what they are, `CLASSIFIER` and `GENERATOR`; a peer whose subject is not there takes no part.
        n_steps: of Integrated Gradients.
        baseline: where they start.
        pythons: by peer, the interpreter of the environment in which it is installed.
        worker: the script that does the work there.

    Raises:
        InputError: there is no such peer, or the texts are pairs or have no text.
    """
    for name in pythons:
        if name not in TASKS:
            raise unknown("peer", name, list(TASKS))
    peers = Peers()
    with ExitStack() as stack:
        work = {
            kind: _work(kind, subject, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            | {"n_steps": n_steps, "threads": torch.get_num_threads()}
            for kind, subject in subjects.items()
        }
        for name, tasks in TASKS.items():
            try:
                kind = EXPLAINS.get(name, CLASSIFIER)
                if kind not in subjects:
                    raise PeerError(f"{name}: there is no {kind} to explain")
                given = subjects[kind].encoded, work[kind], baseline, pythons, worker
                _enter(peers, stack, name, tasks, *given)
            except PeerError as error:
                peers.skipped[name] = str(error)
        yield peers


def _work(kind: str, subject: Subject, folder: Path) -> dict[str, Any]:
    """What a peer is told of its subject; the model is saved in the folder."""
    pairs = [item.text_pair for item in subject.encoded]
    single = all(pair is None for pair in pairs)
    if any(not item.text for item in subject.encoded) or single != (kind == CLASSIFIER):
        raise InputError("peers: expected single texts, got pairs or token ids")
    save_plain(subject.model, folder)
    return {
        "do": "prepare",
        "model": str(folder),
        "texts": [item.text for item in subject.encoded],
        "continuations": None if kind == CLASSIFIER else pairs,
        "targets": list(subject.targets),
    }


class PeerError(SaliencyBenchError):
    """A peer cannot take part, or its work failed."""


class Remote:
    """A peer's process: a line of JSON in, a line out."""

    def __init__(self, name: str, python: str, worker: Path) -> None:
        self.name = name
        try:
            self.process = subprocess.Popen(
                [python, str(worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            raise PeerError(
                f"{name}: its interpreter cannot be started ({error.strerror})"
            ) from error

    def ask(self, what: Mapping[str, Any]) -> dict[str, Any]:
        """The answer.

        Raises:
            PeerError: the peer failed, or its process has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise PeerError(f"{self.name}: its process has ended") from error
        line = self.process.stdout.readline()
        if not line:
            raise PeerError(f"{self.name}: its process has ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process, which reads until there is no more."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):  # it ended by itself, with a line unread
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def _enter(
    peers: Peers,
    stack: ExitStack,
    name: str,
    tasks: Mapping[str, str],
    encoded: Sequence[Encoded],
    work: Mapping[str, Any],
    baseline: str,
    pythons: Mapping[str, str],
    worker: Path,
) -> None:
    if name not in pythons:
        raise PeerError(f"{name}: no interpreter was given for it")
    if name in FROM_PAD and baseline != "pad":
        raise PeerError(f"{name}: baseline={baseline}, but it starts from [PAD] alone")
    remote = Remote(name, pythons[name], worker)
    stack.callback(remote.close)
    ready = remote.ask({**work, "peer": name})
    different = [
        item.example_id
        for item, ids in zip(encoded, ready["ids"], strict=True)
        if list(item.input_ids) != ids
    ]
    if different:
        raise PeerError(f"{name}: it reads other tokens than ours, first in {different[0]}")
    peers.versions[name] = ready["versions"]
    peers.encoded[name] = [_as_read(name, item) for item in encoded]
    for task, describe in tasks.items():
        label = f"{name}:{task}"
        own = peers.seconds.setdefault(label, [])
        peers.contestants.append(Contestant(label, describe, _Run(remote, task, own)))


@dataclass(frozen=True)
class _Run:
    """One task of a peer as a function; what it took inside is noted in `seconds`."""

    remote: Remote
    task: str
    seconds: list[float]

    def __call__(self) -> list[np.ndarray] | None:
        answer = self.remote.ask({"do": "run", "task": self.task})
        self.seconds.append(answer["seconds"])
        if answer["scores"] is None:
            return None
        return [np.array(own) for own in answer["scores"]]


def _as_read(name: str, item: Encoded) -> Encoded:
    """transformers-interpret gives token type 1 to what follows the text, which is the last [SEP]."""
    if name != "transformers_interpret" or item.token_type_ids is None:
        return item
    return replace(item, token_type_ids=(*item.token_type_ids[:-1], 1))


def save_plain(model: Model, folder: Path) -> None:
    """The model as a plain transformers folder with safetensors, adapters merged, and its tokenizer."""
    from transformers.utils import logging

    module: Any = model.module
    if not hasattr(module, "save_pretrained") or not hasattr(model.tokenizer, "save_pretrained"):
        raise InputError(f"peers: expected a transformers model with a tokenizer, got {model.name}")
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        module.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
