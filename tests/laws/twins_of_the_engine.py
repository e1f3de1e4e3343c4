"""Broken implementations: batches, chunks and sweeps, and the state in which the model is left."""

from contextlib import contextmanager
from dataclasses import replace

import torch

from saliency_bench.api import inputs
from saliency_bench.attribution import explain
from saliency_bench.attribution.gradient import GradientEngine
from saliency_bench.attribution.points import StraightPath
from saliency_bench.core.tensors import Batch
from saliency_bench.models import model
from saliency_bench.studies import block as blocks

# -- batches, chunks, sweeps --------------------------------------------------------------------------------------


def the_mean_of_the_scores_is_differentiated(patch):
    """In place of their sum: each gradient is divided by the number of rows beside it."""
    _gradients(patch, lambda gradients: gradients / len(gradients))


def rows_see_their_chunk(patch):
    """As with a norm over the batch."""
    _gradients(patch, lambda gradients: gradients + 1e-3 * gradients.mean(0))


def tokens_share_their_gradients(patch):
    _gradients(patch, lambda gradients: gradients + 1e-6 * gradients.mean(1, keepdim=True))


def _gradients(patch, change):
    at_once = GradientEngine._gradients

    def changed(self, points, rows):
        scores, gradients = at_once(self, points, rows)
        return scores, change(gradients)

    patch.setattr(GradientEngine, "_gradients", changed)


def padding_is_attended_to(patch):
    patch.setattr(Batch, "padded", property(lambda self: False))


def gradients_are_taken_without_the_mask(patch):
    """Only where gradients are taken."""
    at_once = GradientEngine._gradients

    def unmasked(self, points, rows):
        with_padding = Batch.padded
        Batch.padded = property(lambda self: False)
        try:
            return at_once(self, points, rows)
        finally:
            Batch.padded = with_padding

    patch.setattr(GradientEngine, "_gradients", unmasked)


def passes_are_as_wide_as_their_first_row(patch):
    chunks = GradientEngine._chunks

    def broken(self, examples, whole):
        for chunk, width in chunks(self, examples, whole):
            yield chunk, width if self.widths is None else self.widths[examples[chunk.start]]

    patch.setattr(GradientEngine, "_chunks", broken)


def padding_is_stripped_from_the_end_only(patch):
    """As where padding is thought to stand on the right."""
    encode = inputs._encode_one

    def stripped(model, item, index, label, *others):
        mask = item.get("attention_mask")
        if mask is None:
            return encode(model, item, index, label, *others)
        real = {"input_ids": item["input_ids"][: len(mask) - mask[::-1].index(1)]}
        return encode(model, real, index, label, *others)

    patch.setattr(inputs, "_encode_one", stripped)


def all_targets_are_the_first(patch):
    """Of the class with the first index, whatever was asked for."""
    opened = blocks.open_block
    patch.setattr(
        blocks, "open_block", lambda refs, items, target, *how: opened(refs, items, 0, *how)
    )


def maps_of_a_block_are_turned_round(patch):
    explained = blocks.OpenBlock.explain
    patch.setattr(
        blocks.OpenBlock,
        "explain",
        lambda self, settings: {
            key: found[::-1] for key, found in explained(self, settings).items()
        },
    )


def the_input_is_paid_for_again(patch):
    patch.setattr(StraightPath, "is_input", lambda self, node: False)


def settings_do_not_share(patch):
    together = blocks.explain
    patch.setattr(
        blocks,
        "explain",
        lambda ctx, settings: {
            key: made for one in settings for key, made in together(ctx, [one]).items()
        },
    )


def settings_of_a_sweep_are_mixed_up(patch):
    gather = explain._gather

    def turned(ctx, requests, examples=None):
        found = gather(ctx, requests, examples)
        return found[::-1] if len({len(sums) for sums in found}) == 1 else found

    patch.setattr(explain, "_gather", turned)


def nodes_that_settings_share_count_once(patch):
    """The first setting that asks for a node has it."""
    gather = explain._gather

    def taken(ctx, requests, examples=None):
        seen, left = set(), []
        for request in requests:
            weights = request.weights.copy()
            weights[:, [i for i, node in enumerate(request.nodes) if node in seen]] = 0
            seen |= set(request.nodes)
            left.append(replace(request, weights=weights))
        return gather(ctx, left, examples)

    patch.setattr(explain, "_gather", taken)


def every_token_is_charged(patch):
    """Also those that have no path of their own."""
    patch.setattr(explain, "_cost", lambda ctx, plan: len(plan.nodes))


def a_gradient_more_is_charged(patch):
    numbers = blocks.Numbers.of
    patch.setattr(
        blocks.Numbers,
        "of",
        lambda *row: {
            key: value + 1 if key == "n_gradients" else value
            for key, value in numbers(*row).items()
        },
    )


# -- the model ----------------------------------------------------------------------------------------------------


def weights_stay_frozen(patch):
    @contextmanager
    def frozen(root, *_):
        root.eval()
        for weight in root.parameters():
            weight.requires_grad_(False)
        yield

    patch.setattr(model, "frozen", frozen)


def weights_stay_frozen_after_an_error(patch):
    @contextmanager
    def frozen(root, *_):
        training = {module: module.training for module in root.modules()}
        wanted = {weight: weight.requires_grad for weight in root.parameters()}
        root.eval()
        for weight in wanted:
            weight.requires_grad_(False)
        yield
        for module, mode in training.items():
            module.training = mode
        for weight, flag in wanted.items():
            weight.requires_grad_(flag)

    patch.setattr(model, "frozen", frozen)


def the_mode_is_set_for_all_parts_alike(patch):
    """`train(mode)` of the whole module, which forgets that parts of it may have been in another."""
    real = model.frozen

    @contextmanager
    def frozen(root, *others):
        mode = root.training
        with real(root, *others):
            yield
        root.train(mode)

    patch.setattr(model, "frozen", frozen)


def nothing_is_undone_after_an_error(patch):
    @contextmanager
    def replaced(layer, embeddings, intake):
        if embeddings is None:
            yield
            return
        handle = layer.register_forward_hook(lambda *_: embeddings)
        yield
        handle.remove()

    patch.setattr(model, "replaced", replaced)


def gradients_are_left_in_the_weights(patch):
    """Plain `backward`, with weights that ask for gradients."""

    def backward(self, points, rows):
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            scores = self.score(points, rows)
            scores.sum().backward()
        return scores.detach(), points.grad

    @contextmanager
    def evaluated(root, *_):
        training = {module: module.training for module in root.modules()}
        try:
            root.eval()
            yield
        finally:
            for module, mode in training.items():
                module.training = mode

    patch.setattr(GradientEngine, "_gradients", backward)
    patch.setattr(model, "frozen", evaluated)


def the_global_generator_is_seeded(patch):
    wrapped = blocks.plan_blocks

    def seeded(encoded, *packing):
        torch.manual_seed(0)
        return wrapped(encoded, *packing)

    patch.setattr(blocks, "plan_blocks", seeded)
