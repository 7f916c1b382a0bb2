"""The report of a Llama of 126 layers (405B's shapes), and what a browser takes to open it: ``make bench-page``.

The page is opened in a new headless Chromium, several times, in a window as of a laptop. *Seconds* are the page's own
clock, from the start of the navigation until it is loaded and laid out; *processor* is that of the browser's processes,
its own start and end included.
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
from datetime import datetime
from html import unescape
from pathlib import Path

import torch
from rich.console import Console
from tests.support.models import MEGATRON

import shardwright as sw
from benchmarks.shard_llama import llama_405b
from shardwright.page.page import page_text
from shardwright.report.tables import Table

RANKS = 8
PLAN = {**MEGATRON, "embed": "embedding_rowwise", "lm_head": "colwise_rep"}
CLOCK = """<script>
addEventListener("load", () => {
  const height = document.body.getBoundingClientRect().height;  // laid out
  document.body.dataset.opened = JSON.stringify([performance.now(), document.querySelectorAll("*").length, height]);
});
</script></body>"""


def opened(chromium, page):
    """Milliseconds until the page is shown, its elements, and processor seconds, of a browser of its own."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1440,900", f"--user-data-dir={folder}"]
        dump = subprocess.run(
            [chromium, *words, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(r'data-opened="([^"]*)"', dump.stdout)
    assert found, dump.stderr
    ms, elements, _ = json.loads(unescape(found[1]))
    return ms, elements, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(name, exported, plan, chromium, asked):
    sharded = sw.shard(exported, mesh=RANKS, plan=plan)
    text = page_text(sharded.facts(), title=f"A Llama of {asked.layers} layers")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(text.replace("</body>", CLOCK))
        rounds = [opened(chromium, page) for _ in range(asked.rounds)]
    seconds = [ms / 1000 for ms, _, _ in rounds]
    return {
        "plan": name,
        "collectives": len(sharded.collectives),
        "elements": rounds[0][1],
        "page_mb": round(len(text.encode()) / 1e6, 3),
        "seconds": [round(one, 3) for one in seconds],
        "processor_s": [round(spent, 3) for _, _, spent in rounds],
    }


def shown(row):
    """A row of the table: the middle and the most of all rounds."""
    seconds, spent = row["seconds"], row["processor_s"]
    return {
        "plan": row["plan"],
        "collectives": row["collectives"],
        "elements": row["elements"],
        "page, MB": f"{row['page_mb']:.2f}",
        "seconds": f"{statistics.median(seconds):.2f}",
        "most": f"{max(seconds):.2f}",
        "processor": f"{statistics.median(spent):.2f}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=126)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/page.json"))
    asked = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise SystemExit("no Chromium here (Debian: apt install chromium)")
    model, ids = llama_405b(asked.layers)
    exported = torch.export.export(model, (ids,))
    facts = {
        "date": datetime.now().date().isoformat(),
        "browser": subprocess.run([chromium, "--version"], capture_output=True, text=True, check=True).stdout.strip(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "layers": asked.layers,
        "ranks": RANKS,
    }
    rows = [measured(name, exported, plan, chromium, asked) for name, plan in (("Megatron", PLAN), ("auto", "auto"))]
    asked.output.write_text(json.dumps({**facts, "reports": rows}, indent=1) + "\n", encoding="utf-8")
    lines = [shown(row) for row in rows]
    Table("Opening a report", tuple(lines[0]), [tuple(line.values()) for line in lines]).show(Console(width=120))


if __name__ == "__main__":
    main()
