"""Other libraries against ours, each in an environment with the same torch as here (benchmarks/tools/environments.sh).

    python -m benchmarks.peers.run --out FOLDER PEER=PYTHON ...

docs/published_tools.md has the whole command.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.peers.comparison import compare_peers, predicted
from benchmarks.peers.contestants import CLASSIFIER, GENERATOR, Subject
from benchmarks.peers.generator import prompts, random_generator
from saliency_bench.data import movie_reviews
from saliency_bench.models.loading import load_default
from saliency_bench.models.tasks.encoding import encode

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=12, help="sentences")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--calibrated", type=int, default=18, help="nodes of ours in one row more")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("pythons", nargs="+", metavar="PEER=PYTHON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    examples = movie_reviews.load(split="test")[: given.n]
    model, generator = load_default(device="cpu"), random_generator()
    encoded, questions = encode(model, examples), prompts(generator, examples)
    followers = [question.default_class or 0 for question in questions]  # there is always one
    compare_peers(
        {
            CLASSIFIER: Subject(model, encoded, predicted(model, encoded)),
            GENERATOR: Subject(generator, questions, followers),
        },
        n_steps=given.steps,
        n_calibrated=given.calibrated,
        n_repeats=given.pairs,
        pythons=dict(one.split("=", 1) for one in given.pythons),
        out=given.out,
        command=sys.argv,
    )
    print((given.out / "peers.md").read_text())
