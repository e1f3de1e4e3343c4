"""Tables of the methods, the metrics, and the parameters of a method."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from saliency_bench.api.parts import parameters
from saliency_bench.attribution.methods import KINDS, METHODS
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import one_of
from saliency_bench.evaluation.metrics import INFO, METRICS

if TYPE_CHECKING:
    import pandas as pd

#: The meaning of keys that most methods have; no file of conf/method/ explains them again.
MEANINGS = {
    "reduction": "from one vector per token to one number",
    "noise_special_tokens": "whether special tokens, such as [CLS], get noise too",
    "backward": "by which rule gradients are taken",
}


def methods() -> "pd.DataFrame":
    """One line per entry of conf/method/: name, method, what it is, kind, hyperparameters.

    `kind` says what the method gives: "gradient" and "product" one vector per token, which a reduction makes one number
    (in a product the input is multiplied in already), "token" one number.
    """
    from saliency_bench.api.listing_frame import Listing

    rows: list[dict[str, Any]] = []
    for name in conf_files.names("method"):
        method = conf_files.entry("method", name)["method"]
        rows.append(
            {
                "name": name,
                "method": method,
                "about": conf_files.summary("method", name),
                "kind": KINDS[method],
                "hyperparameters": ", ".join(METHODS.hyperparameters(method)),
            }
        )
    return Listing(rows)


def metrics() -> "pd.DataFrame":
    """One line per entry of conf/metric/: name, what it is, unit, whether higher is better, source."""
    from saliency_bench.api.listing_frame import Listing

    rows = []
    METRICS.names()  # imports them, and so declares them
    for name in conf_files.names("metric"):
        metric = conf_files.entry("metric", name)["metric"]
        info = INFO[metric]
        about = conf_files.summary("metric", name)
        rows.append(
            {
                "name": name,
                "about": about,
                "unit": info.unit,
                "higher_is_better": info.higher_is_better,
                "source": info.source,
            }
        )
    return Listing(rows)


def explain_parameters(method: str) -> "pd.DataFrame":
    """One line per key of a method's entry in conf/method/: parameter, default, allowed, meaning.

    Raises:
        InputError: there is no such entry.
    """
    import pandas as pd

    one_of("method", method, conf_files.names("method"))
    rows = [asdict(parameter) for parameter in parameters("method", method)]
    for row in rows:
        row["meaning"] = MEANINGS.get(row["name"]) or row["meaning"]
    columns = ["parameter", "default", "allowed", "meaning"]
    return pd.DataFrame(rows, columns=["name", *columns[1:]]).set_axis(columns, axis=1)
