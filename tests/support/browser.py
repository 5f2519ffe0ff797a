"""Headless Chromium: a page is loaded for real, and what it did is told."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from tests.support.tools import require_tool, run

CONTROL = "http://127.0.0.1:9999/control.png"
"""Nobody listens there: the one thing that a measuring page asks the network for."""

MEASURE = """<!DOCTYPE html><meta charset="utf-8"><title>measure</title>
<style>iframe { border: 0; height: 600px; display: block }</style>
%s
<img src="http://127.0.0.1:9999/control.png" alt="">
<pre id="out"></pre>
<script>
console.error("control: this is seen");
addEventListener("load", () => {
  const told = [...document.querySelectorAll("iframe")].map((frame) => {
    const inside = frame.contentDocument, view = frame.contentWindow;
    const wide = [...inside.querySelectorAll("body *")].filter((one) =>
      !one.closest(".scroll") && one.getBoundingClientRect().right > frame.clientWidth + 0.5);
    return {
      width: frame.clientWidth,
      scrolls: inside.documentElement.scrollWidth,
      wide: wide.map((one) => one.outerHTML.slice(0, 120)),
      background: view.getComputedStyle(inside.body).backgroundColor,
      scripts: inside.scripts.length,
      pictures: [...inside.images].map((one) => one.naturalWidth),
      title: inside.title,
    };
  });
  document.getElementById("out").textContent = JSON.stringify(told);
});
</script>
"""
"""Shows pages in frames of given widths, and tells how they came out."""


@dataclass(frozen=True)
class Visit:
    """What a browser made of pages."""

    frames: list[dict[str, Any]]
    console: list[str]
    requests: set[str]
    """Addresses that the network was asked for; files and ``data:`` are no such thing."""


def measure(folder: Path, pages: list[Path], widths: tuple[int, ...], *, dark: bool) -> Visit:
    """Load each page in a frame of each width."""
    frames = [
        f'<iframe src="{page.as_uri()}" width="{width}"></iframe>'
        for page in pages
        for width in widths
    ]
    wrapper = folder / "measure.html"
    wrapper.write_text(MEASURE % "\n".join(frames))
    log = folder / "net.json"
    done = _chromium(
        folder, wrapper, "--dump-dom", "--allow-file-access-from-files", f"--log-net-log={log}",
        dark=dark,
    )  # fmt: skip
    out = re.search(r'<pre id="out">(.*?)</pre>', done[0], re.S)
    assert out is not None, done[0][:2000]
    console = [line for line in done[1].splitlines() if "CONSOLE" in line]
    return Visit(json.loads(unescape(out[1])), console, _requests(log))


def screenshot(folder: Path, page: Path, size: tuple[int, int], *, dark: bool = False) -> Path:
    """A picture of the page in a window of that size."""
    picture = folder / f"{page.stem}-{size[0]}-{'dark' if dark else 'light'}.png"
    window = "--window-size={},{}".format(*size)
    _chromium(folder, page, "--hide-scrollbars", window, f"--screenshot={picture}", dark=dark)
    return picture


def _chromium(folder: Path, page: Path, *more: str, dark: bool) -> tuple[str, str]:
    argv = [
        require_tool("chromium-headless-shell"),
        # Its own sandbox does not work for root; what it is given here is our own page.
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
        *("--disable-gpu", "--disable-dev-shm-usage"),
        *("--enable-logging=stderr", "--log-level=0"),
        f"--user-data-dir={folder / 'profile'}",
        # 0 is dark, 1 is light.
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *more,
        page.as_uri(),
    ]
    done = run(argv, timeout_s=120, cwd=folder)
    return done.stdout.decode(), done.stderr.decode(errors="replace")


def _requests(log: Path) -> set[str]:
    events = json.loads(log.read_text())["events"]
    found = (event.get("params", {}).get("url", "") for event in events)
    return {url for url in found if url and not url.startswith(("data:", "file:"))}
