"""Fine-tuning of the small adapters that the benchmark ships (LoRA, Hu et al. 2022)."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saliency_bench.data.example import Example


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of one fine-tuning run."""

    rank: int = 16
    learning_rate: float = 1e-3
    n_epochs: int = 2
    batch_size: int = 32
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01


def fine_tune(
    encoder: Path, examples: Sequence[Example], *, labels: Sequence[str], seed: int, recipe: Recipe
) -> tuple[Any, Any]:
    """An encoder with a LoRA adapter on every linear layer and a new classification head, trained.

    Returns:
        The PEFT model in eval mode, and its tokenizer.
    """
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        dtype=torch.float32,
        use_safetensors=True,
    )
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        lora_dropout=0.05,
        target_modules=["query", "key", "value", "dense"],
    )
    model = get_peft_model(model, config)
    _train(model, tokenizer, examples, seed, recipe)
    return model.eval(), tokenizer


@torch.inference_mode()
def accuracy(model: nn.Module, tokenizer: Any, examples: Sequence[Example]) -> list[bool]:
    """For each example, whether the model predicts its label."""
    right: dict[str, bool] = {}
    for batch in _batches(examples, tokenizer, 64, random.Random(0)):
        predicted = model(**_encode(tokenizer, batch)).logits.argmax(-1).tolist()
        right.update(
            {
                example.id: label == example.label
                for example, label in zip(batch, predicted, strict=True)
            }
        )
    return [right[example.id] for example in examples]


def _train(
    model: Any, tokenizer: Any, examples: Sequence[Example], seed: int, recipe: Recipe
) -> None:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    n_steps = recipe.n_epochs * -(-len(examples) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=n_steps,
        pct_start=recipe.warmup_fraction,
        anneal_strategy="linear",
    )
    shuffle = random.Random(seed)
    model.train()
    for _ in range(recipe.n_epochs):
        for batch in _batches(examples, tokenizer, recipe.batch_size, shuffle):
            labels = torch.tensor([example.label for example in batch])
            loss = model(**_encode(tokenizer, batch), labels=labels).loss
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def _batches(
    examples: Sequence[Example], tokenizer: Any, size: int, shuffle: random.Random
) -> Iterator[list[Example]]:
    """Batches of texts of like length (sorted within windows of 64 batches), in random order."""
    order = list(examples)
    shuffle.shuffle(order)
    batches: list[list[Example]] = []
    for start in range(0, len(order), 64 * size):
        window = sorted(order[start : start + 64 * size], key=lambda example: len(example.text))
        batches += [window[first : first + size] for first in range(0, len(window), size)]
    shuffle.shuffle(batches)
    yield from batches


def _encode(tokenizer: Any, batch: Sequence[Example]) -> Any:
    texts = [example.text for example in batch]
    return tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
