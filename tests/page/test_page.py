"""The page: what is on it, that it needs nothing else, and that a browser shows it."""

import html.parser
import re
import shutil
import subprocess

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.page.page import page_text, write_page
from tests.support.models import MEGATRON, Decoder, redraw

IDS = torch.zeros(2, 8, dtype=torch.long)
PLAN = {**MEGATRON, "embed": "embedding_rowwise", "lm_head": "colwise_rep"}


@pytest.fixture(scope="module")
def sharded():
    return sw.shard(torch.export.export(redraw(Decoder(layers=4)), (IDS,)), mesh=2, plan=PLAN)


class Drawing(nn.Module):
    """An operator without a rule."""

    def forward(self, x):
        return x + torch.randn_like(x)


class Seen(html.parser.HTMLParser):
    """The elements of a page with their attributes, its text, and whether every element is closed in order."""

    VOID = frozenset({"meta", "link", "input", "wbr"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def seen(facts, title="A model"):
    page = Seen(page_text(facts, title=title))
    assert page.open == []
    return page


def rows(page, table):
    return re.findall(rf'<tr id="{table}\d+" data-kind="(\w+)" data-module="([^"]*)"', page)


def test_every_collective_is_there_with_its_cause(sharded):
    text = page_text(sharded.facts(), title="A model")
    assert rows(text, "sent") == [(str(c.kind), c.module) for c in sharded.collectives]
    page = Seen(text)
    assert sum(tag == "rect" for tag, _ in page.elements) == len(sharded.collectives) == 10
    assert all(c.cause in page.text and c.source.rsplit("/", 1)[-1] in page.text for c in sharded.collectives)


def test_layers_alike_are_shown_once_and_named(sharded):
    page = seen(sharded.facts())
    paths = [attrs["data-path"] for _, attrs in page.elements if "data-path" in attrs]
    assert [path for path in paths if re.fullmatch(r"layers\.\d+", path)] == ["layers.0"]
    assert "4 alike, one is shown" in page.text
    assert "layers.0, layers.1, layers.2, layers.3" in page.text


def test_layouts_are_words_as_well_as_colours(sharded):
    page = seen(sharded.facts())
    cuts = [attrs["class"] for tag, attrs in page.elements if attrs.get("class", "").startswith("cut ")]
    assert {"cut dim0", "cut dim1", "cut whole"} <= set(cuts)
    assert "tp: Shard(0)" in page.text
    assert "tp: whole" in page.text
    assert "by layers.*.mlp.down_proj" in page.text


def test_nothing_is_loaded_from_elsewhere(sharded):
    page = seen(sharded.facts())
    loaded = [value for _, attrs in page.elements for key, value in attrs.items() if key in ("src", "href")]
    assert loaded == ["data:,"]
    assert "url(" not in page_text(sharded.facts(), title="A model")
    assert "import" not in re.search(r"<script>(.*)</script>", page_text(sharded.facts(), title=""), re.DOTALL)[1]


def test_names_are_text_and_nothing_else(sharded):
    page = seen(sharded.facts(), title="<b>bold</b> & 'quoted'")
    assert "<b>bold</b> & 'quoted'" in page.text
    assert sum(tag == "b" for tag, _ in page.elements) == 5  # the five numbers at the top


def test_a_program_without_collectives_or_weights():
    exported = torch.export.export(nn.ReLU(), (torch.randn(3, 4),))
    page = seen(sw.shard(exported, mesh=2).facts())
    assert "None: every rank computes by itself." in page.text


def test_what_runs_whole_and_how_good_the_search_was_are_said(sharded, monkeypatch):
    assert re.search(r"Operators that run whole on every rank\s+None\.", seen(sharded.facts()).text)
    assert "no other layouts that the plan allows cost less" in seen(sharded.facts()).text
    with monkeypatch.context() as patched:
        patched.setattr(sw.ShardedProgram, "gap", 0.0712)
        assert "within 7.1% of the best" in seen(sharded.facts()).text
    whole = sw.shard(torch.export.export(Drawing().eval(), (torch.randn(3, 4),)), mesh=2)
    (one,) = whole.fallbacks
    text = seen(whole.facts()).text
    assert one.op in text
    assert one.reason in text


def test_a_report_is_written_once(sharded, tmp_path):
    sharded.report(tmp_path / "report.html", title="Mine")
    assert "<title>Mine</title>" in (tmp_path / "report.html").read_text()
    with pytest.raises(sw.ShardwrightError, match=r"report\.html exists already"):
        sharded.report(tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_126_layers_are_a_small_page():
    with torch.device("meta"):
        model = Decoder(layers=126).eval()
    facts = sw.shard(torch.export.export(model, (IDS.to("meta"),)), mesh=2, plan=PLAN).facts()
    assert len(page_text(facts, title="Deep")) < 1_000_000


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `make test-browser` asks for one")
def test_a_browser_runs_its_filters_without_an_error(sharded, tmp_path):
    """Chromium prints the page after a script typed into the filter, cleared a box, focused every control, and asked
    for light and dark.
    """
    text = page_text(sharded.facts(), title="A model")
    typed = """
    <script>
    const errors = []; window.addEventListener("error", event => errors.push(event.message));
    search.value = "layers.1."; search.dispatchEvent(new Event("input"));
    const first = document.getElementById("shown").textContent;
    boxes.find(box => box.value === "all_reduce").click();
    const second = document.getElementById("shown").textContent;
    const all = [...document.querySelectorAll("summary, input, [tabindex='0']")];
    const missed = all.filter(one => {
      one.focus();
      return document.activeElement !== one && !one.parentElement.closest("details:not([open])");
    });
    const grounds = ["light", "dark"].map(scheme => {
      document.documentElement.style.colorScheme = scheme;
      return getComputedStyle(document.body).backgroundColor;
    });
    document.body.dataset.found = JSON.stringify([errors, first, second, missed.length, all.length > 20, ...grounds]);
    </script>"""
    (tmp_path / "page.html").write_text(text.replace("</body>", typed + "</body>"))
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    dump = subprocess.run(
        [*words, "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = Seen(dump.stdout).elements
    (body,) = [attrs for tag, attrs in found if tag == "body"]
    grounds = '"rgb(255, 255, 255)","rgb(21, 24, 27)"'
    assert body["data-found"] == f'[[],"2 shown","0 shown",0,true,{grounds}]'


def test_write_page_refuses_a_path_that_is_none(sharded):
    with pytest.raises(sw.ShardwrightError, match="the page"):
        write_page(sharded.facts(), 3, title="")
