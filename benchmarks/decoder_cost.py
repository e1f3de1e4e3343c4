"""What the engine adds to the gradients of a decoder: its processor time over that of a bare loop of the same passes.

    python -m benchmarks.decoder_cost [FOLDER]

A Llama with the widths, heads and vocabulary of SmolLM2-135M, 4 of its 30 layers and random weights; texts of 24 tokens, one
thread, float32. The engine goes from token ids to token scores on the host, the choice of the next token and the completeness
included. The bare loop has its embeddings, rows and targets prepared, computes the logits of the last token alone, and discards
the gradients. Two more contestants are this loop with the passes at both ends of a path, which the engine has to take too: the
text names the next token, and both outputs give the completeness. And the loop with the logits of all tokens, as a module
returns them.

Each round takes every contestant once, beginning with another than the round before, and a ratio is that of one round. The time
is that of the process, so that other processes do not count. Before, the scores of both are compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import rounds
from saliency_bench import wrap_model
from saliency_bench.api.inputs import encode_all
from saliency_bench.attribution.quadrature import quadrature
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.rows import Setting
from saliency_bench.core.text import Encoded
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.registry import questions
from saliency_bench.studies.block import explain_texts

N_ROUNDS, N_TEXTS, N_TOKENS, N_LAYERS, TOKEN_BUDGET = 9, 3, 24, 4, 1024
BARE, ENGINE = "bare loop", "engine"
WITH_ENDS, ALL_LOGITS = "bare loop, both ends", "bare loop, all logits"
#: Both are float32 arithmetic in another order.
SAME = 2e-5

PATH = {"n_steps": 18, "quadrature": "gauss_legendre", "baseline": "zero", "baseline_special_tokens": "keep"}  # fmt: skip
SETTINGS = [
    Setting("vanilla", "vanilla", "native", "l2", "predicted", "logit", 0),
    Setting("integrated gradients", "integrated_gradients", "native", "sum", "predicted", "logit", 0, PATH),
]  # fmt: skip


def decoder(n_layers: int = N_LAYERS) -> nn.Module:
    """A Llama of SmolLM2-135M's kind with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=n_layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    module: nn.Module = LlamaForCausalLM(config)
    return module.eval()


def texts_of(model: Model, n_texts: int = N_TEXTS, n_tokens: int = N_TOKENS) -> list[Encoded]:
    """Texts of random tokens, each with its question about the token that follows."""
    stream = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.vocabulary or 6, (n_texts, n_tokens), generator=stream)
    encoded = encode_all(model, [{"input_ids": row} for row in ids.tolist()], None)
    return [question for _, question in questions(model, encoded)]


@dataclass(frozen=True)
class Passes:
    """The rows of all gradients of some texts under a setting, and what their gradients are weighted with.

    `ends` are the points of passes without gradients: the text and the baseline of a path. Without a path the gradient's pass
    is that of the text.
    """

    text: Int[Tensor, " R"]
    points: Float[Tensor, "R T D"]
    target: Int[Tensor, "R 1"]
    weights: Float[Tensor, "R T D"]
    ends: tuple[Float[Tensor, "B T D"], ...]


@torch.no_grad()
def passes_of(model: Model, texts: list[Encoded], setting: Setting) -> Passes:
    """One row for each text (vanilla), or for each text and node of the path from zero."""
    ids = torch.tensor([text.input_ids for text in texts])
    words = model.embed(ids)
    target = model.module(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
    nodes, weights = torch.ones(1), torch.ones(1)
    if setting.hyper:
        nodes, weights = map(torch.tensor, quadrature(PATH["quadrature"], PATH["n_steps"]))
    rows = torch.arange(len(texts)).repeat_interleave(len(nodes))
    scaled, weighted = (
        side.to(words.dtype).repeat(len(texts))[:, None, None] for side in (nodes, weights)
    )
    ends = (words, torch.zeros_like(words)) if setting.hyper else ()
    return Passes(rows, words[rows] * scaled, target[rows], words[rows] * weighted, ends)


def bare_loop(
    module: nn.Module, passes: Passes, *, last_alone: bool
) -> list[Float[Tensor, "R T D"]]:
    """The gradients of all rows, as many at a time as the token budget allows."""
    size = TOKEN_BUDGET // passes.points.shape[1]
    last = torch.tensor([passes.points.shape[1] - 1])
    kept = {"logits_to_keep": last} if last_alone else {}
    gradients: list[Tensor] = []
    for points, target in zip(
        torch.split(passes.points, size), torch.split(passes.target, size), strict=True
    ):
        leaf = points.clone().requires_grad_()
        logits = module(inputs_embeds=leaf, use_cache=False, **kept).logits[:, -1]
        gradients += torch.autograd.grad(logits.gather(1, target).sum(), leaf)
    return gradients


def with_ends(module: nn.Module, passes: Passes) -> None:
    """The bare loop, and the passes at both ends of the path."""
    bare_loop(module, passes, last_alone=True)
    with torch.no_grad():
        for points in passes.ends:
            last = torch.tensor([points.shape[1] - 1])
            module(inputs_embeds=points, use_cache=False, logits_to_keep=last)


def difference(model: Model, texts: list[Encoded], setting: Setting, passes: Passes) -> float:
    """The largest difference of the engine's scores from those of the bare loop, relative to the largest of these."""
    gradients = torch.cat(bare_loop(model.module, passes, last_alone=True))
    values = gradients * passes.weights if setting.hyper else gradients
    rows = torch.zeros(len(texts), *values.shape[1:]).index_add(0, passes.text, values)
    expected = rows.sum(-1) if setting.hyper else rows.norm(dim=-1)
    maps = engine(References(model), texts, setting)
    scores = torch.stack([torch.from_numpy(one.scores) for one in maps])
    return float((scores - expected).abs().max() / expected.abs().max())


def engine(references: References, texts: list[Encoded], setting: Setting) -> list[AttributionMap]:
    """The maps of the texts."""
    (maps,) = explain_texts(references, texts, [setting], "predicted", TOKEN_BUDGET)
    return maps


def ratios(model: Model, texts: list[Encoded], setting: Setting, n_rounds: int) -> pd.DataFrame:
    """The time of each contestant over that of the bare loop: a row for each round.

    Raises:
        RuntimeError: the engine's scores are not those of the bare loop.
    """
    model.module.eval()
    with model.frozen(), torch.enable_grad():
        passes, references = passes_of(model, texts, setting), References(model)
        if not (found := difference(model, texts, setting, passes)) <= SAME:
            raise RuntimeError(f"{setting.name}: scores differ by {found:.1e}")
        loop = partial(bare_loop, model.module, passes)
        contestants: dict[str, Callable[[], object]] = {
            BARE: partial(loop, last_alone=True),
            ENGINE: partial(engine, references, texts, setting),
            WITH_ENDS: partial(with_ends, model.module, passes),
            ALL_LOGITS: partial(loop, last_alone=False),
        }
        for run in contestants.values():
            run()  # the first pass of each is slower
        timers = {name: partial(rounds.process_seconds, run) for name, run in contestants.items()}
        return rounds.ratios(timers, n_rounds)


def main() -> None:
    """Writes the ratios of all rounds, their medians and a manifest."""
    costs = rounds.Costs("decoder_cost")
    torch.set_num_threads(1)
    model = wrap_model(decoder(), task="text-generation")
    texts = texts_of(model)
    for setting in SETTINGS:
        costs.add(ratios(model, texts, setting, N_ROUNDS), method=setting.name)
    sizes = {"n_layers": N_LAYERS, "n_texts": N_TEXTS, "n_tokens": N_TOKENS}
    costs.write(sizes, token_budget=TOKEN_BUDGET)


if __name__ == "__main__":
    main()
