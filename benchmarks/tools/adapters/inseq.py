"""inseq: gradient methods on a language model, for the token that it puts after each text."""

from collections.abc import Sequence
from typing import Any

import inseq
import torch

from benchmarks.tools.adapters import shared
from benchmarks.tools.cases import Case
from benchmarks.tools.laws import Map, Subject

#: Where one text is given, inseq decodes its special tokens too, and does not know the text again.
GENERATION = {"max_new_tokens": 1, "do_sample": False, "skip_special_tokens": True}


def opened(case: Case, module: Any, tokenizer: Any) -> Subject:
    """The logit of the model's own next token; scores before its aggregation, summed over dimensions."""
    model = inseq.load_model(module, case.method, tokenizer=tokenizer)
    integrates = case.method == "integrated_gradients"
    given: dict[str, Any] = {"n_steps": shared.N_STEPS} if integrates else {}

    def explain(texts: Sequence[str]) -> list[Map]:
        found = model.attribute(
            list(texts),
            attributed_fn="logit",
            generation_args=GENERATION,
            show_progress=False,
            **given,
        )
        lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
        scores = [one.target_attributions.sum(-1) for one in found.sequence_attributions]
        return shared.as_maps(
            [one[:length, 0] for one, length in zip(scores, lengths, strict=True)]
        )

    def start(ids: torch.Tensor) -> torch.Tensor:
        unknown = torch.full_like(ids, tokenizer.unk_token_id)
        return module.get_input_embeddings()(unknown).detach()

    def change(text: str) -> float:
        with torch.no_grad():
            token = module(**shared.encoded(tokenizer, [text])).logits[0, -1].argmax()
        return shared.change(module, tokenizer, start, lambda logits: logits[:, -1, token])(text)

    reasons = {"conserve": "no sum to F(x) is promised"}
    padded = "texts are padded on the left, and no position ids are given to the model"
    return Subject(
        explain,
        change=change if integrates else None,
        reasons=reasons,
        notes={"padding": padded} if case.model == "gpt2" else {},
    )
