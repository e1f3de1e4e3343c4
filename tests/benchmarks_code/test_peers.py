"""Peers behind a pipe: what they compute comes back in order, who cannot take part is named with the reason."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.peers import worker as peer_worker
from benchmarks.peers.contestants import (
    CLASSIFIER,
    TASKS,
    PeerError,
    Subject,
    peer_contestants,
    save_plain,
)
from benchmarks.peers.generator import prompts, random_generator
from saliency_bench.core.errors import InputError
from saliency_bench.data.example import Example
from saliency_bench.models.loading import load_model
from saliency_bench.models.tasks.encoding import encode

#: Scores are the lengths of the words, so that order and content of the answers can be told.
FAKE = """
import json, sys, time

for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "prepare":
        work = asked
        print(json.dumps(PREPARED), flush=True)
    elif asked["task"] == "study":
        time.sleep(0.05)
        print(json.dumps({"seconds": 0.05, "scores": None}), flush=True)
    elif asked["task"] == "gradient":
        print(json.dumps({"error": "ValueError: no gradient today"}), flush=True)
    else:
        scores = [[len(word) * work["n_steps"] for word in text.split()] for text in work["texts"]]
        print(json.dumps({"seconds": 0.25, "scores": scores}), flush=True)
"""


@pytest.fixture
def texts(default_model):
    examples = [
        Example(id=name, text=text, label=None, source=name, extra={})
        for name, text in {"a": "a dull film", "b": "not bad"}.items()
    ]
    return encode(default_model, examples)


def fake(tmp_path, prepared):
    worker = tmp_path / "worker.py"
    worker.write_text(FAKE.replace("PREPARED", repr(prepared)))
    return worker


def opened(model, texts, worker, *, n_steps=3, baseline="pad", pythons=None):
    return peer_contestants(
        {CLASSIFIER: Subject(model, texts, [0] * len(texts))},
        n_steps=n_steps,
        baseline=baseline,
        pythons={"ferret": sys.executable} if pythons is None else pythons,
        worker=worker,
    )


def read_alike(texts):
    return {"versions": {"ferret-xai": "0"}, "ids": [list(item.input_ids) for item in texts]}


def test_scores_come_in_order_and_time_is_that_inside(default_model, texts, tmp_path):
    worker = fake(tmp_path, read_alike(texts))
    with opened(default_model, texts, worker) as peers:
        runs = {one.name: one.run for one in peers.contestants}
        assert list(runs) == [f"ferret:{name}" for name in TASKS["ferret"]]
        scores = runs["ferret:integrated_gradients"]()
        assert [own.tolist() for own in scores] == [[3, 12, 12], [9, 9]]
        assert runs["ferret:study"]() is None
        assert peers.seconds["ferret:integrated_gradients"] == [0.25]
        with pytest.raises(PeerError, match="no gradient today"):
            runs["ferret:gradient"]()
        assert peers.versions == {"ferret": {"ferret-xai": "0"}}


def test_who_takes_no_part_is_named_with_the_reason(default_model, texts, tmp_path):
    pythons = dict.fromkeys(TASKS, sys.executable) | {"interpreto": "/no/such/python"}
    other = {"versions": {}, "ids": [[1, 2], [3]]}
    with opened(default_model, texts, fake(tmp_path, other), pythons=pythons) as peers:
        assert not peers.contestants
        assert set(peers.skipped) == set(TASKS)
        assert "cannot be started" in peers.skipped["interpreto"]
        assert "other tokens than ours, first in a" in peers.skipped["ferret"]
    for python, worker, baseline, reason in [
        ({}, fake(tmp_path, other), "pad", "no interpreter"),
        (None, fake(tmp_path, other), "mask", r"\[PAD\] alone"),
        (None, fake(tmp_path, {"error": "ImportError: No module"}), "pad", "No module"),
        (None, tmp_path / "missing.py", "pad", "ended"),
    ]:
        with opened(default_model, texts, worker, pythons=python, baseline=baseline) as peers:
            assert not peers.contestants
        assert re.search(reason, peers.skipped["ferret"])


def test_what_no_peer_can_read_is_refused(default_model, texts, tmp_path):
    worker = fake(tmp_path, read_alike(texts))
    pair = [replace(texts[0], text_pair="and")]
    with (
        pytest.raises(InputError, match="single texts"),
        opened(default_model, pair, worker),
    ):
        pass
    with (
        pytest.raises(InputError, match="unknown peer"),
        opened(default_model, texts, worker, pythons={"feret": "python"}),
    ):
        pass


def test_the_folder_that_peers_load_is_the_same_model(default_model, texts, tmp_path):
    save_plain(default_model, tmp_path)
    again = load_model(str(tmp_path), device="cpu")
    ids = torch.tensor([texts[0].input_ids])
    with default_model.frozen(), again.frozen(), torch.no_grad():
        assert torch.equal(default_model.output(ids), again.output(ids))
    assert again.tokenizer(texts[0].text).input_ids == list(texts[0].input_ids)


def test_the_worker_loads_runs_and_reports_what_fails(default_model, texts, tmp_path):
    class Peer:
        packages = ("torch",)

        def __init__(self, model, tokenizer, work):
            self.model, self.tokenizer, self.work = model, tokenizer, work

        def ids(self):
            return [self.tokenizer.encode(text) for text in self.work["texts"]]

        def logits(self):
            with torch.no_grad():
                return [self.model(torch.tensor([ids])).logits[0].tolist() for ids in self.ids()]

    save_plain(default_model, tmp_path)
    session = peer_worker.Session({"fake": Peer})
    threads = torch.get_num_threads()
    work = {"texts": [item.text for item in texts], "model": str(tmp_path), "threads": threads}
    work |= {"continuations": None}
    ready = session.prepare(work | {"peer": "fake"})
    assert ready["ids"] == [list(item.input_ids) for item in texts]
    assert ready["versions"]["torch"] == torch.__version__
    answer = session.answer('{"do": "run", "task": "logits"}')
    with default_model.frozen(), torch.no_grad():
        own = [default_model.output(torch.tensor([item.input_ids]))[0] for item in texts]
    np.testing.assert_allclose(answer["scores"], torch.stack(own), rtol=1e-5)
    assert answer["seconds"] > 0
    assert "AttributeError" in session.answer('{"do": "run", "task": "nothing"}')["error"]


def test_prompts_ask_for_the_first_token_of_the_last_word_whoever_reads_them(tmp_path):
    model = random_generator()
    texts = ["a dull film", "Funny, warm and never-ending."]
    examples = [
        Example(id=str(place), text=text, label=None, source="", extra={})
        for place, text in enumerate(texts)
    ]
    for question, text in zip(prompts(model, examples), texts, strict=True):
        assert question.text + question.text_pair == text
        n, whole = len(question), model.tokenizer.encode(text)
        assert [*question.input_ids, question.default_class] == whole[: n + 1]
        assert list(question.input_ids) == model.tokenizer.encode(question.text)
    save_plain(model, tmp_path)
    again = load_model(str(tmp_path), device="cpu", task="text-generation")
    ids = torch.tensor([question.input_ids])
    with model.frozen(), again.frozen(), torch.no_grad():
        assert torch.equal(model.output(ids), again.output(ids))
