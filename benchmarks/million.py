"""What a driver has to do for a million texts: plan, keep and merge, with a stub in the place of the model.

    python -m benchmarks.million [N_EXAMPLES] [OUT]

Texts are words drawn at random, rows are invented, one setting and three metrics a text; everything else is what a run
does. Memory is the peak of this process, which here also does what workers do; the time of making rows stands apart.
Writes OUT.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.record import Record
from saliency_bench.core.text import NO_OFFSET, Encoded, Shared
from saliency_bench.store.coverage import Plan, require_planned
from saliency_bench.store.parts import PartStore
from saliency_bench.studies.block import Piece, plan_blocks, plan_pieces
from saliency_bench.studies.memory import status_bytes

METRICS = ("comprehensiveness", "srg", "sufficiency")
SETTING = "000000000000"
CELL = "cccccccccccc"


def texts_of(n_examples: int) -> list[Encoded]:
    """Tokenised texts of words that are drawn at random, of 8 to 44 tokens, as a study holds them."""
    stream, share = random.Random(0), Shared()
    words = [f"word{number}" for number in range(8000)]
    return [
        share(_text(index, stream.choices(range(len(words)), k=6 + index * 7919 % 37), words))
        for index in range(n_examples)
    ]


def _text(index: int, ids: Sequence[int], words: Sequence[str]) -> Encoded:
    own = [words[one] for one in ids]
    ends = list(accumulate(len(word) + 1 for word in own))
    places = tuple((end - 1 - len(word), end - 1) for word, end in zip(own, ends, strict=True))
    return Encoded(
        example_id=f"text-{index:07d}",
        input_ids=(101, *(one + 1000 for one in ids), 102),
        token_type_ids=(0,) * (len(ids) + 2),
        special=(True, *(False for _ in ids), True),
        tokens=("[CLS]", *own, "[SEP]"),
        offsets=(NO_OFFSET, *places, NO_OFFSET),
        segments=(-1, *(0 for _ in ids), -1),
        words=(-1, *range(len(ids)), -1),
        text=" ".join(own),
        text_pair=None,
        gold=index % 2,
    )


def tables_of(piece: Piece) -> dict[str, list[dict[str, Any]]]:
    """What a stub makes of a piece."""
    cell = {"cell_id": CELL}
    examples, rows = [], []
    for index in piece.indices:
        known = {"example_id": f"text-{index:07d}", "text": "a text", "n_tokens": 24}
        told = {"predicted": 1, "predicted_label": "positive", "probability": (index % 997) / 997}
        examples.append(cell | known | told | {"truncated": False})
        about = {"setting_id": SETTING, "example_id": known["example_id"], "removal": "mask"}
        for place, metric in enumerate(METRICS):
            value = (index * (place + 7) % 1009) / 1009
            rest = {"metric": metric, "value": value, "unit": "probability", "status": "ok"}
            rows.append(cell | about | rest | {"higher_is_better": True})
    return {"examples": examples, "rows": rows}


def simulate(n_examples: int, folder: Path) -> dict[str, Any]:
    """Seconds of each step, and the peak of memory."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - started
        print(f"{step}: {seconds[step]:.1f} s, peak {peak_gib():.2f} GiB", file=sys.stderr)

    with timed("texts, in the place of a tokenizer"):
        texts = texts_of(n_examples)
    with timed("plan"):
        pieces = plan_pieces(plan_blocks(texts))
        planned = Plan(
            cell_id=CELL,
            texts={
                piece.name: [texts[index].example_id for index in piece.indices] for piece in pieces
            },
            evaluated=[SETTING],
            metrics=[(metric, "mask") for metric in METRICS],
        )
    store, making, storing = PartStore(folder), 0.0, time.perf_counter()
    for piece in pieces:
        started = time.perf_counter()
        made = tables_of(piece)
        making += time.perf_counter() - started
        store.write(piece.name, made)
    seconds["making rows, which workers do"] = making
    seconds["store, which workers do"] = time.perf_counter() - storing - making
    print(f"stored, peak {peak_gib():.2f} GiB", file=sys.stderr)
    with timed("check against the plan"):
        require_planned(folder, planned)
    with timed("merge"):
        store.seal(planned.parts)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.parquet"))}
    return {"n_examples": n_examples, "n_pieces": len(pieces), "seconds": seconds, "bytes": sizes}


def peak_gib() -> float:
    """The peak of this process so far; `ru_maxrss` would begin at the size of the process that started it."""
    return (status_bytes("VmHWM") or 0) / 1024**3


if __name__ == "__main__":
    given, record = sys.argv[1:], Record()
    with tempfile.TemporaryDirectory(prefix="million-") as place:
        found = simulate(int(given[0]) if given else 1_000_000, Path(place))
    found |= {"peak_gib": peak_gib(), "total_seconds": sum(found["seconds"].values())}
    found |= record.provenance()
    text = json.dumps(found, indent=1)
    print(text)
    if len(given) > 1:
        Path(given[1]).write_text(f"{text}\n", "utf-8")
