"""Chromium, for tests of pages; they are skipped where it or playwright is missing.

With ``TITLESMITH_BROWSER=required``, as in CI, they fail instead.
"""

import os
import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium():
    """A browser: that of ``TITLESMITH_CHROMIUM``, the one that the system has, or the one that playwright installed."""
    absent = pytest.fail if os.environ.get("TITLESMITH_BROWSER") == "required" else pytest.skip
    if not find_spec("playwright"):
        absent("needs playwright")
    from playwright.sync_api import sync_playwright

    path = os.environ.get("TITLESMITH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        path = path or playwright.chromium.executable_path
        if not Path(path).exists():
            absent("needs Chromium (set TITLESMITH_CHROMIUM)")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def axe() -> str:
    """axe-core's script (``npm pack axe-core``); the test is skipped where ``TITLESMITH_AXE`` does not name it."""
    if not (path := os.environ.get("TITLESMITH_AXE")):
        pytest.skip("needs axe-core (set TITLESMITH_AXE to its axe.min.js)")
    return Path(path).read_text("utf-8")


def faults(page, script: str) -> list[str]:
    """What axe finds serious or critical on a page: the rule and where."""
    page.evaluate(script)  # a page from a folder takes no script from elsewhere
    found = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{fault['id']}: {node['target']} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
