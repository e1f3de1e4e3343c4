"""Turns the arguments of `attribute` and `evaluate` into settings, targets and metric entries."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from saliency_bench.api.parts import PARTS
from saliency_bench.attribution.methods import KINDS, METHODS, ONLY
from saliency_bench.attribution.noise import UNITS
from saliency_bench.attribution.settings import expand, has_backends
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, one_of
from saliency_bench.core.labels import varying
from saliency_bench.core.rows import Setting, Target, as_list, replaced_by
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.metrics import METRICS
from saliency_bench.evaluation.removal import fit_operator
from saliency_bench.evaluation.view import hyperparameters
from saliency_bench.models import references
from saliency_bench.models.heads import HEADS
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.scores import CRITERION, OUTPUTS
from saliency_bench.models.tasks.targets import AGAINST, ALL, CONTRAST, parse_target
from saliency_bench.studies.block import open_block
from saliency_bench.studies.budget import resolve as resolve_budget
from saliency_bench.studies.prepare import fit_settings

if TYPE_CHECKING:
    import pandas as pd


@runtime_checkable
class Listable(Protocol):
    """Numbers or names in an array, a tensor or a column, or one of their elements."""

    def tolist(self) -> Any:
        """The same as a list of Python's numbers or texts."""


Targets = Target | Sequence[Any] | Listable
Baseline = str | np.ndarray | Tensor


def plain(value: Any) -> Any:
    """Numbers, rows and columns of numpy, torch and pandas as Python's own numbers and lists."""
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def plain_targets(target: Any) -> list[Target]:
    """The targets one by one, whole numbers of any type as Python's own.

    Raises:
        InputError: there is none, or one is neither a class by name or number nor a pair of these.
    """
    value = plain(target)
    listed = [*value] if isinstance(value, list | range) else [value]
    if not listed:
        raise _no_target(target)
    return [_pair(each) if isinstance(each, tuple) else _class(each) for each in listed]


def one_target(target: Any) -> Target:
    """The target of a study; a pair of names as the command has it, so that its ids are those of the command.

    Raises:
        InputError: there are several, or none.
    """
    targets = plain_targets(target)
    if len(targets) > 1:
        raise InputError(f"target={targets}: a study has one target; two classes as (A, B) are one")
    (only,) = targets
    if isinstance(only, tuple) and all(isinstance(one, str) and AGAINST not in one for one in only):
        written = f"{CONTRAST}{only[0]}{AGAINST}{only[1]}"
        return written if parse_target(written) == only else only
    return only


def _pair(pair: tuple[Any, ...]) -> Target:
    if len(pair) != 2:
        raise InputError(f"target={pair!r}: expected two classes, (A, B)")
    return _class(pair[0]), _class(pair[1])


def _class(value: Any) -> str | int:
    if isinstance(value, list) and len(value) == 1:  # argmax of a batch of one gives such a row
        (value,) = value
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _no_target(value)
    return value


def _no_target(value: Any) -> InputError:
    return InputError(
        f"target={value!r}: expected predicted, gold, runner_up, all, a class by index or name, a pair of classes, "
        "or a list of these"
    )


def each_target(
    refs: References, first: Encoded, targets: Sequence[Target], budget: int
) -> list[Target]:
    """The targets one by one, and every class in place of "all"."""
    expanded: list[Target] = []
    for target in targets:
        if target == ALL and (first.options or HEADS[refs.model.task].named):
            expanded += range(open_block(refs, [first], "predicted", budget).logits.shape[-1])
        else:
            expanded.append(target)
    return expanded


def output_of(model: Model, output: str | None) -> str:
    """The score that is explained: the given output, or the model's own criterion.

    Raises:
        InputError: there is no such output, or the model has a criterion and another output is given.
    """
    if model.criterion is None:
        output = "logit" if output is None else output
        for name in as_list(output):
            one_of("output", name, OUTPUTS)
        return output
    if output not in (None, CRITERION):
        raise InputError(
            f"output={output!r}: the model has a criterion of its own, whose negative is what is explained. Leave output "
            "out, or wrap the module without criterion="
        )
    return CRITERION


def settings_of(
    model: Model,
    methods: Sequence[str],
    hyper: dict[str, Any],
    output: str,
    longest: int,
    **axes: Any,
) -> list[Setting]:
    """The settings of all methods in their order; each gets those of the hyperparameters that it has.

    Raises:
        TypeError: none of the methods has a hyperparameter.
        InputError: there is no such method, or no method at all.
    """
    if not methods:
        raise InputError('method is empty: expected at least one, as "integrated_gradients"')
    entries = {name: entry_of("method", name) for name in methods}
    declared = {name: METHODS.hyperparameters(entry["method"]) for name, entry in entries.items()}
    if len(methods) == 1:  # whose check lists its hyperparameters
        declared = {methods[0]: [*hyper]}
    unused = hyper.keys() - {key for keys in declared.values() for key in keys}
    settings: dict[str, Setting] = {}
    for name, entry in entries.items():
        of_entry = {key: value for key, value in hyper.items() if key in {*declared[name], *unused}}
        expanded = _settings_of_entry(model, name, entry, of_entry, output, longest, **axes)
        settings |= {setting.id: setting for setting in expanded}
    return list(settings.values())


def entry_of(group: str, name: str) -> dict[str, Any]:
    """The entry of a method or a metric in conf/, or the name alone of one from an installed package.

    Raises:
        InputError: there is neither.
    """
    shipped = conf_files.names(group)
    if name in shipped:
        return conf_files.entry(group, name)
    one_of(group, name, sorted({*PARTS[group].names(), *shipped}))
    return {group: name}


def _settings_of_entry(
    model: Model,
    name: str,
    entry: dict[str, Any],
    hyper: dict[str, Any],
    output: str,
    longest: int,
    *,
    backend: str | Sequence[str],
    reduction: str | Sequence[str] | None,
    seed: int | Sequence[int],
) -> list[Setting]:
    """The settings of an entry with the values of `hyper` in place of its own."""
    method = entry["method"]
    sizes = {f"noise_{unit}": None for unit in UNITS}
    if sizes.keys() & hyper.keys():  # σ may be in another unit than that of conf/
        entry |= sizes
    entry |= hyper
    if "baseline" in hyper:
        where = f"method.{name}.baseline"
        entry["baseline"] = [
            references.resolve_baseline(model, value, where)
            if isinstance(value, np.ndarray | Tensor)
            else value
            for value in as_list(hyper["baseline"])
        ]
    if has_backends(method):
        entry["backend"] = backend
    if reduction is not None and KINDS[method] != "token":
        entry["reduction"] = reduction
    settings = expand({name: entry}, output=output, seed=seed)
    _warn_of_unused(method, backend, reduction)
    fitted, lacking = fit_settings(model, settings, longest)
    for message in dict.fromkeys(
        f"{warning['source']}: {warning['message']}" for warning in lacking
    ):
        warnings.warn(message, stacklevel=4)
    return fitted


def _warn_of_unused(
    method: str, backend: str | Sequence[str], reduction: str | Sequence[str] | None
) -> None:
    """Warns of arguments that change nothing in this method."""
    if KINDS[method] != "token":
        return
    computed_by = ONLY.get(method, "native")
    if others := sorted({*as_list(backend)} - {"native", computed_by}):
        warnings.warn(
            f"{method} has no backend {others[0]}: it is computed by {computed_by}", stacklevel=5
        )
    if reduction not in (None, "none"):
        warnings.warn(
            f"{method} gives one number per token: reduction={reduction} changes nothing",
            stacklevel=5,
        )


def tokens_per_pass(budget: int | str | None, model: Model, encoded: Sequence[Encoded]) -> int:
    """The token budget as a number; that of conf/ where it is None."""
    default = conf_files.runtime_defaults()["token_budget"]
    return resolve_budget(default if budget is None else budget, model, [*map(len, encoded)])


def metric_entry(name: str, grid: Any) -> dict[str, Any]:
    """The entry of a metric (`entry_of`) with the grid, where it has one.

    Raises:
        InputError: there is no such metric, or it needs hyperparameters that conf/ does not have.
    """
    entry = entry_of("metric", name)
    declared = METRICS.hyperparameters(entry["metric"])
    if grid is not None and "grid" in declared:
        entry["grid"] = plain(grid)
    METRICS.check(entry["metric"], hyperparameters(entry, declared), name)
    return entry


def named(kind: str, names: str | Sequence[str], example: str) -> list[str]:
    """Names as a list, of which there is at least one."""
    listed = [names] if isinstance(names, str) else [*names]
    if not listed:
        raise InputError(f'{kind} is empty: expected at least one, as "{example}"')
    return listed


def fitted_removals(model: Model, removals: Sequence[str]) -> list[str]:
    """The removal operators that the model has; a warning says which stand in for others."""
    fitted = [fit_operator(model, removal) for removal in removals]
    for removal, used in zip(removals, fitted, strict=True):
        if message := references.lacking(model, removal, used):
            warnings.warn(f"removal={removal}: {message}", stacklevel=3)
    return list(dict.fromkeys(fitted))


def with_replacements(
    table: "pd.DataFrame",
    removals: Iterable[Any],
    settings: Sequence[Mapping[str, Any]],
    tokens: Mapping[str, str],
) -> "pd.DataFrame":
    """A table of settings with a column that says what replaces removed tokens.

    Args:
        table: with a column `setting_id`.
        removals: the operator of each row; None where nothing is removed.
        settings: all settings, as `settings.json` or a map has them.
        tokens: the tokenizer's tokens by operator.
    """
    facts = {setting["setting_id"]: setting for setting in settings}
    rows = zip(table["setting_id"], removals, strict=True)
    return table.assign(
        replaced_by=[replaced_by(removal, facts[key], tokens) for key, removal in rows]
    )


def with_hyperparameters(
    table: "pd.DataFrame", settings: Sequence[Mapping[str, Any]]
) -> "pd.DataFrame":
    """A table of settings with a column for each hyperparameter in which those of one method differ.

    Args:
        table: with a column `setting_id`.
        settings: all settings, as `settings.json` or a map has them.

    Returns:
        A copy; a hyperparameter that is called like a column of the table is in `method_removal` and the like.
    """
    import pandas as pd

    names = dict.fromkeys(setting["name"] for setting in settings)
    differing = dict.fromkeys(key for name in names for key in varying(settings, name))
    facts = pd.DataFrame(settings, index=[setting["setting_id"] for setting in settings])
    extended = table.copy()
    for key in differing:
        column = f"method_{key}" if key in table else key
        extended[column] = extended["setting_id"].map(facts[key].convert_dtypes())
    return extended
