"""AttnLRP and CP-LRP from the papers, in numpy: forward passes of BERT and Llama, and relevance layer by layer.

Relevance is passed on by the rules as they are written for relevance, not as gradients: z_ij / Σ_i z_ij of what comes in,
half to each factor of a product, all of it through an element-wise function, x_i (R_i - s_i Σ_j R_j) through softmax.
Shares of constants (biases, positions, token types, what softmax keeps) are added up in `kept`, so that they and
the relevance of the words sum to the explained logit.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.special import erf

Array = np.ndarray


@dataclass
class Relevance:
    """One text through one model. `cp` is CP-LRP: attention weights and gates are constants. `kept`: what constants take."""

    weights: dict[str, Array]
    cp: bool
    kept: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def linear(self, x: Array, name: str, relevance: Array) -> Array:
        """z_j = Σ_i x_i w_ji + b_j: R_i = Σ_j x_i w_ji R_j / z_j."""
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        share = relevance / self.affine(x, name)
        if bias is not None:
            self.kept["bias"] += float((share * bias).sum())
        return x * (share @ weight)

    def affine(self, x: Array, name: str) -> Array:
        """x Wᵀ + b."""
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)

    def total(self, parts: list[Array], relevance: Array) -> list[Array]:
        """Of a sum each part takes its share."""
        share = relevance / sum(parts)
        return [part * share for part in parts]

    def attention(
        self, q: Array, k: Array, v: Array, scale: float, visible: Array, relevance: Array
    ) -> tuple[Array, Array, Array]:
        """Of one head: O = softmax(q kᵀ scale) v."""
        scores = q @ k.T * scale
        probabilities = softmax(np.where(visible, scores, -np.inf))
        share = relevance / (probabilities @ v)
        to_values = v * (probabilities.T @ share)
        if self.cp:
            return np.zeros_like(q), np.zeros_like(k), to_values
        to_probabilities = probabilities * (share @ v.T) / 2
        own = to_probabilities - probabilities * to_probabilities.sum(1, keepdims=True)
        to_scores = np.where(visible, scores * own, 0.0)
        self.kept["softmax"] += float(to_probabilities.sum() - to_scores.sum())
        share = to_scores / np.where(visible, scores, 1.0) * scale  # of q_id k_jd each
        return q * (share @ k) / 2, k * (share.T @ q) / 2, to_values / 2


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def arrays(module: Any) -> dict[str, Array]:
    """The weights of a module by name."""
    return {name: one.detach().double().numpy() for name, one in module.state_dict().items()}


def heads(x: Array, n: int) -> list[Array]:
    """[T D] to n of [T D/n]."""
    return np.split(x, n, axis=1)


# -- BERT ---------------------------------------------------------------------------------------------------------


def layer_norm(one: Relevance, x: Array, name: str, eps: float) -> Array:
    """Forward."""
    moved = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((moved**2).mean(-1, keepdims=True) + eps)
    return moved / deviation * one.weights[f"{name}.weight"] + one.weights[f"{name}.bias"]


def through_layer_norm(one: Relevance, x: Array, name: str, eps: float, relevance: Array) -> Array:
    """y_j = Σ_i w_j (δ_ij - 1/D) / σ x_i + b_j, with σ a constant."""
    weight, bias = one.weights[f"{name}.weight"], one.weights[f"{name}.bias"]
    share = relevance / layer_norm(one, x, name, eps)
    one.kept["bias"] += float((share * bias).sum())
    deviation = np.sqrt(x.var(-1, keepdims=True) + eps)
    back = share * weight
    return x * (back - back.mean(-1, keepdims=True)) / deviation


def bert(module: Any, ids: list[int], target: int, cp: bool) -> tuple[Array, dict[str, float]]:
    """Relevance [T D] of the word embeddings of BertForSequenceClassification, and what constants keep."""
    one, config = Relevance(arrays(module), cp), module.config
    n, eps = config.num_attention_heads, config.layer_norm_eps
    scale = 1 / math.sqrt(config.hidden_size // n)
    table = "bert.embeddings."
    parts = [
        one.weights[f"{table}word_embeddings.weight"][ids],
        one.weights[f"{table}position_embeddings.weight"][: len(ids)],
        one.weights[f"{table}token_type_embeddings.weight"][[0] * len(ids)],
    ]
    summed = sum(parts)
    hidden = layer_norm(one, summed, f"{table}LayerNorm", eps)
    seen = np.ones((len(ids), len(ids)), dtype=bool)
    states: list[dict[str, Array]] = []
    for layer in range(config.num_hidden_layers):
        at = f"bert.encoder.layer.{layer}."
        s: dict[str, Array] = {"x": hidden}
        for key in ("query", "key", "value"):
            s[key] = one.affine(hidden, f"{at}attention.self.{key}")
        s["context"] = np.concatenate(
            [
                softmax(q @ k.T * scale) @ v
                for q, k, v in zip(
                    *(heads(s[key], n) for key in ("query", "key", "value")), strict=True
                )
            ],
            axis=1,
        )
        s["attended"] = one.affine(s["context"], f"{at}attention.output.dense")
        s["first"] = layer_norm(one, s["attended"] + hidden, f"{at}attention.output.LayerNorm", eps)
        s["inner"] = one.affine(s["first"], f"{at}intermediate.dense")
        s["active"] = s["inner"] * 0.5 * (1 + erf(s["inner"] / math.sqrt(2)))
        s["outer"] = one.affine(s["active"], f"{at}output.dense")
        hidden = layer_norm(one, s["outer"] + s["first"], f"{at}output.LayerNorm", eps)
        states.append(s)
    pooled = one.affine(hidden[:1], "bert.pooler.dense")
    logits = one.affine(np.tanh(pooled), "classifier")
    relevance = np.where(np.arange(logits.shape[1]) == target, logits, 0.0)
    relevance = one.linear(np.tanh(pooled), "classifier", relevance)
    relevance = one.linear(hidden[:1], "bert.pooler.dense", relevance)
    relevance = np.concatenate([relevance, np.zeros_like(hidden[1:])])
    for layer, s in reversed([*enumerate(states)]):
        at = f"bert.encoder.layer.{layer}."
        relevance = through_layer_norm(
            one, s["outer"] + s["first"], f"{at}output.LayerNorm", eps, relevance
        )
        outer, first = one.total([s["outer"], s["first"]], relevance)
        inner = one.linear(s["active"], f"{at}output.dense", outer)
        first = first + one.linear(s["first"], f"{at}intermediate.dense", inner)
        first = through_layer_norm(
            one, s["attended"] + s["x"], f"{at}attention.output.LayerNorm", eps, first
        )
        attended, x = one.total([s["attended"], s["x"]], first)
        context = one.linear(s["context"], f"{at}attention.output.dense", attended)
        back = [
            one.attention(*of_head, scale, seen, own)
            for *of_head, own in zip(
                *(heads(s[key], n) for key in ("query", "key", "value")),
                heads(context, n),
                strict=True,
            )
        ]
        for place, key in enumerate(("query", "key", "value")):
            if cp and place < 2:
                continue
            joined = np.concatenate([own[place] for own in back], axis=1)
            x = x + one.linear(s["x"], f"{at}attention.self.{key}", joined)
        relevance = x
    relevance = through_layer_norm(one, summed, f"{table}LayerNorm", eps, relevance)
    words, positions, types = one.total(parts, relevance)
    one.kept["positions"] += float(positions.sum())
    one.kept["types"] += float(types.sum())
    one.kept["logit"] = float(logits[0, target])
    return words, dict(one.kept)


# -- Llama --------------------------------------------------------------------------------------------------------


def rms_norm(one: Relevance, x: Array, name: str, eps: float) -> Array:
    """Number by number a multiple of x, so that relevance goes through unchanged."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * one.weights[f"{name}.weight"]


def rotation(n_tokens: int, width: int, theta: float) -> list[Array]:
    """A matrix [D D] for each position: number d turns with number d + D/2, by an angle rounded to float32 as there."""
    half = width // 2
    speed = (1.0 / theta ** (torch.arange(half).float() * 2 / width)).float()
    found = []
    for position in range(n_tokens):
        angle = position * speed
        cosine, sine = angle.cos().double().numpy(), angle.sin().double().numpy()
        matrix = np.zeros((width, width))
        places = np.arange(half)
        matrix[places, places] = matrix[places + half, places + half] = cosine
        matrix[places, places + half], matrix[places + half, places] = -sine, sine
        found.append(matrix)
    return found


def turned(x: Array, turns: list[Array]) -> Array:
    """Each position's vector, turned."""
    return np.stack([turn @ row for turn, row in zip(turns, x, strict=True)])


def turned_back(x: Array, turns: list[Array], relevance: Array) -> Array:
    """A linear layer without bias at each position."""
    share = relevance / turned(x, turns)
    return np.stack([row * (own @ turn) for turn, row, own in zip(turns, x, share, strict=True)])


def llama(module: Any, ids: list[int], target: int, cp: bool) -> tuple[Array, dict[str, float]]:
    """The same of LlamaForSequenceClassification, whose score is read at the last token."""
    one, config = Relevance(arrays(module), cp), module.config
    n, groups, eps = config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps
    width = config.head_dim
    scale, shared = 1 / math.sqrt(width), n // groups
    seen = np.tril(np.ones((len(ids), len(ids)), dtype=bool))
    turns = rotation(len(ids), width, config.rope_parameters["rope_theta"])
    embedded = hidden = one.weights["model.embed_tokens.weight"][ids]
    states: list[dict[str, Any]] = []
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}."
        s: dict[str, Any] = {"x": hidden}
        s["normed"] = rms_norm(one, hidden, f"{at}input_layernorm", eps)
        s["q"] = heads(one.affine(s["normed"], f"{at}self_attn.q_proj"), n)
        s["k"] = heads(one.affine(s["normed"], f"{at}self_attn.k_proj"), groups)
        s["v"] = heads(one.affine(s["normed"], f"{at}self_attn.v_proj"), groups)
        of_heads = []
        for head in range(n):
            q, k = turned(s["q"][head], turns), turned(s["k"][head // shared], turns)
            scores = np.where(seen, q @ k.T * scale, -np.inf)
            of_heads.append(softmax(scores) @ s["v"][head // shared])
        s["context"] = np.concatenate(of_heads, axis=1)
        s["attended"] = one.affine(s["context"], f"{at}self_attn.o_proj")
        s["first"] = hidden + s["attended"]
        s["second"] = rms_norm(one, s["first"], f"{at}post_attention_layernorm", eps)
        s["gate"] = one.affine(s["second"], f"{at}mlp.gate_proj")
        s["up"] = one.affine(s["second"], f"{at}mlp.up_proj")
        s["product"] = s["gate"] / (1 + np.exp(-s["gate"])) * s["up"]
        s["outer"] = one.affine(s["product"], f"{at}mlp.down_proj")
        hidden = s["first"] + s["outer"]
        states.append(s)
    last = rms_norm(one, hidden, "model.norm", eps)[-1:]
    logits = one.affine(last, "score")
    relevance = np.where(np.arange(logits.shape[1]) == target, logits, 0.0)
    relevance = np.concatenate([np.zeros_like(hidden[:-1]), one.linear(last, "score", relevance)])
    for layer, s in reversed([*enumerate(states)]):
        at = f"model.layers.{layer}."
        first, outer = one.total([s["first"], s["outer"]], relevance)
        product = one.linear(s["product"], f"{at}mlp.down_proj", outer)
        to_up = product if cp else product / 2
        second = one.linear(s["second"], f"{at}mlp.up_proj", to_up)
        if not cp:
            second = second + one.linear(s["second"], f"{at}mlp.gate_proj", product / 2)
        x, attended = one.total([s["x"], s["attended"]], first + second)
        context = heads(one.linear(s["context"], f"{at}self_attn.o_proj", attended), n)
        of_q = [np.zeros_like(own) for own in s["q"]]
        of_k, of_v = ([np.zeros_like(own) for own in s[key]] for key in ("k", "v"))
        for head in range(n):
            group = head // shared
            q, k = turned(s["q"][head], turns), turned(s["k"][group], turns)
            back = one.attention(q, k, s["v"][group], scale, seen, context[head])
            of_q[head] = turned_back(s["q"][head], turns, back[0])
            of_k[group] = of_k[group] + turned_back(s["k"][group], turns, back[1])
            of_v[group] = of_v[group] + back[2]
        for key, own in (("q", of_q), ("k", of_k), ("v", of_v)):
            if cp and key != "v":
                continue
            joined = np.concatenate(own, axis=1)
            x = x + one.linear(s["normed"], f"{at}self_attn.{key}_proj", joined)
        relevance = x
    one.kept["logit"] = float(logits[0, target])
    return relevance, dict(one.kept) if embedded.size else {}
