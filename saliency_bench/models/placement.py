"""Models that accelerate has spread over devices, or whose weights it keeps elsewhere and fetches for each pass.

Of a part that is offloaded to memory or disk, accelerate puts the weights on their device when the part is called, and
leaves tensors without numbers (on the device "meta") in their place afterwards.
"""

import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from saliency_bench.core.errors import InputError, one_of, shown
from saliency_bench.models.module_facts import typical_weight

KEY = "runtime.device_map"
#: How accelerate fills devices, in the words of transformers.
NAMES = ("auto", "balanced", "balanced_low_0", "sequential")
#: Of `Model.facts`: the device of each part.
PLACEMENT = "placement"


def check_device_map(device_map: object, device: str = "auto") -> None:
    """Refuses what transformers could not take as a device map, or what cannot be followed here.

    Raises:
        InputError: it is neither one of `NAMES` nor a mapping of parts to devices, accelerate is not installed, or
            `device` names one device as well.
    """
    if device_map is None:
        return
    if isinstance(device_map, Mapping):
        if "" in device_map and len(device_map) > 1:
            raise InputError(
                f"{KEY}={shown(device_map)}: '' is the whole model. Leave it out, and name every part."
            )
        for part, place in device_map.items():
            _check_place(f"{KEY}.{part}" if part else KEY, place)
    elif not isinstance(device_map, str):
        raise InputError(
            f"{KEY}={shown(device_map)}: expected {', '.join(NAMES)}, null, or the device of each part: {{model: 0, lm_head: cpu}}"
        )
    else:
        one_of(KEY, device_map, NAMES)
    if device != "auto":
        raise InputError(
            f"{KEY} and runtime.device={device} both name the model's device. Leave one of them out."
        )
    if find_spec("accelerate") is None:
        raise InputError(
            f"{KEY} needs accelerate, which is not installed. Run: pip install 'saliency-bench[large]'"
        )


def refuse_device_map(device_map: object, reason: str) -> None:
    """Refuses a device map where nothing can be spread.

    Raises:
        InputError: one was given.
    """
    if device_map is not None:
        raise InputError(f"{KEY}={shown(device_map)}: {reason}. Leave it out.")


def _check_place(key: str, place: object) -> None:
    n_gpus = torch.cuda.device_count()
    gpus = [*range(n_gpus), *(f"cuda:{index}" for index in range(n_gpus))]
    if isinstance(place, bool) or place not in ("cpu", "disk", *gpus):
        raise InputError(
            f"{key}={shown(place)}: expected cpu, disk or the number of a GPU; GPUs here: {', '.join(map(str, range(n_gpus))) or 'none'}"
        )


def spread(
    load: Callable[..., tuple[nn.Module, Any]], device_map: str | Mapping[str, Any] | None
) -> tuple[nn.Module, Any]:
    """Loads a module, spread by a device map; with None it is loaded as usual.

    Weights on disk are read from the checkpoint itself. Those that transformers has to write anew go to a temporary folder,
    which is removed together with the module.

    Args:
        load: calls `from_pretrained` with further keywords.
        device_map: see `check_device_map`.
    """
    if device_map is None:
        return load()
    folder = tempfile.mkdtemp(prefix="saliency-bench-offload-")
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    logger = logging.getLogger("accelerate.big_modeling")  # warns that weights are elsewhere
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        module, report = load(device_map=device_map, offload_folder=folder)
    except BaseException:
        remove()
        raise
    finally:
        logger.setLevel(level)
    weakref.finalize(module, remove)
    return module, report


def placement_of(module: nn.Module) -> dict[str, str] | None:
    """The device of each part by its dotted path; None where the module was not spread."""
    placed = getattr(module, "hf_device_map", None)
    if isinstance(placed, Mapping):
        return {str(part): _name_of(place) for part, place in placed.items()}
    by_path = {
        path: f"{_name_of(hook.execution_device)}{', offloaded' if hook.offload else ''}"
        for path, part in module.named_modules()
        for hook in hooks_of(part)
    }
    return by_path or None


def _name_of(place: object) -> str:
    return f"cuda:{place}" if isinstance(place, int) else str(place)


def hooks_of(part: nn.Module) -> list[Any]:
    """The hooks of a part by which accelerate aligns devices."""
    return [hook for hook in every_hook(part) if hasattr(hook, "execution_device")]


def every_hook(part: nn.Module) -> list[Any]:
    """All hooks of a part that were added through accelerate, by any library."""
    return [*_flat(vars(part).get("_hf_hook"))]


def _flat(hook: Any) -> Iterator[Any]:
    if hook is not None:
        inner = getattr(hook, "hooks", None)
        yield from [hook] if inner is None else chain.from_iterable(map(_flat, inner))


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's inputs: that of its weights, or the one on which accelerate computes its first part."""
    weight = typical_weight(module)
    for part in module.modules() if weight.is_meta else [module]:
        for hook in hooks_of(part):
            if hook.execution_device is not None:
                return torch.device(hook.execution_device)
    return weight.device


@dataclass(frozen=True)
class Stored:
    """A weight that accelerate keeps elsewhere while its part is not called."""

    part: nn.Module
    name: str
    hook: Any
    key: str  # in the hook's map

    @property
    def now(self) -> Tensor:
        """The tensor in the part at present, which has numbers only while the part is called."""
        weight = self.part._parameters.get(self.name)
        buffer = self.part._buffers.get(self.name)
        tensor = buffer if weight is None else weight
        assert tensor is not None
        return tensor

    def read(self) -> Tensor:
        """The weight, read from where accelerate keeps it."""
        value: Tensor = self.hook.weights_map[self.key]
        return value.to(self.now.dtype)


def stored_weights(module: nn.Module) -> dict[str, Stored]:
    """The weights and buffers that accelerate keeps elsewhere, by dotted name; tied ones under each of their names."""
    stored: dict[str, Stored] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        for hook in hooks_of(part):
            if not hook.offload:
                continue
            for inside, owner in part.named_modules() if hook.place_submodules else [("", part)]:
                tensors = chain(owner._parameters.items(), owner._buffers.items())
                for name, tensor in tensors:
                    if tensor is not None and tensor.is_meta:
                        key = f"{inside}.{name}" if inside else name
                        stored[f"{path}.{key}" if path else key] = Stored(owner, name, hook, key)
    return stored


def with_numbers(
    module: nn.Module, weights: Sequence[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Named weights of a module; those that accelerate keeps elsewhere are read one after the other.

    Raises:
        InputError: a weight has no numbers anywhere.
    """
    elsewhere = stored_weights(module) if any(weight.is_meta for _, weight in weights) else {}
    for name, weight in weights:
        if weight.is_meta and name not in elsewhere:
            raise InputError(
                f"{type(module).__name__} has no numbers in {name} (its device is meta): load the model with its weights"
            )
        yield name, elsewhere[name].read() if weight.is_meta else weight


def refuse_spread(module: nn.Module, name: str, what: str) -> None:
    """Refuses to change the weights of a model that accelerate has spread.

    Raises:
        InputError: accelerate has spread it.
    """
    if any(hooks_of(part) for part in module.modules()):
        raise InputError(
            f"model {name} is spread over devices or offloaded by accelerate, so that {what} its weights is not possible. Load "
            f"it on one device, without {KEY}, or leave this out."
        )


@dataclass(frozen=True)
class _StoredView:
    """A view of a stored weight in a graph, which is read again when the graph needs it."""

    stored: Stored
    device: torch.device
    size: torch.Size
    stride: tuple[int, ...]
    offset: int  # from the first number of the weight

    def __call__(self) -> Tensor:
        whole = self.stored.read().to(self.device).contiguous()
        return whole.as_strided(self.size, self.stride, whole.storage_offset() + self.offset)


@contextmanager
def rereading(stored: Sequence[Stored]) -> Iterator[None]:
    """Graphs recorded here keep none of these weights, but read them again for the backward pass.

    Otherwise a graph would hold every weight that it was computed with, and offloading would save no memory.
    """
    if not stored or not torch.is_grad_enabled():
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(partial(_pack, stored), _unpack):
        yield


def _pack(stored: Sequence[Stored], tensor: Tensor) -> Any:
    address = tensor.untyped_storage().data_ptr()
    for weight in () if tensor.requires_grad else stored:  # weights are frozen
        now = weight.now
        same = not now.is_meta and now.untyped_storage().data_ptr() == address
        if same and now.is_contiguous() and now.dtype == tensor.dtype:
            offset = int(tensor.storage_offset() - now.storage_offset())
            return _StoredView(weight, now.device, tensor.size(), tensor.stride(), offset)
    # Without its graph: an operation that saves its output would otherwise keep itself alive.
    return tensor.detach()


def _unpack(packed: Any) -> Tensor:
    tensor: Tensor = packed() if isinstance(packed, _StoredView) else packed
    return tensor
