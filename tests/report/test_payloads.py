"""Text of others in a report: 200 payloads rendered by a browser, of which none runs and none asks for anything."""

import shutil
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import cycle

import numpy as np
import pytest

from saliency_bench.core.display import page
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.text import Encoded
from saliency_bench.report.build import build_report

MARK = "PAYLOAD-RAN"
RUN = f"document.title='{MARK}'"
CALLS = (RUN, "fetch('URL/f')", "new Image().src='URL/i'", "location='URL/l'", "eval(name)")
SHAPES = (
    "<script>{0}</script>",
    "</script><script>{0}</script>",
    '<img src=x onerror="{0}">',
    '<svg onload="{0}">',
    "<svg><script>{0}</script></svg>",
    '<body onload="{0}">',
    '<iframe srcdoc="<script>parent.{0}</script>"></iframe>',
    '<iframe src="javascript:{0}"></iframe>',
    '<details open ontoggle="{0}">x</details>',
    '<input autofocus onfocus="{0}">',
    '<video><source onerror="{0}"></video>',
    '<math><mtext></mtext><mglyph><style><img src=x onerror="{0}"></style></mglyph></math>',
    '"><script>{0}</script>',
    "' onmouseover='{0}' x='",
    '" style="animation-name:x" onanimationstart="{0}"',
    "</title><script>{0}</script>",
    "</style><script>{0}</script>",
    "<!--><script>{0}</script>-->",
    '<a href="javascript:{0}" autofocus>x</a>',
    '<meta http-equiv=refresh content="0;url=javascript:{0}">',
    "<link rel=stylesheet href=URL/c?{0}>",
    '<object data="javascript:{0}"></object>',
    '<embed src="javascript:{0}">',
    '<form action=URL/a><button autofocus formaction="javascript:{0}">x',
    "<base href=URL/b><script src=x></script>{0}",
    "<template><script>{0}</script></template>",
    '<noscript><p title="</noscript><img src=x onerror={0}>">',
    "&lt;script&gt;{0}&lt;/script&gt;",
    "\u003cscript\u003e{0}\u003c/script\u003e",
    "<scr\0ipt>{0}</script>",
    "<ScRiPt >{0}</sCrIpT>",
    '<img src="x` `<script>{0}</script>"` `>',
    '{{{{constructor.constructor("{0}")()}}}}',
    "${{{0}}}",
    "<style>@import 'URL/s';</style>{0}",
    '<div style="background:url(URL/d)">{0}</div>',
    '<audio src=URL/m onloadstart="{0}" autoplay>',
    '<marquee onstart="{0}">x</marquee>',
    "<script type=module>import('URL/j');{0}</script>",
    '<x id=x tabindex=1 onfocus="{0}"></x>',
)
PAYLOADS = [shape.format(call) for call in CALLS for shape in SHAPES]

NO_CHROMIUM = "no Chromium to render the page with: apt-get install chromium, as .ci/run does"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture
def listener():
    """The address of a server of our own, and what it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def poisoned(run, address):
    """The run with every text that a person could have put there replaced by payloads, and how many of them."""
    waiting = cycle([payload.replace("URL", address) for payload in PAYLOADS])
    n = 0
    tables = {name: table.copy() for name, table in run.tables.items()}
    for name, columns in {
        "examples": ["text", "gold_label", "predicted_label"],
        "maps": ["label"],
        "warnings": ["source", "message"],
    }.items():
        for column in columns:
            table = tables[name]
            tables[name] = table.assign(**{column: [next(waiting) for _ in range(len(table))]})
            n += len(table)
    maps = tables["maps"]
    tokens = [[next(waiting) for _ in own] for own in maps["tokens"]]
    tables["maps"] = maps.assign(tokens=tokens, starts=[[-1] * len(own) for own in tokens])
    n += sum(map(len, tokens))
    settings = [one | {"name": next(waiting)} for one in run.settings]
    manifest = dict(run.manifest) | {"name": next(waiting), "command": next(waiting)}
    return replace(run, tables=tables, settings=settings, manifest=manifest), n


def browsed(file, seconds=8):
    """What a browser makes of a page, scripts on, as text."""
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--virtual-time-budget={1000 * seconds}",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_no_payload_runs_in_a_browser_and_none_asks_for_anything(
    run, listener, tmp_path, record_property
):
    address, asked = listener
    evil, n = poisoned(replace(run, folder=tmp_path), address)
    assert len(PAYLOADS) == 200
    assert n >= len(PAYLOADS)
    shown = browsed(build_report(evil))
    assert "&lt;script&gt;" in shown  # they are there, as text
    assert MARK not in shown.split("</title>")[0]
    assert asked == []
    record_property("faults: payloads in a page that did not run", n)


def evil_maps(address):
    """Maps with payloads as texts, tokens, classes and names of settings: one as each, and none twice."""
    found = []
    for start in range(0, len(PAYLOADS), 4):
        text, token, label, name = (one.replace("URL", address) for one in PAYLOADS[start:][:4])
        encoded = Encoded(
            example_id=f"e{start}",
            input_ids=(5, 6),
            token_type_ids=None,
            special=(False, False),
            tokens=("piece", token),
            offsets=((0, len(text)), (-1, -1)),
            segments=(0, 0),
            words=(0, 1),
            text=text,
            text_pair=None,
            gold=None,
        )
        setting = {"name": name, "method": "vanilla", "backend": "native", "reduction": "sum"}
        found.append(AttributionMap(encoded, setting, np.array([1.0, -0.5]), 0, label, 0.5))
    return found


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.parametrize("where", ["the page of explain", "a notebook"])
def test_no_payload_runs_in_an_explanation(where, listener, tmp_path, record_property):
    address, asked = listener
    maps = evil_maps(address)
    if where == "a notebook":  # nothing protects there but the fragment itself
        text = "<title>notebook</title>" + "".join(one.to_html() for one in maps)
    else:
        text = page(maps, top=None, special_tokens=True)
    file = tmp_path / "page.html"
    file.write_text(text, "utf-8")
    shown = browsed(file)
    assert shown.count("&lt;script") >= 20  # they are there, as text
    assert MARK not in shown.split("</title>")[0]
    assert asked == []
    record_property("faults: payloads in a page that did not run", len(PAYLOADS))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_the_browser_would_have_run_one(listener, tmp_path):
    address, asked = listener
    bare = tmp_path / "bare.html"
    bare.write_text(f"<title>bare</title><script>{RUN};fetch('{address}/f')</script>", "utf-8")
    shown = browsed(bare)
    assert MARK in shown.split("</title>")[0]
    assert asked == ["/f"]
