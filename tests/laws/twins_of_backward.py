"""Broken implementations: backward rules."""

from contextlib import contextmanager
from dataclasses import replace

from torch.nn import functional

from saliency_bench.attribution import explain
from saliency_bench.attribution.backward import RULES, graph, hooks, parts, score
from saliency_bench.attribution.backward.parts import _Notes, _Surgery


def plain_gradients_have_a_rule(patch):
    patch.setattr(explain, "rule_of", lambda setting: "attnlrp")


def plain_gradients_are_rounded(patch):
    finish = explain._finish

    def rounded(*args):
        made = finish(*args)
        return replace(made, scores=made.scores * (1 + 2**-20))

    patch.setattr(explain, "_finish", rounded)


def the_forward_pass_is_rounded(patch):
    call = _Notes.__torch_function__

    def rounded(self, func, types, args=(), kwargs=None):
        result = call(self, func, types, args, kwargs)
        return result * (1 + 2**-20) if func in parts._TANH else result

    patch.setattr(_Notes, "__torch_function__", rounded)


def deviations_are_differentiated(patch):
    patch.setattr(hooks, "constant_deviation", lambda node: None)


def the_mean_is_a_constant_too(patch):
    """As if relevance through LayerNorm were that through a scale alone."""

    def scaled(node):
        inverse, weight = node._saved_result2.detach(), node._saved_weight.detach()
        node.register_hook(lambda given, out: (out[0] * weight * inverse, *given[1:]))

    patch.setattr(hooks, "constant_deviation", scaled)


def nonlinearities_keep_their_slope(patch):
    patch.setattr(hooks, "ratio", lambda node, function, x: None)


def softmax_is_differentiated_in_cp_lrp(patch):
    patch.setitem(RULES, "cp_lrp", replace(RULES["cp_lrp"], softmax=None, product="half"))


def gates_are_differentiated(patch):
    products_are_not_halved(patch)
    patch.setitem(RULES, "cp_lrp", replace(RULES["cp_lrp"], product="half"))


def products_are_not_halved(patch):
    multiply = hooks.multiply

    def whole(node, factors):
        multiply(node, {place: 0.0 if by == 0 else 1.0 for place, by in factors.items()})

    patch.setattr(hooks, "multiply", whole)


def products_with_constants_are_halved(patch):
    product = _Surgery._product

    def halved(self, node, name):
        if len(graph.live(node)) == 1:
            hooks.multiply(node, dict.fromkeys(graph.live(node), 0.5))
        return product(self, node, name)

    patch.setattr(_Surgery, "_product", halved)


def fused_attention_is_left_as_it_is(patch):
    patch.setattr(_Surgery, "_attention", lambda self, node: graph.live(node))


def fused_attention_has_no_temperature(patch):
    patch.setattr(
        hooks,
        "tempered_attention",
        lambda node, of_scores, of_values: hooks.multiply(
            node, {0: of_scores, 1: of_scores, 2: of_values}
        ),
    )


def parts_are_counted_and_left(patch):
    patch.setattr(_Surgery, "_change", lambda self, part, hook: self.parts.update([part]))
    patch.setattr(hooks, "multiply", lambda node, factors: None)
    patch.setattr(hooks, "tempered_attention", lambda *args: None)


def the_rule_reaches_into_the_output(patch):
    """A probability's softmax is taken for a part of the model."""

    def beyond(model, batch, target, output, rule):
        logits = score.logits_fn(model, batch, short=True)

        def scored(embeddings, rows):
            with score.noted_inputs():
                found = score.output_of(model, output)(logits(embeddings, rows), target[rows])
            if found.grad_fn is not None:
                score.change_backward(found, rule, model.name)
            return found

        return scored

    patch.setattr("saliency_bench.attribution.context.score_fn_by_rule", beyond)


def a_gap_is_claimed(patch):
    patch.setattr(explain, "PLAIN", "attnlrp")


def hooks_stay_on_the_modules(patch):
    """As if the hooks that see which module makes a node were never removed."""

    @contextmanager
    def left(module):
        for part in module.modules():
            part.register_forward_hook(lambda *_: None)
        yield {}

    patch.setattr(score, "noted_makers", left)


def a_function_is_changed_for_all_threads(patch):
    """As tools do that put other functions in the place of PyTorch's."""
    noted, normalised = score.noted_inputs, functional.layer_norm

    @contextmanager
    def changed():
        def doubled(*args, **kwargs):
            out = normalised(*args, **kwargs)
            return 2 * out - out.detach()

        with noted():
            functional.layer_norm = doubled
            try:
                yield
            finally:
                functional.layer_norm = normalised

    patch.setattr(score, "noted_inputs", changed)
