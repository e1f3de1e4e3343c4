"""A model to explain: a module, its tokenizer, and the layer whose output stands for the input."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saliency_bench.core.errors import InputError, counted, shown
from saliency_bench.models import padding
from saliency_bench.models.causes import refuse_autocast
from saliency_bench.models.heads import HEADS, QUESTION_ANSWERING
from saliency_bench.models.intake import (
    WATCHED,
    Intake,
    PositionTable,
    attempted,
    captured,
    only_output,
    output_at,
    position_tables,
    replaced,
    watch_intake,
    watched_ids,
)
from saliency_bench.models.kept_places import KEPT, keeps_places
from saliency_bench.models.ledger import Ledger
from saliency_bench.models.module_facts import Configured, configured, fact, typical_weight
from saliency_bench.models.outputs import ends_in, logits_in
from saliency_bench.models.placement import Stored, device_of, rereading, stored_weights
from saliency_bench.models.pooled_row import PooledRow, find_pooled_row, first_row_only
from saliency_bench.models.rounding import TF32, products
from saliency_bench.models.threads import frozen, restored

#: Calls the module on `input_ids` and, where they apply, `attention_mask`, `token_type_ids` and further inputs.
Forward = Callable[[nn.Module, Mapping[str, Tensor]], Any]

#: A loss of logits [R C] and classes [R]: one number per row, or their mean.
Criterion = Callable[[Tensor, Tensor], Tensor]

#: A pad id that no token has: models without one then pool every row of an unpadded block at its last token.
NO_TOKEN = -1

#: The number of different ids by which a layer is watched that is no table.
WATCHED_VOCABULARY = 5


@dataclass(frozen=True, repr=False)
class Model:
    """A module with what is needed to explain it. The module is restored after use, on success and on error.

    `embedding` is the module whose output [B T D] is replaced for gradients and for removed tokens, while the real ids are
    passed, so that position ids, pooling by token and scaled embeddings stay correct.
    `criterion` is a loss whose negative is explained in place of an output; None: an output is explained.
    `wants_mask`: the module must be given an attention mask, also where nothing is padded.
    `takes`: the inputs that the module's `forward` names; None: `forward` is the user's own, and gets all.
    `short_last_layer`: gradients may be taken with the last layer computed for the pooled row alone, where that is
    proved to be the same (see `pooled_row`).
    `tf32`: products of float32 matrices may be rounded to TensorFloat-32.
    `ledger` counts the passes of the model.
    `facts` goes into the manifest: the source of the model, and digests of its weights.
    `as_made` is the module's fingerprint at the time of these digests.
    """

    module: nn.Module
    tokenizer: Any
    task: str
    name: str
    labels: tuple[str, ...]
    embedding: nn.Module
    max_length: int
    forward: Forward
    criterion: Criterion | None = None
    wants_mask: bool = False
    takes: frozenset[str] | None = None
    short_last_layer: bool = True
    tf32: bool = False
    ledger: Ledger = field(default_factory=Ledger, compare=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    as_made: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        named = f", {counted(len(self.labels), 'class', 'classes')} {shown(self.labels)}"
        size = f"{self.parameter_bytes / 1e6:.3g} MB of {self.precision} on {self.device}"
        return f"Model({self.name!r}, {self.task}{named if self.labels else ''}, {size})"

    @property
    def device(self) -> torch.device:
        """The device of inputs and outputs."""
        return device_of(self.module)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return typical_weight(self.module).dtype

    @property
    def parameter_bytes(self) -> int:
        """Size of the weights."""
        return sum(weight.numel() * weight.element_size() for weight in self.module.parameters())

    @property
    def precision(self) -> str:
        """The type of its arithmetic, by its name in `runtime.dtype`."""
        return TF32 if self.tf32 else str(self.dtype).removeprefix("torch.")

    @property
    def looks_up(self) -> bool:
        """Whether the embedding layer is a table, with one vector for each id at every position.

        Other layers add positions and token types, and normalise (a BERT's `embeddings`).
        """
        return isinstance(self.embedding, nn.Embedding)

    @torch.no_grad()
    def embed(
        self,
        input_ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        *,
        extra: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The embedding layer's output for token ids, scaled as the model scales it.

        Args:
            input_ids: any tokens.
            mask: as in `output`; matters, like the next two, only for a layer that is no table.
            token_type_ids: as in `output`.
            extra: as in `output`.

        Raises:
            InputError: the layer is not called once in a pass, or its output is not [B T D].
        """
        if self.looks_up:
            return self.embedding(input_ids).detach().to(self.device)  # type: ignore[no-any-return]
        # The module itself computes the further inputs of such a layer, so that a whole pass is needed.
        with frozen(self.module), captured(self.embedding) as outputs:
            self.output(input_ids, mask, token_type_ids, extra=extra)
        return only_output(outputs, input_ids).to(self.device)

    @property
    def vocabulary(self) -> int | None:
        """The number of token ids; None where no table receives them."""
        layer = self.embedding
        table = layer if isinstance(layer, nn.Embedding) else self.intake.table
        return None if table is None else table.num_embeddings

    @torch.no_grad()
    def each_token(self) -> Float[Tensor, "V D"]:
        """The embedding layer's output for every token of the vocabulary, once each.

        A layer that is no table gets the vocabulary in its order, as short texts.

        Raises:
            InputError: the layer does not get token ids.
        """
        layer, size = self.embedding, self.vocabulary
        if size is None:
            raise InputError(
                "the embedding layer does not get token ids, so that its outputs have no standard deviation that could "
                "be the unit of noise: use noise_range or noise_absolute"
            )
        if self.looks_up:
            # Through the layer, not its weight: some layers scale their output.
            return self.embed(torch.arange(size, device=self.device)[None])[0]
        texts = torch.arange(-(-size // WATCHED) * WATCHED, device=self.device).view(-1, WATCHED)
        with frozen(self.module):
            chunks = torch.split(texts % size, 64)
            outputs = [output_at(layer, self.on_ids_alone, rows) for rows in chunks]
        return torch.cat(outputs).flatten(0, 1)[:size]

    @property
    def pad_token_id(self) -> int | None:
        """The token of padding, as the tokenizer or else the module's configuration names it.

        Also None where the token was added to the tokenizer and the model has no embedding for it.
        """
        size = self.vocabulary if self.looks_up else None
        for pad in (getattr(self.tokenizer, "pad_token_id", None), self.fact("pad_token_id")):
            if isinstance(pad, int) and pad >= 0 and (size is None or pad < size):
                return pad
        return None

    @property
    def per_token(self) -> bool:
        """Whether the outputs are those of every token, [R T C]."""
        return HEADS[self.task].per_token

    @property
    def multi_label(self) -> bool:
        """Whether classes do not exclude each other, so that each has a probability of its own (a sigmoid)."""
        return bool(self.fact("problem_type", of_head=True) == "multi_label_classification")

    @cached_property
    def configured(self) -> Configured:
        """The modules inside that have a configuration, by depth."""
        return configured(self.module)

    def fact(self, name: str, *, of_head: bool = False) -> Any:
        """A value of the module's configurations, or None (see `module_facts.fact`)."""
        return fact(self.configured, name, of_head=of_head)

    def require_embedded(self, input_ids: Sequence[int], where: str) -> None:
        """Refuses token ids for which the embedding layer has no vector.

        Raises:
            InputError: names the first, and its token.
        """
        size = self.vocabulary
        if size is None:
            return
        bad = next((token_id for token_id in input_ids if not 0 <= token_id < size), None)
        if bad is None:
            return
        named = self.tokenizer is not None and bad >= 0
        token = self.tokenizer.convert_ids_to_tokens([bad])[0] if named else None
        raise InputError(
            f"{where}: token ids must lie in 0 ... {size - 1}, the rows of the embedding table of {self.name}; got "
            f"{bad}{f' ({token})' if token else ''}. If tokens were added to the tokenizer, call "
            "model.resize_token_embeddings(len(tokenizer)) and train the new rows"
        )

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Sets evaluation mode and freezes all weights while open; everything is restored at the end.

        Other threads that explain this model, or use its tokenizer, wait.

        Raises:
            InputError: called inside `torch.autocast`.
        """
        refuse_autocast(self.device)
        with products(self.tf32), frozen(self.module, self.tokenizer):
            vars(self).pop("stored", None)  # the module may have been offloaded or brought back
            _ = self.intake  # takes a pass of its own, so before the layers are watched
            yield

    @cached_property
    def intake(self) -> Intake:
        """The calls of the embedding layer, seen in one pass over two rows."""
        with frozen(self.module):
            return watch_intake(
                self.module, self.embedding, self.on_ids_alone, self._watched_ids(2)
            )

    def on_ids_alone(self, ids: Int[Tensor, "R T"], **more: Any) -> Any:
        """The module's result for ids, with a mask of ones if it needs a mask; not counted in the ledger."""
        mask = {"attention_mask": torch.ones_like(ids)} if self.wants_mask else {}
        with self.batches_allowed():
            return self.forward(self.module, {"input_ids": ids} | mask | more)

    def _watched_ids(self, n_rows: int = 1, pad: int | None = None) -> Int[Tensor, "R 5"]:
        vocabulary = getattr(self.embedding, "num_embeddings", WATCHED_VOCABULARY)
        return watched_ids(vocabulary, self.fact("eos_token_id"), self.device, n_rows, pad)

    @cached_property
    def stored(self) -> tuple[Stored, ...]:
        """The weights that accelerate keeps elsewhere; collected anew whenever the model is frozen."""
        return (*stored_weights(self.module).values(),)

    def pads_exactly(self, n_pads: int = padding.N_PADS) -> bool:
        """Whether so much padding on the right, with a mask, changes no output; tried once for each size (see `padding`)."""
        pad, size = self.pad_token_id, padding.size_of_trial(n_pads, self.max_length)
        if pad is None:
            return False
        if size not in self._padding:
            with frozen(self.module):
                ids = self._watched_ids(2)
                self._padding[size] = padding.is_exact(self._output_at, ids, pad, size)
        return self._padding[size]

    @cached_property
    def _padding(self) -> dict[int, bool]:
        return {}

    def _output_at(
        self, ids: Int[Tensor, "R T"], mask: Bool[Tensor, "R T"] | None, places: Int[Tensor, " P"]
    ) -> Float[Tensor, "R ..."]:
        """The logits of each text, or those at some places of it."""
        if self.keeps_places:
            return self.output(ids, mask, places=places)
        logits = self.output(ids, mask)
        return logits[:, places] if self.per_token else logits

    @cached_property
    def keeps_places(self) -> bool:
        """Whether logits can be computed at chosen tokens alone (`kept_places`); tried once."""
        if not self.per_token or KEPT not in (self.takes or ()):
            return False
        with frozen(self.module):
            return keeps_places(self.on_ids_alone, self._watched_ids(2))

    @cached_property
    def first_position(self) -> int | None:
        """The position id of a text's first token; None where the model takes no position ids.

        Most models count from 0, RoBERTa and similar models from the pad id + 1. The id is read from the calls of the
        table of positions; a model without such a table computes with the positions themselves, from 0.
        """
        if "position_ids" not in (self.takes or ()) or self.position_tables is None:
            return None
        return self.position_tables[0].first if self.position_tables else 0

    @cached_property
    def position_tables(self) -> list[PositionTable] | None:
        """The tables of positions; None where the module cannot be called on ids alone."""
        pads = self.fact("pad_token_id"), getattr(self.tokenizer, "pad_token_id", None)
        pad = next((value for value in pads if isinstance(value, int)), None)
        ids = self._watched_ids(pad=pad)
        with frozen(self.module):
            return attempted(lambda: position_tables(self.module, self.on_ids_alone, ids))

    @cached_property
    def pooled_row(self) -> PooledRow | None:
        """The modules that may be computed for the first row alone; None where that is not proved, or not wanted."""
        if not self.short_last_layer or self.per_token:
            return None
        # Different tokens in no order: a proof on equal rows would prove little.
        ids = torch.tensor([[3, 1, 4, 2, 0], [2, 4, 0, 1, 3]], device=self.device)
        ids %= getattr(self.embedding, "num_embeddings", 5)
        _ = self.intake  # takes a pass of its own, so before the layers are watched
        with frozen(self.module):
            return find_pooled_row(
                self.module,
                lambda ids, embeddings: self.output(ids, embeddings=embeddings),
                self.embed,
                ids,
            )

    def output(
        self,
        input_ids: Int[Tensor, "R T"],
        mask: Bool[Tensor, "R T"] | None = None,
        token_type_ids: Int[Tensor, "R T"] | None = None,
        embeddings: Float[Tensor, "R T D"] | None = None,
        *,
        extra: Mapping[str, Tensor] | None = None,
        position_ids: Int[Tensor, "R T"] | None = None,
        past: Any = None,
        last: bool = False,
        places: Int[Tensor, " P"] | None = None,
        short: bool = False,
    ) -> Float[Tensor, "R ..."]:
        """The model's logits, [R C], or those of every token, [R T C], or at `places`, [R P C].

        Args:
            input_ids: the real ones, also where embeddings are given.
            mask: which tokens are real; None where nothing is padded.
            token_type_ids: for models that take them.
            embeddings: replace the output of the embedding layer.
            extra: further inputs of the module by name, a row for each row of the ids.
            position_ids: the positions of the tokens; only for a model that has a `first_position`.
            past: keys and values of the tokens before these, to which those of these tokens are added; see `prefixes`.
            last: only the logits of the last token are needed, [R 1 C], where the model can leave out the others.
            places: the only tokens whose logits are needed; for a model that `keeps_places`.
            short: leave out computations that no logit depends on, where that is proved; equal within rounding.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids} | dict(extra or {})
        if mask is not None:
            inputs["attention_mask"] = mask.long()
        elif self.wants_mask:
            before = 0 if past is None else past.get_seq_length()
            rows, length = input_ids.shape
            inputs["attention_mask"] = input_ids.new_ones(rows, before + length)
        if past is not None:
            inputs |= {"past_key_values": past, "use_cache": True}
        if last and self.keeps_places:
            places = torch.tensor([input_ids.shape[1] - 1], device=input_ids.device)
        named = {"token_type_ids": token_type_ids, "position_ids": position_ids, KEPT: places}
        inputs |= {name: value for name, value in named.items() if value is not None}
        pooled = self.pooled_row if short else None
        with (
            replaced(self.embedding, embeddings, lambda: self.intake, inputs.get("token_type_ids")),
            self.batches_allowed() if mask is None else nullcontext(),
            first_row_only(pooled),
            rereading(self.stored),
        ):
            returned = self.forward(self.module, inputs)
        logits = (ends_in if self.task == QUESTION_ANSWERING else logits_in)(returned)
        # Weights are frozen, so that a graph is there only where a gradient at the embeddings is wanted.
        self.ledger.note(*input_ids.shape, gradient=logits.requires_grad)
        return logits

    @contextmanager
    def batches_allowed(self) -> Iterator[None]:
        """Lets a classifier without a pad token take texts that are not padded in a batch: it looks for their end.

        A call of `output` without a mask does so itself.
        """
        configs: list[Any] = [part.config for level in self.configured for part in level]
        without_pad = [config for config in configs if getattr(config, "pad_token_id", 0) is None]
        with restored(without_pad, "pad_token_id"):
            for config in without_pad:
                config.pad_token_id = NO_TOKEN
            yield
