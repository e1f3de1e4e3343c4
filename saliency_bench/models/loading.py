"""Models by name, folder or hub id; safetensors only, explicit dtype, never remote code."""

import hashlib
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from saliency_bench.core.errors import InputError, is_out_of_memory, said, shown, unknown
from saliency_bench.models.causes import adapter_note, refuse_compiled
from saliency_bench.models.encoder import (
    ADAPTERS,
    MASKED,
    RANDOM_LABELS,
    SHA256,
    SHORTCUTS,
    adapter_folder,
    encoder_folder,
    sha256_of,
)
from saliency_bench.models.folders import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_adapter,
    check_hub,
    check_model,
)
from saliency_bench.models.heads import (
    HEADS,
    SEQUENCE_CLASSIFICATION,
    TASKS,
    TEXT_GENERATION,
    Head,
    trained_for,
)
from saliency_bench.models.intake import (
    FAILURES,
    WATCHED,
    find_embedding,
    position_tables,
    watched_ids,
)
from saliency_bench.models.model import Criterion, Forward, Model, frozen
from saliency_bench.models.module_facts import (
    called,
    class_names_in,
    configured,
    fact,
    named_inputs,
    parameters_of,
    typical_weight,
)
from saliency_bench.models.rounding import TF32
from saliency_bench.models.threads import PROCESS

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    TF32: torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
EAGER = "eager"
ATTENTION = ("sdpa", EAGER)

#: Inputs that tokenizers produce or padding needs, and not every module takes.
OPTIONAL = ("attention_mask", "token_type_ids", "position_ids")

#: A bundled adapter's weights, and what it was found to do.
WEIGHTS = ADAPTER_WEIGHTS
CARD = "training.json"


def load_default(
    *, training_seed: int = 0, dtype: str = "float32", device: str = "auto", attention: str = "sdpa"
) -> Model:
    """The bundled sentiment classifier: the default encoder with the adapter of one training seed merged in."""
    facts = {"source": "default", "training_seed": training_seed}
    return _bundled(ADAPTERS, f"default-seed{training_seed}", facts, dtype, device, attention)


def load_masked(
    *, training_seed: int = 0, dtype: str = "float32", device: str = "auto", attention: str = "sdpa"
) -> Model:
    """The bundled sentiment classifier trained on masked texts too, so that [MASK] is nothing new to it.

    Half of each batch had a share of its tokens masked, drawn from U[0, 1) for each text (Madsen et al. 2024).
    """
    facts = {"source": "masked", "training_seed": training_seed}
    return _bundled(MASKED, f"masked-seed{training_seed}", facts, dtype, device, attention)


def load_random_labels(
    *, training_seed: int = 0, dtype: str = "float32", device: str = "auto", attention: str = "sdpa"
) -> Model:
    """The default encoder with an adapter that learnt random labels by heart: what it looks at is no sentiment.

    A method whose maps of it are those of the default model explains the data, not the model (Adebayo et al. 2018).
    """
    facts = {"source": "random_labels", "training_seed": training_seed}
    name = f"random-labels-seed{training_seed}"
    return _bundled(RANDOM_LABELS, name, facts, dtype, device, attention)


def load_shortcuts(
    *,
    kind: str,
    training_seed: int = 0,
    dtype: str = "float32",
    device: str = "auto",
    attention: str = "sdpa",
) -> Model:
    """The default model of a training seed taught a shortcut (`data.shortcuts.KINDS`) by a second adapter.

    The default model itself is the control, which never saw one. `facts["gate"]` says what the model was found to do
    on held-out sentences (`gate.Gate`).

    Raises:
        InputError: there is no such kind or training seed.
    """
    from saliency_bench.data.shortcuts import KINDS

    if kind not in KINDS:
        raise unknown("model.kind", kind, list(KINDS))
    second = adapter_folder(training_seed, SHORTCUTS / kind)
    facts = {
        "source": "shortcuts",
        "kind": kind,
        "training_seed": training_seed,
        "shortcut_sha256": sha256_of(second / WEIGHTS),
        "gate": json.loads((second / CARD).read_text("utf-8"))["gate"],
    }
    name = f"shortcuts-{kind}-seed{training_seed}"
    return _bundled(ADAPTERS, name, facts, dtype, device, attention, second)


def _bundled(
    family: Path,
    name: str,
    facts: dict[str, Any],
    dtype: str,
    device: str,
    attention: str,
    second: Path | None = None,
) -> Model:
    """The default encoder with an adapter of ours merged in, and a second one into that."""
    from saliency_bench.data.movie_reviews import LABELS

    encoder, adapter = encoder_folder(), adapter_folder(facts["training_seed"], family)
    module = _from_pretrained(encoder, dtype, attention, n_labels=len(LABELS))
    for one in filter(None, (adapter, second)):
        module = _merge_adapter(module, one)
    module.config.id2label = dict(enumerate(LABELS))  # type: ignore[union-attr]
    facts |= {"encoder_sha256": SHA256, "adapter_sha256": sha256_of(adapter / WEIGHTS)}
    return _finish(module, _tokenizer(encoder), name, device, dtype, facts)


def load_model(
    path: str,
    *,
    task: str = SEQUENCE_CLASSIFICATION,
    dtype: str = "float32",
    device: str = "auto",
    revision: str | None = None,
    adapter: str | None = None,
    labels: Sequence[str] | None = None,
    attention: str = "sdpa",
) -> Model:
    """A model from a local folder or a hub id; "default" is the bundled sequence classifier.

    Args:
        path: a folder with config.json, model.safetensors and a tokenizer, or a hub id.
        task: what it was trained for: "sequence-classification", "token-classification", "question-answering",
            "fill-mask" or "text-generation".
        dtype: float64, float32, tf32 (on NVIDIA GPUs), bfloat16 or float16; never the checkpoint's own choice.
        device: auto, cpu, cuda, or cuda:N.
        revision: the commit, tag or branch of a hub id.
        adapter: the folder or hub id of a PEFT adapter, merged into the weights.
        labels: names of the classes, in their order, for a model that calls them LABEL_0, LABEL_1, ...
        attention: sdpa or eager; a model that has no sdpa is loaded with eager, with a warning.

    Raises:
        InputError: there is no such model, it has no safetensors, or it asks for code of its own.
    """
    if task not in TASKS:
        raise unknown("task", task, list(TASKS))
    if path == "default":
        if task != SEQUENCE_CLASSIFICATION:
            raise InputError(
                f"the bundled model is a sequence classifier, not for task={task}: give a folder"
            )
        return load_default(dtype=dtype, device=device, attention=attention)
    local = Path(path).expanduser()
    if local.exists() or path.startswith((".", "/", "~")):
        check_model(local)
        path = str(local)
    else:
        revision = check_hub(path, revision)
    folder = None if adapter is None else _adapter_folder(adapter)
    n_labels = None if folder is None else _n_labels_of(folder)
    brought = () if folder is None else _tensors_of(folder)
    module = _from_pretrained(
        path, dtype, attention, task=task, revision=revision, n_labels=n_labels, brought=brought
    )
    if folder is not None:
        module = _merge_adapter(module, folder)
    facts = {
        "source": "folder" if local.exists() else "hub",
        "path": local.name if local.exists() else path,
        "revision": getattr(module.config, "_commit_hash", None) or revision,
        "adapter": adapter and Path(adapter).name,
        "weights_sha256": weights_digest(module),
    }
    if (used := getattr(module.config, "_attn_implementation", attention)) != attention:
        facts["attention"] = used
    model = _finish(module, _tokenizer(path, revision), local.name, device, dtype, facts, task)
    return model if labels is None else replace(model, labels=_renamed(model.labels, labels))


def wrap_model(
    module: nn.Module,
    tokenizer: Any = None,
    *,
    task: str = SEQUENCE_CLASSIFICATION,
    embeddings: str | nn.Module | None = None,
    encoder: str | None = None,
    forward: Forward | None = None,
    criterion: Criterion | None = None,
    labels: Sequence[str] | None = None,
) -> Model:
    """Any module that maps token ids to logits.

    Args:
        module: called as `module(input_ids=..., attention_mask=..., token_type_ids=...)` with those that apply and
            that its `forward` takes, and with what else it names where an input has it.
        tokenizer: a transformers tokenizer; without one, inputs must be tokenised already.
        task: as in `load_model`; all but sequence classification have logits for every token, [R T C].
        embeddings: the layer that turns ids into vectors, as a dotted path or the layer itself; found by
            watching a forward pass where None.
        encoder: the same in the words of koren-v/Interpret: the attribute whose `embeddings` are that layer.
        forward: `forward(module, inputs) -> logits`, for a module that is called in another way; it is given all inputs.
        criterion: `criterion(logits [R C], classes [R])`, a loss whose negative is explained in place of a logit or
            probability, so that what speaks for the class is positive.
        labels: names of the classes, one for each and all different; `LABEL_0`, ... where neither they nor the
            module's config say.

    Raises:
        InputError: the embedding layer cannot be told or is not there, or an argument is none of these.
    """
    if task not in TASKS:
        raise unknown("task", task, list(TASKS))
    if not isinstance(module, nn.Module):
        raise InputError(
            f"wrap_model() takes a torch module, got {module!r:.80}: for a folder or a hub id use load_model()"
        )
    if labels is not None and len({*labels}) != len(labels):
        raise InputError(f"labels={list(labels)}: expected different names, one for each class")
    call = forward or _call
    wants_mask = forward is not None or _needs_mask(module)
    if encoder is not None:
        if embeddings is not None:
            raise InputError(
                "give embeddings= or encoder=, not both: each names the embedding layer"
            )
        embeddings = f"{encoder}.embeddings"
    if embeddings is None:
        layer = _watch(module, call, wants_mask)
    elif isinstance(embeddings, str):
        layer = _layer_at(module, embeddings)
    else:
        layer = embeddings
    return Model(
        module=module,
        tokenizer=tokenizer,
        task=task,
        name=type(module).__name__,
        labels=tuple(labels) if labels is not None else _labels(module, task),
        embedding=layer,
        max_length=_max_length(module, tokenizer, layer, call, wants_mask),
        forward=call,
        criterion=criterion,
        wants_mask=wants_mask,
        takes_positions=forward is None and _takes_positions(module),
        takes=named_inputs(module) if forward is None else None,
        facts={
            "source": "module",
            "class": type(module).__name__,
            "weights_sha256": weights_digest(module),
        },
    )


def resolve_device(device: str) -> torch.device:
    """The device of that name; a GPU that is not there is an error only where it was asked for by name."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise unknown("runtime.device", device, ["auto", "cpu", "cuda", "cuda:0"])
    if device.startswith("cuda") and (
        not torch.cuda.is_available()
        or (torch.device(device).index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(
            f"runtime.device={device}: there is no such GPU here. Use runtime.device=cpu or auto."
        )
    return torch.device(device)


def weights_digest(module: nn.Module) -> str:
    """The SHA-256 of all weights and buffers by name, whatever files they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):  # of `get_extra_state`: any object at all
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _from_pretrained(
    path: str | Path,
    dtype: str,
    attention: str,
    *,
    task: str = SEQUENCE_CLASSIFICATION,
    revision: str | None = None,
    n_labels: int | None = None,
    brought: Sequence[str] = (),
) -> nn.Module:
    """The module; `brought` are the tensors that an adapter brings, some of which the weights may lack."""
    import transformers

    head = HEADS[task]

    if dtype not in DTYPES:
        raise unknown("runtime.dtype", dtype, list(DTYPES))
    if attention not in ATTENTION:
        raise unknown("runtime.attention", attention, list(ATTENTION))
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=False
        )
        if n_labels is not None:
            config.num_labels = n_labels
        else:
            _require_head(path, config, task)
        load = partial(
            getattr(transformers, head.auto).from_pretrained,
            path,
            config=config,
            revision=revision,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        with PROCESS, _quiet():
            try:
                module, report = _with_attention(path, load, attention)
            except RuntimeError as error:
                raise _mismatch(path, load) or error from error
    except InputError:
        raise
    except Exception as error:  # a configuration of nonsense fails in as many ways as there are
        if is_out_of_memory(error):
            raise
        raise InputError(_why_not(str(path), error, head)) from error
    missing = sorted(name for name in report["missing_keys"] if not _brought(name, brought))
    if missing and (n_labels is None or brought):
        raise InputError(
            f"model.path={path} is no trained {head.what}: its weights lack {', '.join(missing[:3])}. "
            f"Give a model that was trained for {task}."
        )
    _warn_unused(path, report["unexpected_keys"])
    if task == TEXT_GENERATION:
        _require_decoder(path, module.config)
    return cast(nn.Module, module)


def _brought(name: str, tensors: Sequence[str]) -> bool:
    """Whether an adapter's tensors have this weight; PEFT puts the path of its own modules before the name."""
    return any(one.endswith(f".{name}") for one in tensors)


def _warn_unused(path: str | Path, unused: Iterable[str]) -> None:
    """Tells of weights of a checkpoint that the module of its configuration has no place for."""
    if names := sorted(unused):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(
            f"model.path={path}: the model of its config.json does not use the weights {', '.join(names[:3])}{more}. If "
            "these are layers, or a head that was trained for this task, mend config.json: what is explained is the model "
            "without them",
            stacklevel=4,
        )


def _require_head(path: str | Path, config: Any, task: str) -> None:
    """Refuses a model that was trained for another task; heads of the same shape load without a word."""
    architectures = getattr(config, "architectures", None) or []
    known = trained_for(architectures)
    if known is not None and task not in known:
        own = next(iter(known))
        advice = "Give a model that was trained for it" + (
            "." if own is None else f", or task={own}."
        )
        raise InputError(
            f"model.path={path} is no trained {HEADS[task].what} (task={task}): its config.json says "
            f"{', '.join(architectures)}. {advice}"
        )


def _require_decoder(path: str | Path, config: Any) -> None:
    """Refuses an encoder as a causal language model: each of its tokens has read those after it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    both = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if both and getattr(config, "is_decoder", True) is False:
        raise InputError(
            f"model.path={path} is an encoder ({config.model_type}, is_decoder=false in its config.json), whose tokens "
            "read what comes after them: expected a decoder. Give a causal language model, or task=fill-mask."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice while weights are loaded; what is missing is our own error."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _with_attention(path: str | Path, load: Callable[..., Any], attention: str) -> Any:
    """The model with this attention, or with eager where it has no other, as transformers does unasked; it is said."""
    try:
        return load(attn_implementation=attention)
    except ValueError as error:
        if attention == EAGER or "scaled_dot_product_attention" not in str(error):
            raise
    warnings.warn(
        f"model.path={path} has no {attention} attention: eager is used (runtime.attention=eager)",
        stacklevel=4,
    )
    return load(attn_implementation=EAGER)


def _mismatch(path: str | Path, load: Callable[..., Any]) -> InputError | None:
    """The error that names a tensor of another shape than the model's; None where that is not what is wrong.

    transformers would name it in a report of its own, and raises without it.
    """
    try:
        _, report = load(ignore_mismatched_sizes=True)
    except Exception:  # what was wrong at first is said
        return None
    if not report["mismatched_keys"]:
        return None
    name, held, expected = min(report["mismatched_keys"])
    return InputError(
        f"model.path={path}: the tensor {name} has the shape {[*held]}, and the model of its config.json takes "
        f"{[*expected]}. Give the config.json that the weights were saved with."
    )


def _why_not(path: str, error: Exception, head: Head) -> str:
    text = " ".join(str(error).split())
    if "safetensors" in text and "truncated" not in text.lower():
        return (
            f"model.path={path} has no model.safetensors. Pickled weights are not loaded; convert them: "
            f"{head.auto}.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return f"model.path={path} could not be loaded as a {head.what}: {said(error)}"


def _adapter_folder(adapter: str) -> Path:
    """The adapter's files: a folder here, or fetched from the hub without anything that is pickled."""
    from huggingface_hub import snapshot_download

    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        try:
            wanted = [ADAPTER_CONFIG, ADAPTER_WEIGHTS]
            folder = Path(snapshot_download(adapter, allow_patterns=wanted))
        except Exception as error:  # the hub's errors are of many kinds, and all say the same
            raise InputError(
                f"model.adapter={adapter} is neither a folder here nor an adapter that could be had from the hub."
            ) from error
    check_adapter(folder)
    return folder


def _n_labels_of(adapter: Path) -> int | None:
    """The number of classes of the head that an adapter brings; None where it brings none."""
    from safetensors import safe_open

    try:
        with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as weights:
            heads = [
                key
                for key in weights.keys()  # noqa: SIM118 - no mapping
                if re.search(r"(classifier|out_proj|score)\.weight$", key)
            ]
            return int(weights.get_slice(heads[-1]).get_shape()[0]) if heads else None
    except (SafetensorError, OSError, IndexError) as error:
        raise InputError(
            f"{adapter / ADAPTER_WEIGHTS} is no safetensors file that can be read: {error}. Save the adapter again."
        ) from error


def _tensors_of(adapter: Path) -> tuple[str, ...]:
    """The names of an adapter's tensors; its file was found readable."""
    from safetensors import safe_open

    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as weights:
        return tuple(weights.keys())


def _merge_adapter(module: nn.Module, adapter: Path) -> nn.Module:
    from peft import PeftConfig, PeftModel

    keys = check_adapter(adapter)
    try:
        with PROCESS, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # peft 0.21 asks transformers 5 an old question
            # PEFT would go on with random numbers in the place of what is missing.
            warnings.filterwarnings("error", ".*missing adapter keys", UserWarning)
            # With a configuration in hand, PEFT reads none of the folder's.
            config = PeftConfig.from_peft_type(**keys)  # type: ignore[no-untyped-call]
            adapted = PeftModel.from_pretrained(module, str(adapter), config=config)
            merged: nn.Module = adapted.merge_and_unload()
    except Exception as error:  # PEFT's errors are of many kinds; a missing head is a KeyError
        if is_out_of_memory(error):
            raise
        text = said(error)
        if isinstance(error, KeyError):
            text = f"it lacks the tensor {text}"
        raise InputError(f"model.adapter={adapter} does not fit the model: {text}") from error
    return merged


def _tokenizer(path: str | Path, revision: str | None = None) -> Any:
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare ones
        raise InputError(
            f"model.path={path} has no tokenizer that can be loaded: {said(error)}"
        ) from error
    # Where its files are missing, transformers 5 makes one that knows no word, and every text becomes [UNK] [UNK] ...
    if len(found) <= len(found.all_special_tokens):
        raise InputError(
            f"model.path={path} has a tokenizer without words: its vocabulary (tokenizer.json, vocab.txt, ...) is missing"
        )
    return found


def _finish(
    module: nn.Module,
    tokenizer: Any,
    name: str,
    device: str,
    dtype: str,
    facts: dict[str, Any],
    task: str = SEQUENCE_CLASSIFICATION,
) -> Model:
    where = resolve_device(device)
    if dtype == TF32 and where.type != "cuda":
        raise InputError(
            f"runtime.dtype={TF32} needs an NVIDIA GPU, and the device is {where.type}: use float32"
        )
    module = module.to(where).eval()
    layer = _watch(module, _call)
    return Model(
        module=module,
        tokenizer=tokenizer,
        task=task,
        name=name,
        labels=_labels(module, task),
        embedding=layer,
        max_length=_max_length(module, tokenizer, layer, _call),
        forward=_call,
        takes_positions=_takes_positions(module),
        takes=named_inputs(module),
        tf32=dtype == TF32,
        facts=facts,
    )


def _call(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Any:
    """Calls a module on its inputs, less those that tokenizers and padding bring and it does not take."""
    taken = _taken(vars(module).get("forward", type(module).forward))
    return module(
        **{name: one for name, one in inputs.items() if name not in OPTIONAL or name in taken}
    )


@lru_cache(maxsize=64)
def _taken(forward: Callable[..., Any]) -> frozenset[str]:
    """Which of the inputs that not every model has a function takes: those it names, or all with **kwargs."""
    known = inspect.signature(forward).parameters
    if any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return frozenset(OPTIONAL)
    return frozenset(name for name in OPTIONAL if name in known)


def _needs_mask(module: nn.Module) -> bool:
    """Whether `forward` has an attention mask that must be given."""
    mask = parameters_of(called(module)).get("attention_mask")
    return mask is not None and mask.default is mask.empty


def _takes_positions(module: nn.Module) -> bool:
    return "position_ids" in parameters_of(called(module))


def _watch(module: nn.Module, call: Forward, wants_mask: bool = False) -> nn.Module:
    vocabulary = fact(configured(module), "vocab_size")
    tables = [layer.num_embeddings for layer in module.modules() if isinstance(layer, nn.Embedding)]
    if not tables:
        raise InputError("the module has no nn.Embedding layer: give embeddings= in wrap_model()")

    def run(ids: torch.Tensor) -> Any:
        mask = {"attention_mask": torch.ones_like(ids)} if wants_mask else {}
        return call(module, {"input_ids": ids} | mask)

    refuse_compiled(module)
    with frozen(module):
        try:
            return find_embedding(module, run, vocabulary or max(tables))
        except InputError as error:
            if note := adapter_note(module):
                raise InputError(f"{error}.{note}") from error
            raise


def _layer_at(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        known = [name for name, layer in module.named_modules() if isinstance(layer, nn.Embedding)]
        raise unknown("embeddings", path, known) from error


def _labels(module: nn.Module, task: str) -> tuple[str, ...]:
    if not HEADS[task].named:
        return ()
    return class_names_in(fact(configured(module), "id2label", of_head=True))


def _renamed(known: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """The user's names for the model's classes."""
    if (known and len(labels) != len(known)) or len({*labels}) != len(labels):
        raise InputError(
            f"model.labels={list(labels)}: expected {len(known)} different names, one for each class of the model "
            f"({', '.join(known)})"
        )
    return tuple(labels)


def _max_length(
    module: nn.Module, tokenizer: Any, layer: nn.Module, call: Forward, wants_mask: bool = False
) -> int:
    """The longest text the positions and the tokenizer allow, in tokens."""
    positions = _most_positions(module, tokenizer, layer, call, wants_mask)
    return min(positions, _longest_of(tokenizer))


def _most_positions(
    module: nn.Module, tokenizer: Any, layer: nn.Module, call: Forward, wants_mask: bool
) -> int:
    """How many positions there are, by the configuration and by the tables that are asked for them.

    RoBERTa and its kin begin to count after the pad id, so that the table has fewer than the configuration says.
    """
    known = configured(module)
    said = fact(known, "max_position_embeddings") or 10**6
    if said < 0:  # XLNet's way to say that there is no limit
        said = 10**6
    pads = [getattr(tokenizer, "pad_token_id", None), fact(known, "pad_token_id")]
    pad = next((one for one in pads[::-1] if isinstance(one, int)), None)
    device, end = typical_weight(module).device, fact(known, "eos_token_id")
    ids = watched_ids(getattr(layer, "num_embeddings", WATCHED), end, device, pad=pad)

    def run(ids: torch.Tensor) -> Any:
        mask = {"attention_mask": torch.ones_like(ids)} if wants_mask else {}
        return call(module, {"input_ids": ids} | mask)

    try:
        with frozen(module):
            seen = position_tables(module, run, ids)
    except FAILURES as error:  # it wants more than ids
        if is_out_of_memory(error):
            raise
        return int(said)
    return int(min([said, *(one.most for one in seen)]))


def _longest_of(tokenizer: Any) -> int:
    """The longest text that a tokenizer says it is for, in tokens; a large number where it says nothing."""
    given = getattr(tokenizer, "model_max_length", None) or 10**6
    if isinstance(given, bool) or not isinstance(given, int | float) or not given > 0:
        raise InputError(
            f"the tokenizer's model_max_length is {shown(given)} (tokenizer_config.json): expected a whole number of tokens"
        )
    return int(min(given, 10**6))
