"""A real browser: Chromium, driven over the WebDriver protocol on the loopback device."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.support.commands import DEADLINE_S
from tests.support.processes import wait_for

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--no-first-run",
)  # fmt: skip
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the driver is here


class Browser:
    """A window of Chromium; a context manager.

    Parameters
    ----------
    driver : str
        The program ``chromedriver``.
    home : Path
        Where it may write.
    dark, script : bool
        Whether dark colours are preferred, and whether scripts run.
    """

    def __init__(self, driver: str, home: Path, *, dark: bool = False, script: bool = True) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._home, self._dark, self._script = home, dark, script
        self._process = subprocess.Popen(
            [driver, "--port=0"], env={"HOME": str(home), "PATH": "/usr/bin:/bin", "TMPDIR": str(home)},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        ports = (re.search(r"successfully on port (\d+)", line) for line in self._process.stdout)
        self._url = f"http://127.0.0.1:{next(found[1] for found in ports if found)}/session"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise
        return self

    def _start(self) -> None:
        flags = [*FLAGS, f"--user-data-dir={self._home}/profile"]
        preferences = {} if self._script else {"profile.managed_default_content_settings.javascript": 2}
        answer = self._ask("POST", "", {"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": flags, "prefs": preferences},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}})  # fmt: skip
        self._url += f"/{answer['sessionId']}"
        colours = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[colours])
        self._ask("POST", "/url", {"url": "about:blank"})  # in place of the browser's own first page

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self._process.kill()
            self._process.communicate()

    def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Load a page in a window of that size, in CSS pixels; what was logged before is forgotten."""
        self.console()
        self.requests()
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._ask("POST", "/url", {"url": url})

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression of the page."""
        return self._ask("POST", "/execute/sync", {"script": f"return {script}", "args": []})

    def wait(self, script: str) -> None:
        """Wait until an expression of the page is true: events come when the browser gets to them."""
        wait_for(lambda: self.evaluate(script), script)

    def click(self, selector: str) -> None:
        """Click at an element, as a person would."""
        element = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"/element/{next(iter(element.values()))}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into a field."""
        element = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"/element/{next(iter(element.values()))}/value", {"text": text})

    def console(self) -> list[str]:
        """Return what the page complained of since the last call."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the last call."""
        entries = (
            json.loads(entry["message"])["message"] for entry in self._ask("POST", "/se/log", {"type": "performance"})
        )
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: Path, top: int = 0, height: int = 1000) -> None:
        """Write a picture of a part of the page."""
        clip = {"x": 0, "y": top, "width": self.evaluate("innerWidth"), "height": height, "scale": 1}
        found = self.command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def command(self, name: str, **arguments: Any) -> Any:
        """Send a command of Chromium's own protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": arguments})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._url + path, data, {"Content-Type": "application/json"}, method=method
        )  # fmt: skip
        with _OPENER.open(request, timeout=DEADLINE_S) as answer:
            return json.loads(answer.read())["value"]
