"""Several threads with one model, or with models that share something: right numbers, and all as it was."""

import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.models.model import frozen
from saliency_bench.models.rounding import products
from saliency_bench.models.threads import held, in_this_thread

N_THREADS = 4


@pytest.fixture(autouse=True)
def shapes_are_checked_without_touching_the_filters_of_warnings(monkeypatch):
    """The checkers of shapes, which run in tests alone, swap these filters at each call without a lock."""
    for part in ("_wrapargs", "_wrapreturn"):
        target = f"beartype._decor._nontype._wrap.{part}.catch_warnings"
        monkeypatch.setattr(target, lambda **options: nullcontext([]))


@pytest.fixture(autouse=True)
def threads_change_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(work, items):
    """What the work gives for each item, in a thread for each, which begin together."""
    gate = threading.Barrier(len(items))

    def begin(item):
        gate.wait()
        return work(item)

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(begin, items))


def flags(module):
    return [weight.requires_grad for weight in module.parameters()]


def modes(module):
    return [part.training for part in module.modules()]


def gradient_norms(module, ids):
    """‖∂F/∂e_t‖ of the predicted class's logit by plain PyTorch."""
    embeddings = module.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_()
    logits = module(inputs_embeds=embeddings).logits[0]
    (gradient,) = torch.autograd.grad(logits[logits.argmax()], embeddings)
    return gradient[0].norm(dim=-1).tolist()


class Wrapped(torch.nn.Module):
    """The same module inside another."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.config = inner.config

    def forward(self, input_ids, attention_mask=None):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits


@pytest.mark.parametrize("wrapped", [False, True], ids=["one module", "and a part of another"])
def test_four_threads_get_the_gradients_of_plain_pytorch_and_leave_the_model_as_it_was(wrapped):
    module = tiny_bert().train()
    module.classifier.weight.requires_grad_(False)
    inputs = token_inputs(3, 5, 8, 13)
    module.eval()
    expected = [gradient_norms(module, one["input_ids"]) for one in inputs]
    module.train()
    before = flags(module), modes(module)
    models = [sb.wrap_model(Wrapped(module) if wrapped and n % 2 else module) for n in range(4)]

    def explained(n):
        return [
            sb.attribute(models[n], inputs[n], "vanilla", reduction="l2")[0].scores.tolist()
            for _ in range(3)
        ]

    # 1e-10: float64, and the same arithmetic in another order.
    for found, right in zip(at_once(explained, range(N_THREADS)), expected, strict=True):
        assert found == [pytest.approx(right, rel=1e-10)] * 3
    assert (flags(module), modes(module)) == before


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gradient_shap", {"backend": "captum", "references": "vocabulary", "n_samples": 4}),
        ("kernel_shap", {"baseline": "zero", "n_samples": 12}),
        ("deep_lift", {"baseline": "zero"}),
        ("integrated_gradients", {"baseline": "zero", "n_steps": 5}),
    ],
)
def test_models_of_their_own_get_the_same_numbers_in_threads_as_one_after_the_other(
    method, options
):
    models = [sb.wrap_model(tiny_bert(seed=n), FrameTokenizer()) for n in range(N_THREADS)]
    inputs = framed(*token_inputs(4, 5, 6, 7))
    found = warnings.filters[:], torch.random.get_rng_state().tolist()

    def explained(n):
        (made,) = sb.attribute(models[n], [inputs[n]], method, **options)
        return made.scores.tolist()

    alone = [explained(n) for n in range(N_THREADS)]
    assert at_once(explained, range(N_THREADS)) == alone
    assert (warnings.filters[:], torch.random.get_rng_state().tolist()) == found


def test_one_model_does_not_wait_for_another():
    model, other = (sb.wrap_model(tiny_bert(seed=n)) for n in range(2))
    (text,) = token_inputs(4)
    with ThreadPoolExecutor(1) as pool, model.frozen():
        # Not a second's work: what waits for the other model would wait here for ever.
        assert pool.submit(sb.attribute, other, text, "vanilla", reduction="l2").result(60)


@pytest.mark.parametrize("shared", ["configuration", "tokenizer", "part"])
def test_models_that_share_what_is_changed_wait_for_each_other(shared):
    module, tokenizer = tiny_bert(), FrameTokenizer()
    other = {
        "configuration": type(module)(module.config),
        "tokenizer": tiny_bert(seed=1),
        "part": Wrapped(module.bert),
    }[shared]
    waited = threading.Event()

    def hold():
        with held(other, tokenizer if shared == "tokenizer" else None):
            waited.set()

    with held(module, tokenizer):
        thread = threading.Thread(target=hold)
        thread.start()
        assert not waited.wait(0.2)
    thread.join(60)
    assert waited.is_set()


@pytest.mark.parametrize("first_in_is_first_out", [False, True])
def test_flags_and_modes_are_those_before_the_first_however_holds_overlap(first_in_is_first_out):
    module = tiny_bert().train()
    module.bert.encoder.layer[0].eval()
    module.classifier.bias.requires_grad_(False)
    before = flags(module), modes(module)
    holds = [frozen(module), frozen(module.bert), frozen(module)]
    for hold in holds:
        hold.__enter__()
    for hold in holds if first_in_is_first_out else holds[::-1]:
        assert not any(flags(module.bert) + modes(module.bert))
        hold.__exit__(None, None, None)
    assert (flags(module), modes(module)) == before


def test_a_weight_that_two_modules_share_is_given_back_by_the_last():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    other.weight = one.weight
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with frozen(one):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    with frozen(other):
        leave.set()
        thread.join(60)
        assert not one.weight.requires_grad
        assert one.bias.requires_grad
    assert one.weight.requires_grad


def test_rounding_is_shared_by_those_who_do_not_round_and_put_back_by_the_last():
    torch.set_float32_matmul_precision("high")
    try:
        inside, leave, rounded = threading.Event(), threading.Event(), threading.Event()

        def exact():
            with products(tf32=False):
                inside.set()
                leave.wait(60)
                assert torch.get_float32_matmul_precision() == "highest"

        def rounding():
            with products(tf32=True):
                rounded.set()
                assert torch.get_float32_matmul_precision() == "high"

        with ThreadPoolExecutor(2) as pool:
            with products(tf32=False):
                first = pool.submit(exact)
                assert inside.wait(60)
                second = pool.submit(rounding)
                assert not rounded.wait(0.2)
            assert torch.get_float32_matmul_precision() == "highest"
            leave.set()
            first.result(60)
            second.result(60)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_text_is_cut_in_no_thread_because_another_cuts_its_own(tmp_path):
    """Truncation is a state of a fast tokenizer: set by one thread, it holds for the next text of any."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate(["[UNK]", "[PAD]", *(f"w{n}" for n in range(60))])}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64
    )
    whole = sb.wrap_model(tiny_bert(), tokenizer)
    short = replace(sb.wrap_model(tiny_bert(seed=1), tokenizer), max_length=3)
    text = " ".join(f"w{n}" for n in range(12))

    def lengths(model):
        with warnings.catch_warnings():
            return {
                len(sb.attribute(model, text, "vanilla", reduction="l2")[0].tokens)
                for _ in range(8)
            }

    warnings.simplefilter("ignore")
    assert at_once(lengths, [whole, short, whole, short]) == [{12}, {3}, {12}, {3}]


def test_what_stands_in_for_a_function_does_so_in_one_thread():
    ours = in_this_thread(lambda: "own", lambda: "others'")
    with ThreadPoolExecutor(1) as pool:
        assert (ours(), pool.submit(ours).result(60)) == ("own", "others'")
