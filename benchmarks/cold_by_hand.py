"""The script of `benchmarks.cold` with Captum: python -m benchmarks.cold_by_hand FOLDER TEXT METHOD ...

No class, no padding, the embeddings looked up once, each method in one pass of all its points.
"""

import json
import sys
from collections.abc import Sequence

import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main(folder: str, text: str, methods: Sequence[str]) -> None:
    """Prints words with scores, and the scores alone, of each method."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    model.requires_grad_(False)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    table = model.get_input_embeddings()
    embeddings = table(ids)
    with torch.no_grad():
        target = int(model(inputs_embeds=embeddings).logits.argmax())

    def score(points: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(inputs_embeds=points).logits
        return logits[:, target]

    baseline = embeddings.clone()
    baseline[:, 1:-1] = table.weight[tokenizer.mask_token_id]
    points = embeddings.clone().requires_grad_()
    for method in methods:
        if method == "vanilla":
            scores = Saliency(score).attribute(points, abs=False).norm(dim=-1)
        elif method == "input_x_gradient":
            scores = InputXGradient(score).attribute(points).sum(-1)
        elif method == "smoothgrad":
            sigma = 0.1 * float(table.weight.std())
            tunnel = NoiseTunnel(Saliency(score))
            scores = tunnel.attribute(
                points, nt_type="smoothgrad", nt_samples=24, stdevs=sigma, abs=False
            ).norm(dim=-1)
        else:
            explainer = IntegratedGradients(score)
            scores = explainer.attribute(points, baseline, n_steps=50).sum(-1)
        listed = scores[0].detach().double().tolist()
        words = tokenizer.convert_ids_to_tokens(ids[0])
        print(method, " ".join(f"{w}({s:+.4g})" for w, s in zip(words, listed, strict=True)))
        print(json.dumps(listed))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
