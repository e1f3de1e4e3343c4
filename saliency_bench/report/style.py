"""The style of figures: a colour per method and a stroke per backend; and their bytes."""

import io
import textwrap
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patheffects import withStroke

from saliency_bench.core.heatmap import ink
from saliency_bench.core.method_facts import FACTS, facts_of, is_reference
from saliency_bench.report.convergence_table import MARK

#: The colours of methods that name none; no method names one of these.
_OTHERS = ("#7A9A01", "#9C755F", "#E15759", "#B07AA1", "#86BCB6")
#: The colours and markers of the throughput benchmark's contestants: ours, uses of Captum, the floor and the ceiling.
_CONTESTANTS = {
    "ours": ("#0072B2", "o"),
    "captum_sorted": ("#D55E00", "s"),
    "captum_random": ("#E69F00", "^"),
    "captum_single": ("#CC79A7", "v"),
    "bare_loop": ("#000000", "D"),
    "matmul": ("#8A8A8A", ""),
    "ours_sweep": ("#0072B2", "o"),
    "ours_largest": ("#56B4E9", "P"),
    "captum_sweep": ("#D55E00", "s"),
}
#: Markers of settings that share a colour.
_SIGNS = "o^svPXdp*h"
_SPARSE = 5  # one of so many points of a curve has a marker
_LITTLE = 0.1  # numbers of the other sign that are smaller than this share count as none
HALO = [withStroke(linewidth=2.6, foreground="white")]  # makes a whisker visible on a dark bar
WIDTH = 7.0  # inches: two columns of a paper
HEIGHT = 9.5  # inches: a page, with room for a caption
_DPI = 200
_LABEL_CHARACTERS = 30
_NOTE_CHARACTERS_PER_INCH = 18
_LEGEND_CHARACTERS_PER_INCH = 13
_LEGEND_HANDLE = 7  # characters that a handle and the gap to the next column take
_LEGEND_COLUMN = 45  # characters that a column is allowed before its labels are wrapped
_RC: Any = {
    "font.size": 8.0,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.edgecolor": "#444444",
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "hatch.linewidth": 0.6,
    "axes.unicode_minus": True,
    "pdf.fonttype": 42,
}


@contextmanager
def styled() -> Iterator[None]:
    """Makes figures in its context look the same, whatever the user's own matplotlib settings are."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables have its characters.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        matplotlib.rcdefaults()
        # Without `color_codes`, which would change the meaning of "b" or "g" for the whole process.
        sns.set_theme("paper", "ticks", font="DejaVu Sans", color_codes=False, rc=_RC)
        yield


def color(setting: Mapping[str, Any]) -> str:
    """Returns the colour of a setting's method in every figure: its own, or one derived from its name alone."""
    named = _OTHERS[zlib.crc32(str(setting["method"]).encode()) % len(_OTHERS)]
    return facts_of(setting).color or named


#: The stroke of a line on another one, which is visible between its dots.
DOTTED = {"linestyle": ":"}


def stroke(setting: Mapping[str, Any], sign: str = "") -> dict[str, Any]:
    """Returns a setting's line: solid for our code and for rankings, dashed for Captum; with its marker, if it has one."""
    line = {
        "color": color(setting),
        "linestyle": "--" if is_reference(setting) else "-",
    }
    if not sign:
        return line
    every = (1 + _SIGNS.index(sign) % (_SPARSE - 1), _SPARSE)
    return line | {"marker": sign, "ms": 5, "mec": "white", "mew": 0.5, "markevery": every}


def signs(settings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns markers by setting id that distinguish settings of one colour; "" for the only setting of a colour.

    Twins that differ in their backend alone share a marker.
    """
    of_color: dict[str, list[str]] = {}
    twins: dict[str, tuple[list[str], str]] = {}
    for setting in settings:
        same = repr(
            sorted((k, v) for k, v in setting.items() if k not in ("setting_id", "backend", FACTS))
        )
        same_color = of_color.setdefault(color(setting), [])
        same_color += [] if same in same_color else [same]
        twins[setting["setting_id"]] = same_color, same
    return {
        key: _SIGNS[same_color.index(same) % len(_SIGNS)] if len(same_color) > 1 else ""
        for key, (same_color, same) in twins.items()
    }


def leads(sign: str) -> bool:
    """Whether a marker is that of the first setting of its colour."""
    return sign in ("", _SIGNS[0])


def contestant_stroke(name: str) -> tuple[str, str]:
    """Returns the colour and the marker of a contestant of the throughput benchmark."""
    return _CONTESTANTS.get(name) or (_OTHERS[zlib.crc32(name.encode()) % len(_OTHERS)], "X")


def marker(setting: Mapping[str, Any], sign: str = "") -> str:
    """Returns a setting's marker: its own, or else a diamond for rankings and a circle for others."""
    return sign or ("D" if setting["backend"] == "none" else "o")


def shades(values: Float[np.ndarray, "..."]) -> dict[str, Any]:
    """Returns the colour scale of an image: sequential over its numbers, or around zero if they have both signs.

    Colour-blind people can read both scales, and the sequential one is readable in grey.
    """
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if min(-low, high) <= _LITTLE * max(-low, high):
        return {"cmap": "cividis", "vmin": low, "vmax": high}
    limit = max(-low, high)
    return {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}


def ink_on(image: ScalarMappable, value: float) -> str:
    """Returns black or white, whichever is easier to read on the colour of a value in an image; black for NaN."""
    if np.isnan(value):
        return "black"
    red, green, blue, _ = image.to_rgba(np.array([value]), bytes=True)[0]
    return "black" if ink((int(red), int(green), int(blue))) == (0, 0, 0) else "white"


def literal(text: str) -> str:
    """Returns a label that matplotlib shows as it is: without mathematics, and not hidden from the legend."""
    shown = "".join(character if character.isprintable() else "�" for character in text)
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


def wrapped(labels: Iterable[str], characters: int = _LABEL_CHARACTERS) -> tuple[list[str], int]:
    """Returns labels cut into lines, and the largest number of lines."""
    # A mark stays on one line with the word before it.
    bound = (literal(label).replace(f" {MARK}", f"\u00a0{MARK}") for label in labels)
    lines = [textwrap.fill(label, characters) for label in bound]
    return lines, max((label.count("\n") + 1 for label in lines), default=1)


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> Legend | None:
    """Adds a legend above the panels, in as many columns as fit, and makes the figure higher by its height.

    Labels that are too long for a column are cut into lines.
    """
    if not labels:
        return None
    room = int(_LEGEND_CHARACTERS_PER_INCH * figure.get_figwidth())
    needed = [len(label) + _LEGEND_HANDLE for label in labels]
    if sum(needed) <= room:
        lines, n_columns = list(labels), len(labels)
    else:
        n_columns = max(1, room // max(needed), room // _LEGEND_COLUMN)
        lines = [textwrap.fill(label, room // n_columns - _LEGEND_HANDLE) for label in labels]
    points = np.array_split([14 + 10 * label.count("\n") for label in lines], n_columns)
    figure.set_figheight(figure.get_figheight() + (10 + max(map(sum, points))) / 72)
    return figure.legend(handles, lines, loc="outside upper center", ncols=n_columns)


def shared_legend(figure: Figure) -> None:
    """Adds one legend above the panels of a figure, instead of one in each panel."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
        if of_panel := axes.get_legend():
            of_panel.remove()
    legend(figure, list(entries.values()), list(entries))


def note(figure: Figure, text: str) -> None:
    """Adds a small caption at the foot of a figure."""
    fitting = textwrap.fill(literal(text), int(figure.get_figwidth() * _NOTE_CHARACTERS_PER_INCH))
    figure.supxlabel(fitting, fontsize=7, color="#555555", x=0.01, ha="left")


def png(figure: Figure) -> bytes:
    """Returns the figure as a PNG of 200 dots per inch, without a date."""
    return _saved(figure, format="png", dpi=_DPI, metadata={"Software": None})


def pdf(figure: Figure) -> bytes:
    """Returns the figure as a PDF with embedded fonts, without a date."""
    metadata = {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None}
    return _saved(figure, format="pdf", metadata=metadata)


def _saved(figure: Figure, **options: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, **options)
    return stream.getvalue()
