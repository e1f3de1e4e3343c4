"""The number of tokens per pass: measured on this machine by a short calibration, and kept.

A pass costs something whatever its size, so that larger is faster, until the chip is busy or the caches overflow.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from saliency_bench.core.errors import InputError, is_out_of_memory
from saliency_bench.core.rows import digest
from saliency_bench.models.model import Model
from saliency_bench.models.placement import PLACEMENT
from saliency_bench.store import cache
from saliency_bench.studies.timing import measure, synchronizer

AUTO, CALIBRATE = "auto", "calibrate"

#: The budget without a measurement. On a CPU throughput is nearly the same from 1,024 to 8,192 tokens.
ON_CPU = 2048

CANDIDATES = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
#: A larger budget must be this much faster to be worth its memory.
WORTH = 1.03
#: Seconds of a pass after which no larger one is tried.
LONGEST = 1.0
N_REPEATS = 5

#: The version of files in the cache: raised when the measurement changes.
VERSION = 2
KIND = "budgets"


def resolve(budget: int | str, model: Model, lengths: Sequence[int]) -> int:
    """Tokens per pass: a number as it is, `calibrate` as measured, `auto` as measured on a GPU and 2,048 on a CPU.

    Args:
        budget: a number, or one of the two words.
        model: on its device.
        lengths: of the texts, in tokens; their median is what is timed.

    Raises:
        InputError: it is neither a whole number above 0 nor one of the words.
    """
    check_budget(budget)
    if isinstance(budget, int):
        return budget
    if budget == AUTO and model.device.type == "cpu":
        return ON_CPU
    name = _cache_name(model)
    kept = cache.read(KIND, name)
    if isinstance(kept, dict) and kept.get("tokens") in CANDIDATES:
        return int(kept["tokens"])
    seconds = times(model, sorted(lengths)[len(lengths) // 2])
    tokens = choose(seconds)
    cache.write(KIND, name, {"tokens": tokens, "seconds": {str(k): v for k, v in seconds.items()}})
    return tokens


def check_budget(budget: object, key: str = "token_budget") -> None:
    """Refuses what `resolve` would; `key` names it in the error."""
    number = isinstance(budget, int) and not isinstance(budget, bool) and budget >= 1
    if not number and budget not in (AUTO, CALIBRATE):
        raise InputError(
            f"{key}={budget!r}: expected a whole number of tokens of at least 1, {AUTO} or {CALIBRATE}"
        )


def choose(seconds: Mapping[int, float]) -> int:
    """The smallest budget that no other beats by more than a few percent, given the seconds of a pass by its tokens."""
    rates = {tokens: tokens / took for tokens, took in seconds.items()}
    return min(tokens for tokens, rate in rates.items() if max(rates.values()) <= WORTH * rate)


def times(
    model: Model, length: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """The least seconds of a gradient pass over so many tokens, in texts of one length, as far as memory reaches."""
    seconds: dict[int, float] = {}
    with model.frozen():
        for tokens in CANDIDATES:
            try:
                seconds[tokens] = _seconds(model, max(1, tokens // length), length, clock)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                torch.cuda.empty_cache()
                break
            if seconds[tokens] > LONGEST:
                break
    return seconds or {CANDIDATES[0]: LONGEST}


def _seconds(model: Model, rows: int, length: int, clock: Callable[[], float]) -> float:
    """The seconds of one pass over random words, since some chips multiply zeros faster."""
    vocabulary = getattr(model.embedding, "num_embeddings", 2)
    stream = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (rows, length), generator=stream).to(model.device)
    embeddings = model.embed(ids)

    def gradients() -> None:
        points = embeddings.detach().requires_grad_()
        with torch.enable_grad():
            scores = model.output(ids, None, None, points, short=True)[:, 0].sum()
            torch.autograd.grad(scores, points)

    synchronize = synchronizer(model.device)
    passes = {"pass": gradients}
    seconds = measure(passes, n_repeats=N_REPEATS, n_warmup=2, synchronize=synchronize, clock=clock)
    return min(seconds["pass"])


def _cache_name(model: Model) -> str:
    """The name of a measurement in the cache: the same for models of one shape on one kind of device and as many threads."""
    device = model.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    state = model.module.state_dict().items()
    shapes = sorted(
        (name, tuple(values.shape)) for name, values in state if isinstance(values, Tensor)
    )
    facts = [type(model.module).__name__, shapes, model.precision, kind, torch.get_num_threads()]
    facts += [placed] if (placed := model.facts.get(PLACEMENT)) else []
    return digest([facts, torch.__version__, VERSION], 32)
