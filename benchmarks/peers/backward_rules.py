"""Our backward rules against lxt's own functions.

`python -m benchmarks.peers.backward_rules --lxt FOLDER --out FOLDER`: the first is lxt 2.1 (`pip install --no-deps --target FOLDER lxt==2.1`). Its files of functions and patches are imported; those
that patch a model by its file name need an older transformers, so that here its functions are put at the same places of
today's models: LayerNorm and RMSNorm, activations, gated MLPs, and attention through the interface of transformers.

Both sides differentiate the same logit of the same random model in float32 with respect to the same embeddings.
"""

import argparse
import importlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import Record
from saliency_bench.attribution.backward import RULES
from saliency_bench.attribution.backward.parts import change_backward, noted_inputs
from saliency_bench.report.formats import to_csv, to_markdown
from saliency_bench.report.table import Column, Table
from saliency_bench.store.durable import replace_file

ATTENTION = "lxt"
LIMIT = 1e-5
N_TEXTS, N_TOKENS, VOCABULARY = 4, 24, 500
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def lxt(folder: Path) -> tuple[Any, Any]:
    """Its modules `rules` and `patches`, without the package's own imports, which need an older transformers."""
    sys.path.insert(0, str(folder))
    for name in ("lxt", "lxt.efficient"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    return importlib.import_module("lxt.efficient.rules"), importlib.import_module(
        "lxt.efficient.patches"
    )


def models() -> Mapping[str, Callable[[], nn.Module]]:
    """Random classifiers, without dropout."""
    hf: Any = importlib.import_module("transformers")

    common = SIZES | {"vocab_size": VOCABULARY, "num_labels": 2, "pad_token_id": 0}
    gpt2: dict[str, Any] = {
        "vocab_size": VOCABULARY, "num_labels": 2, "pad_token_id": 0, "n_embd": 64, "n_layer": 4, "n_head": 4,
    }  # fmt: skip
    return {
        "BERT": lambda: hf.BertForSequenceClassification(hf.BertConfig(**common)),
        "GPT-2": lambda: hf.GPT2ForSequenceClassification(hf.GPT2Config(**gpt2)),
        "Llama": lambda: hf.LlamaForSequenceClassification(
            hf.LlamaConfig(**common, num_key_value_heads=2)
        ),
    }


def patches(rules: Any, patched: Any, cp: bool) -> list[tuple[type, str, Any]]:
    """A class, the name of its method, and lxt's in its place."""
    from transformers.activations import GELUActivation, NewGELUActivation
    from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

    def nonlinear(forward: Any) -> Any:
        return lambda self, x: rules.identity_rule_implicit(lambda y: forward(self, y), x)

    gated = patched.cp_gated_mlp_forward if cp else patched.gated_mlp_forward
    return [
        (nn.LayerNorm, "forward", patched.layer_norm_forward),
        (LlamaRMSNorm, "forward", patched.rms_norm_forward),
        (LlamaMLP, "forward", gated),
        *(
            (one, "forward", nonlinear(one.forward))
            for one in (GELUActivation, NewGELUActivation, nn.Tanh)
        ),
    ]


@contextmanager
def by_lxt(rules: Any, patched: Any, module: nn.Module, cp: bool) -> Iterator[None]:
    """Lxt's functions in the module's classes, and taken out again."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    wrap = patched.cp_wrap_attention_forward if cp else patched.wrap_attention_forward
    AttentionInterface.register(ATTENTION, wrap(sdpa_attention_forward))
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    config: Any = module.config
    before = config._attn_implementation
    places = patches(rules, patched, cp)
    originals = [(kind, name, getattr(kind, name)) for kind, name, _ in places]
    try:
        config._attn_implementation = ATTENTION
        for kind, name, function in places:
            setattr(kind, name, function)
        yield
    finally:
        config._attn_implementation = before
        for kind, name, function in originals:
            setattr(kind, name, function)


def gradient(module: nn.Module, ids: Tensor, rule: str | None) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the first at the embeddings: by a rule of ours, or as autograd has it."""
    table: Any = module.get_input_embeddings()  # type: ignore[operator]
    points = table(ids).detach().requires_grad_()
    hook = table.register_forward_hook(lambda *_: points)
    with noted_inputs():
        logits = module(input_ids=ids).logits
    hook.remove()
    if rule is not None:
        change_backward(logits, RULES[rule], type(module).__name__)
    (found,) = torch.autograd.grad(logits[:, 0].sum(), points)
    return logits.detach(), found * points.detach()


def differences(folder: Path) -> list[tuple[str, str, float, float, float]]:
    """Model, rule, and the largest differences relative to a text's largest score: to lxt, to the gradient, of logits."""
    rules, patched = lxt(folder)
    rows = []
    for name, build in models().items():
        torch.manual_seed(0)
        module = build().eval().requires_grad_(False)
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        ids = torch.randint(5, VOCABULARY, (N_TEXTS, N_TOKENS))
        _, plain = gradient(module, ids, None)
        for rule in ("attnlrp", "cp_lrp"):
            logits, ours = gradient(module, ids, rule)
            with by_lxt(rules, patched, module, rule == "cp_lrp"):
                their_logits, theirs = gradient(module, ids, None)
            apart = float((logits - their_logits).abs().max() / their_logits.abs().max())
            rows.append(
                (name, RULES[rule].label, _apart(ours, theirs), _apart(plain, theirs), apart)
            )
    return rows


def _apart(ours: Tensor, theirs: Tensor) -> float:
    one, other = ours.sum(-1), theirs.sum(-1)
    return float(((one - other).abs().amax(-1) / other.abs().amax(-1)).max())


def table(rows: list[tuple[str, str, float, float, float]]) -> Table:
    """For people and programs."""
    names = {
        "model": "model", "rule": "rule", "difference": "scores, ours and lxt's", "plain": "scores, plain and lxt's",
        "logits": "logits, ours and lxt's",
    }  # fmt: skip
    return Table(
        name="backward_rules",
        title="Backward rules against lxt 2.1",
        caption=(
            f"Largest difference over {N_TEXTS} random texts of {N_TOKENS} tokens, relative to the text's largest score, "
            f"in float32; limit {LIMIT:g}. The logits differ since lxt writes LayerNorm out."
        ),
        columns=tuple(Column(*one) for one in names.items()),
        rows=tuple((*row[:2], *(f"{value:.1e}" for value in row[2:])) for row in rows),
        marks_best=False,
    )


def main() -> None:
    """Measures, writes, and fails where a difference is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lxt", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    record = Record("-m", "benchmarks.peers.backward_rules", "--lxt", "LXT", "--out", "OUT")
    rows = differences(given.lxt)
    given.out.mkdir(parents=True, exist_ok=True)
    found = table(rows)
    replace_file(given.out / "backward_rules.csv", to_csv(found).encode())
    replace_file(given.out / "backward_rules.md", to_markdown(found).encode())
    computation = {"device": "cpu", "dtype": "float32", "threads": torch.get_num_threads()}
    record.write(given.out, {"name": "backward_rules", "lxt": "2.1"}, **computation)
    print(to_markdown(found))
    sys.exit(any(not row[2] <= LIMIT for row in rows))


if __name__ == "__main__":
    main()
