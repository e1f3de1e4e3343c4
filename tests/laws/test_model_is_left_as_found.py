"""The model, and everything else that outlives a call, is as it was: after a map, and after an error on the way."""

import numpy as np
import pytest
import torch
from laws import twins_of_noise, twins_of_the_engine
from laws.law import ONE, law
from laws.oracles import GRADIENT, NATIVE, cheap, maps
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs

import saliency_bench as sb

INPUTS = framed(*token_inputs(2, 3))
HOOKS = [
    name
    for name in vars(torch.nn.Module())
    if name.endswith("hooks") and isinstance(vars(torch.nn.Module())[name], dict)
]


def unusual_module(dtype):
    """In training mode but for one part, with weights that ask for gradients and one that does not."""
    module = tiny_bert(dtype).train()
    module.bert.encoder.layer[1].eval()
    module.classifier.weight.requires_grad_(False)
    module.classifier.bias.grad = torch.ones_like(module.classifier.bias)
    return module


def state(module):
    """What must be the same: values by copy, so that a change in place is seen."""
    parts = list(module.modules())
    return {
        "modes": [part.training for part in parts],
        "hooks": [[list(getattr(part, name)) for name in HOOKS] for part in parts],
        "flags": [weight.requires_grad for weight in module.parameters()],
        "gradients": [
            None if weight.grad is None else weight.grad.tolist() for weight in module.parameters()
        ],
        "weights": {name: value.tolist() for name, value in module.state_dict().items()},
        "config": module.config.to_dict() | {"attention": module.config._attn_implementation},
        "torch": torch.random.get_rng_state().tolist(),
        # Not the generator of `random`: the type checks of the tests draw from it.
        "numpy": [str(part) for part in np.random.get_state()],  # noqa: NPY002 - the global one
        "switches": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        "inputs": [list(item["input_ids"]) for item in INPUTS],
    }


class Bomb:
    """A hook of the user's own that raises when a gradient is asked for the n-th time: forward, or on the way back."""

    def __init__(self, countdown: int, backward: bool) -> None:
        self.countdown, self.backward = countdown, backward

    def __call__(self, module, args, output):
        if not output.requires_grad:
            return
        self.countdown -= 1
        if self.countdown == 0 and self.backward:
            output.register_hook(self.explode)
        elif self.countdown == 0:
            self.explode()

    def explode(self, *_):
        raise RuntimeError("the bomb")


def assert_left_alone(module, before, what):
    after = state(module)
    for key, value in before.items():
        assert after[key] == value, (what, key)


@law(
    twins_of_the_engine.weights_stay_frozen,
    twins_of_the_engine.the_mode_is_set_for_all_parts_alike,
    twins_of_the_engine.gradients_are_left_in_the_weights,
    twins_of_the_engine.the_global_generator_is_seeded,
    twins_of_noise.noise_comes_from_the_global_generator,
    dtypes=ONE,
)
def test_the_model_and_all_generators_are_left_as_found(dtype):
    module = unusual_module(dtype)
    torch.manual_seed(20240229)
    before = state(module)
    model = sb.wrap_model(module, FrameTokenizer())
    for method in NATIVE:
        maps(model, INPUTS, method, **cheap(method))
        assert_left_alone(module, before, method)


@law(
    twins_of_the_engine.nothing_is_undone_after_an_error,
    twins_of_the_engine.weights_stay_frozen_after_an_error,
    dtypes=ONE,
)
def test_the_model_is_left_as_found_after_an_error_in_a_gradient_pass(dtype):
    module = unusual_module(dtype)
    model = sb.wrap_model(module, FrameTokenizer())
    assert (
        model.pooled_row is not None
    )  # what is found out once per model is not what the bomb is for
    for method in GRADIENT:
        options = cheap(method)
        # One row at a time: after the probe of the model and the clean pass, the second point of a path or cloud.
        countdown = 4 if {"n_steps", "n_samples"} & options.keys() else 2
        for backward in (False, True):
            handle = module.classifier.register_forward_hook(Bomb(countdown, backward))
            before = state(module)
            with pytest.raises(RuntimeError, match="the bomb"):
                maps(model, INPUTS[:1], method, token_budget=1, **options)
            assert_left_alone(module, before, (method, backward))
            handle.remove()
