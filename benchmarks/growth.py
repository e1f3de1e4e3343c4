"""Whether a study of many short texts costs per text what one of few does: a tiny model, a process for each study.

    python -m benchmarks.growth [OUT] [N_EXAMPLES ...]

Texts have 6 to 12 words drawn at random, the model two layers of 16 dimensions with random weights, and a study two methods and
two metrics. "ms_per_text" is the clock's, from the plan to the last block. "ms_per_further_text" is what each text costs more than in
the study of the size before, in the processor's time of the whole process, report included; other processes do not count for it.
The report is also made again in a process of its own. Memory is the peak of a process. Files are counted four times a second while
a run is going. Writes OUT/growth.json.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.record import ONE_THREAD, Record
from saliency_bench.store.events import EVENTS
from saliency_bench.store.run import write_json

SIZES = (1_000, 10_000, 100_000)
WORDS = [f"word{number}" for number in range(500)]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
STUDY = [
    *["~experiment", "model=hub", "data=file", "data.text=text", "runtime.threads=1"],
    *["method=[vanilla,input_x_gradient]", "metric=[srg,comprehensiveness]"],
    *["timing.enabled=false", "convergence.n_examples=0"],
]


def write_model(folder: Path) -> None:
    """A BERT classifier with random weights, and its tokenizer, which knows the words."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    torch.manual_seed(0)
    vocabulary = [*SPECIAL, *WORDS]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def write_texts(path: Path, n_examples: int) -> None:
    """Texts of 6 to 12 words."""
    stream = random.Random(0)
    texts = (" ".join(stream.choices(WORDS, k=6 + index % 7)) for index in range(n_examples))
    path.write_text("text\n" + "".join(f"{text}\n" for text in texts), "utf-8")


def watched(words: Sequence[str], folder: Path) -> dict[str, float]:
    """Runs the command line in a process: its seconds by the clock and of its processors, its peak of memory, the most files of the folder."""
    started, most = time.monotonic(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "saliency_bench", *words], stdout=subprocess.DEVNULL
    )
    while True:
        done, status, used = os.wait4(process.pid, os.WNOHANG)
        most = max(most, sum(len(files) for _, _, files in os.walk(folder)))
        if done:
            break
        time.sleep(0.25)
    if status:
        raise SystemExit(f"saliency-bench {' '.join(words)} ended with {status}")
    seconds = time.monotonic() - started
    return {
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_gib": used.ru_maxrss * 1024 / 2**30,
        "most_files": most,
    }


def blocks_seconds(folder: Path) -> float:
    """Seconds between the plan and the last block of a run."""
    events = [json.loads(line) for line in (folder / EVENTS).read_text("utf-8").splitlines()]
    times = [
        datetime.fromisoformat(event["time"]).timestamp()
        for event in events
        if event["event"] == "progress" and event["stage"] == "blocks"
    ]
    return times[-1] - times[0]


def measured(n_examples: int, place: Path) -> dict[str, Any]:
    """One study and its report."""
    texts, run = place / "texts.csv", place / "run"
    write_texts(texts, n_examples)
    own = [f"model.path={place / 'model'}", f"data.path={texts}", f"n_examples={n_examples}"]
    study = watched(["run", *STUDY, *own, f"out={run}"], run)
    report = watched(["report", str(run)], run)
    size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    return {
        "n_examples": n_examples,
        "ms_per_text": 1000 * blocks_seconds(run) / n_examples,
        "study": study,
        "report": report,
        "files": sum(path.is_file() for path in run.rglob("*")),
        "bytes": size,
    }


def main(out: Path, sizes: Sequence[int]) -> None:
    """Measures each size, and writes what was found."""
    record, studies = Record(), []
    for n_examples in sizes:
        with tempfile.TemporaryDirectory(prefix="growth-") as place:
            write_model(Path(place) / "model")
            studies.append(measured(n_examples, Path(place)))
        print(studies[-1], flush=True)
    for before, after in pairwise(studies):
        more = after["study"]["processor_seconds"] - before["study"]["processor_seconds"]
        texts = after["n_examples"] - before["n_examples"]
        after["ms_per_further_text"] = 1000 * more / texts
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "growth.json", {"studies": studies} | record.provenance(**ONE_THREAD))


if __name__ == "__main__":
    folder, *numbers = sys.argv[1:] or ["results/scale"]
    main(Path(folder), [int(number) for number in numbers] or SIZES)
