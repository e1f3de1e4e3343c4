"""The configuration: its schema, its composition by Hydra, its checks, and its settings.

Nothing is instantiated from a configuration: names are looked up in the registries, and everything else is data.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from saliency_bench.cli.hydra_words import as_hydra_reads
from saliency_bench.cli.messages import readable, unknown_key
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, one_of
from saliency_bench.core.program import MEMORY
from saliency_bench.core.rows import as_list
from saliency_bench.studies.checks import settings as settings
from saliency_bench.studies.checks import validate as validate
from saliency_bench.studies.config import (
    AdaptedModel,
    DefaultModel,
    HubModel,
    MaskedModel,
    ModelConfig,
    PreparedModel,
    RandomLabelsModel,
    ShortcutModel,
)
from saliency_bench.studies.config import Config as Config

#: The schema of each `model.name`.
MODELS: Mapping[str, type[ModelConfig]] = {
    "default": DefaultModel,
    "masked": MaskedModel,
    "random_labels": RandomLabelsModel,
    "shortcuts": ShortcutModel,
    "nanoguard": PreparedModel,
    "smollm2": PreparedModel,
    "smollm2_sentiment": AdaptedModel,
    "smollm2_shortcuts": ShortcutModel,
    "smollm2_toxicity": AdaptedModel,
    "toxicity": AdaptedModel,
    "hub": HubModel,
}


def register() -> None:
    """Makes the schema known to Hydra under the names that conf/ uses."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, model in MODELS.items():
        store.store(group="model", name=f"{name}_schema", node=model)


def load(overrides: Sequence[str] = ()) -> Config:
    """Composes the configuration that the command line would have with these overrides; it is not yet validated.

    Raises:
        InputError: an override is not understood, or a key or a type is wrong.
    """
    register()
    words = as_hydra_reads(overrides)
    try:
        with (
            refusing_absent_folders(),
            initialize_config_dir(str(conf_files.folder()), version_base="1.3"),
        ):
            node = compose("config", words)
    except Exception as error:  # Hydra lets builtin exceptions through; composing does nothing else
        raise InputError(readable(error, Config)) from error
    return from_hydra(node)


@contextmanager
def refusing_absent_folders() -> Iterator[None]:
    """Raises an error where a folder of Hydra's search path does not exist; Hydra only warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "provider=.* is not available", UserWarning)
        yield


def from_hydra(node: DictConfig) -> Config:
    """Turns a composed configuration into plain objects, resolves interpolations and fills in what is implied."""
    try:
        _refuse_targets(OmegaConf.to_container(node, resolve=False))
        _refuse_other_keys(node)
        if missing := sorted(OmegaConf.missing_keys(node)):
            raise _missing(node, missing[0])
        cfg = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise InputError(readable(error, Config)) from error
    except RecursionError as error:
        raise InputError("a value refers to itself through ${...}. Break the circle.") from error
    assert isinstance(cfg, Config)
    _refuse_another_model(cfg.model)
    cfg.backend = as_list(cfg.backend)
    cfg.evaluation.removal = as_list(cfg.evaluation.removal)
    cfg.agreement.metrics = as_list(cfg.agreement.metrics)
    if cfg.choose is not None and cfg.choose.split is None:
        cfg.choose = None
    if cfg.statistics.reference is None:
        cfg.statistics.reference = next(iter(cfg.method), None)
    return cfg


def _missing(node: DictConfig, key: str) -> InputError:
    """The error for a value that has to be given, with the sentence that heads the chosen file: it has an example."""
    group, dot, _ = key.partition(".")
    chosen = dot and (node[group].get("dataset") or node[group].get("name"))
    about = conf_files.summary(group, chosen) if chosen in conf_files.names(group) else ""
    return InputError(f"{key} is missing. Give it: {key}=VALUE. {about}".rstrip())


def from_plain(plain: Mapping[str, Any]) -> Config:
    """Reads the configuration of a run folder as data: it is checked against the schema, and nothing in it is called.

    Raises:
        InputError: it is not a configuration.
    """
    if "${" in str(plain):
        raise InputError("the configuration holds ${...}, which a finished configuration has not.")
    model = plain.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    if name == MEMORY:
        raise InputError(
            "the study was begun from Python, on a model in memory. The same call of saliency_bench.study goes on."
        )
    one_of("model.name", name, MODELS)
    schema = OmegaConf.structured(Config)
    try:
        schema.model = OmegaConf.structured(MODELS[cast(str, name)])
        return from_hydra(cast(DictConfig, OmegaConf.merge(schema, dict(plain))))
    except OmegaConfBaseException as error:
        raise InputError(readable(error, Config)) from error


def _refuse_other_keys(node: DictConfig, key: str = "") -> None:
    """Refuses keys that `+` adds to a schema, since nothing reads them, and the absence of keys that `~` removes."""
    kind = OmegaConf.get_type(node)
    names = [field.name for field in fields(kind)] if is_dataclass(kind) else None
    present = set(node.keys())  # `in` is false for a missing value, ???
    for name in names or ():
        if name not in present:
            raise InputError(f"{key}{name} is missing. Remove ~{key}{name}.")
    for name in map(str, node):
        if names is not None and name not in names:
            raise InputError(unknown_key(f"{key}{name}", Config))
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            continue
        if isinstance(node[name], DictConfig):
            _refuse_other_keys(node[name], f"{key}{name}.")


def _refuse_another_model(model: ModelConfig) -> None:
    """Refuses a `model.name` that does not belong to the keys beside it, which come from the file chosen for `model`."""
    one_of("model.name", model.name, MODELS)
    if type(model) is not MODELS[model.name]:
        chosen = next(name for name, kind in MODELS.items() if kind is type(model))
        raise InputError(
            f"model.name={model.name}: what is chosen for model is {chosen}, which has other keys. Choose the other by "
            f"model={model.name}."
        )


def _refuse_targets(value: Any, key: str = "") -> None:
    """Refuses `_target_` at any depth: a configuration is data, and Hydra would instantiate it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "_target_":
                raise InputError(
                    f"{key}{name}: a configuration names parts, it does not call code. Remove it."
                )
            _refuse_targets(inner, f"{key}{name}.")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_targets(inner, f"{key}{index}.")
