"""The picture at the head of the README: one sentence of results/method_comparison, as a run's page shows it.

`python docs/picture.py` writes docs/words.png; it needs Chromium and loads no PyTorch.
"""

import subprocess
import tempfile
from pathlib import Path

from saliency_bench.core.heatmap import bar, panel, spans_to_html, token_map
from saliency_bench.core.rows import TABLES
from saliency_bench.core.scored_text import scored_text_of_row
from saliency_bench.report.analysis import Analysis, analyse
from saliency_bench.store.run import read_run

ROOT = Path(__file__).resolve().parents[1]
RUN, SENTENCE = ROOT / "results" / "method_comparison", "movie-10168"
METHODS = ("integrated_gradients", "leave_one_out", "vanilla", "input_x_gradient")
WIDTH, HEIGHT, SCALE = 900, 324, 2
STYLE = """
:root { color-scheme: light } body { margin: 0; padding: 14px 18px; background: #fff; color: #1b1f24;
  font: 18px/1.75 "DejaVu Sans", system-ui, sans-serif; }
h1 { font-size: 15px; font-weight: 400; margin: 0 0 8px; color: #59636e }
section { display: grid; grid-template-columns: 190px 1fr; padding: 5px 0 }
h2 { font-size: 14px; margin: 3px 0 0 } small { display: block; font-weight: 400; color: #59636e }
footer { font-size: 13px; color: #59636e; margin-top: 8px }
i { display: inline-block; width: 70px; height: 11px; border: 1px solid #d9dee3; margin: 0 6px -1px 0 }
"""


def page(analysis: Analysis) -> str:
    """One sentence with a map per method, and each method's SRG."""
    table = analysis.run.tables["examples"].set_index("example_id", drop=False)
    example = table.loc[SENTENCE].to_dict()
    maps = analysis.run.columns("maps", [*TABLES["maps"]], {"example_id": [SENTENCE]})
    rows = {row["setting_id"]: row for row in maps.to_dict("records")}
    ids = {setting["name"]: setting["setting_id"] for setting in analysis.settings}
    sections = []
    for name in METHODS:
        key = ids[name]
        map_ = scored_text_of_row(rows[key], example, analysis.setting(key))
        html = spans_to_html(token_map(map_))
        estimate = analysis.estimates[key, "srg"]
        numbers = f"SRG {estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
        sections.append(
            f"<section><h2>{analysis.labels[key]}<small>{numbers}</small></h2><div>{html}</div></section>"
        )
    head = f"The model says {example['predicted_label']}, with probability {example['probability']:.2f}. Why?"
    legend = (
        f'<i style="{bar(True)}"></i> against the class, or for it &nbsp; '
        f'<i style="{bar(False)}"></i> matters (no sign)'
    )
    return (
        f'<meta charset="utf-8"><style>{STYLE}</style><body style="{panel()}"><h1>{head}</h1>{"".join(sections)}'
        f"<footer>{legend}</footer>"
    )


def main() -> None:
    """Writes docs/words.png."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "page.html"
        source.write_text(page(analyse(read_run(RUN))), "utf-8")
        subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--force-device-scale-factor={SCALE}", f"--window-size={WIDTH},{HEIGHT}",
                f"--screenshot={ROOT / 'docs' / 'words.png'}", source.as_uri(),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip


if __name__ == "__main__":
    main()
