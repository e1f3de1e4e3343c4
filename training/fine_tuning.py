"""Fine-tuning of the small adapters that the benchmark ships (LoRA, Hu et al. 2022)."""

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saliency_bench.core.rows import digest
from saliency_bench.data.example import Example
from saliency_bench.models.encoder import sha256_of
from saliency_bench.store import cache
from training.interruptions import Progress

#: What adapters say that they belong to.
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SMOLLM2 = "SmolLM2-135M-Instruct, Q4_1"


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of one fine-tuning run.

    `masked`: every second text of a batch has a share of its tokens masked that is drawn from U[0, 1) for it, the
    masked fine-tuning of Madsen et al. 2024, section 3.1. `targets`: ends of the names of the linear layers that LoRA adapts.
    """

    rank: int = 16
    learning_rate: float = 1e-3
    n_epochs: int = 2
    batch_size: int = 32
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    dropout: float = 0.05
    masked: bool = False
    targets: tuple[str, ...] = ("query", "key", "value", "dense")


def train_adapter(
    base: Path,
    texts: Sequence[Example],
    held_out: Mapping[str, Sequence[Example]],
    *,
    labels: Sequence[str],
    seed: int,
    recipe: Recipe,
    out: Path,
    named: str = ENCODER,
) -> dict[str, Any]:
    """Trains on texts and writes the adapter with a card, which has the accuracy on the texts that are held out.

    An interrupted training goes on where it was when the same is called again: what is learnt so far stands in the cache
    folder until the card is written.

    Args:
        base: the folder of an encoder, or of a causal language model.
        texts: texts with the index of a class.
        held_out: the sets that accuracy is measured on, by name.
        labels: the names of the classes.
        seed: of the new weights, of dropout and of the order of texts.
        recipe: how it is trained.
        out: where the folder `seedN` is made.
        named: what the adapter says that it belongs to.
    """
    started = time.perf_counter()
    key = [sha256_of(base / "model.safetensors"), seed, asdict(recipe), [*labels]]
    key.append([(text.text, text.label) for text in texts])
    progress = progress_of(out.name, key)
    model, tokenizer = fine_tune(
        base, texts, labels=labels, seed=seed, recipe=recipe, progress=progress
    )
    minutes = round((progress.seconds + time.perf_counter() - started) / 60, 1)
    round_to_half(model)
    card = {"training_seed": seed, "recipe": asdict(recipe), "n_texts": len(texts)}
    for name, examples in held_out.items():
        right = accuracy(model, tokenizer, examples)
        card[f"{name}_accuracy"] = sum(right) / len(right)
        card[f"{name}_accuracy_by_class"] = {
            label: _share(right, examples, index) for index, label in enumerate(labels)
        }
    card |= {"minutes": minutes, "threads": torch.get_num_threads(), "torch": torch.__version__}
    save_adapter(model, out / f"seed{seed}", card, base=named)
    progress.path.unlink(missing_ok=True)
    return card


def progress_of(name: str, key: Any) -> Progress:
    """What was learnt so far by a training of this name and of everything in `key`, in the cache folder."""
    return Progress(cache.folder() / "training" / f"{name}-{digest(key)}.pt")


def _share(right: Sequence[bool], examples: Sequence[Example], label: int) -> float | None:
    """The share of the examples of a class that are right; None if there are none."""
    of_class = [ok for ok, example in zip(right, examples, strict=True) if example.label == label]
    return sum(of_class) / len(of_class) if of_class else None


def fine_tune(
    encoder: Path,
    examples: Sequence[Example],
    *,
    labels: Sequence[str],
    seed: int,
    recipe: Recipe,
    progress: Progress | None = None,
) -> tuple[Any, Any]:
    """An encoder or a decoder with a LoRA adapter and a new classification head, trained.

    Returns:
        The PEFT model in eval mode, and its tokenizer.
    """
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
    adapted = adapt(model, tokenizer, examples, seed=seed, recipe=recipe, progress=progress)
    return adapted, tokenizer


def adapt(
    model: nn.Module,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    seed: int,
    recipe: Recipe,
    progress: Progress | None = None,
) -> Any:
    """A classifier with a LoRA adapter on the recipe's linear layers and its head, trained; in eval mode.

    Its other weights are left as they were. Random numbers come from the global generator, set by the caller.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        lora_dropout=recipe.dropout,
        target_modules=[*recipe.targets],
    )
    adapted = get_peft_model(model, config)
    _train(adapted, tokenizer, examples, seed, recipe, progress)
    return adapted.eval()


def round_to_half(model: nn.Module) -> None:
    """Rounds what was trained to half precision, in which it is shipped, so that this is what is measured."""
    for weights in model.parameters():
        if weights.requires_grad:
            weights.data = weights.data.to(torch.float16).to(torch.float32)


def save_adapter(model: Any, folder: Path, card: Mapping[str, Any], *, base: str = ENCODER) -> None:
    """Writes an adapter in half precision with what is known of it beside it.

    `base`, the model that it belongs to, is named by what it is instead of where it lay; the empty model card is dropped.
    """
    model.to(torch.float16).save_pretrained(folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["base_model_name_or_path"] = base
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
    (folder / "README.md").unlink()
    (folder / "training.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")


@torch.inference_mode()
def accuracy(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], masked: float = 0.0
) -> list[bool]:
    """For each example, whether the model predicts its label with this share of the tokens masked, drawn at random."""
    right: dict[str, bool] = {}
    stream = torch.Generator().manual_seed(0)
    for batch in _batches(examples, 64, random.Random(0)):
        inputs = _encode(tokenizer, batch)
        if masked:
            shares = torch.full((len(batch),), masked)
            inputs["input_ids"] = mask(inputs["input_ids"], shares, tokenizer, stream)
        predicted = model(**inputs).logits.argmax(-1).tolist()
        right.update(
            {
                example.id: label == example.label
                for example, label in zip(batch, predicted, strict=True)
            }
        )
    return [right[example.id] for example in examples]


def mask(
    ids: Int[Tensor, "B T"], shares: Float[Tensor, " B"], tokenizer: Any, stream: torch.Generator
) -> Int[Tensor, "B T"]:
    """The ids with each token masked with its text's probability; what frames a text stays."""
    frame = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id])
    drawn = torch.rand(ids.shape, generator=stream) < shares[:, None]
    return torch.where(drawn & ~torch.isin(ids, frame), tokenizer.mask_token_id, ids)


def _train(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    seed: int,
    recipe: Recipe,
    progress: Progress | None,
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
    stream = torch.Generator().manual_seed(seed)
    model.train()
    n_done = progress.restore(weights, optimizer, schedule, stream) if progress else 0
    epochs = (_batches(examples, recipe.batch_size, shuffle) for _ in range(recipe.n_epochs))
    for step, batch in enumerate(chain.from_iterable(epochs), 1):
        if step <= n_done:  # the order of texts is drawn as before
            continue
        labels = torch.tensor([example.label for example in batch])
        inputs = _encode(tokenizer, batch)
        if recipe.masked:
            shares = torch.rand(len(batch), generator=stream)
            shares[1::2] = 0
            inputs["input_ids"] = mask(inputs["input_ids"], shares, tokenizer, stream)
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress:
            progress.keep(step, n_steps, loss.item(), weights, optimizer, schedule, stream)


def _batches(
    examples: Sequence[Example], size: int, shuffle: random.Random
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
