"""A real Chromium, by WebDriver (W3C): what a person sees and does on a page."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from tests.servers import find_port

ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"
KEYS: Final = {"enter": "\ue007", "tab": "\ue004", "escape": "\ue00c"}
VISIBLE: Final = "const seen = [...document.querySelectorAll(arguments[0])].filter(one => one.checkVisibility());"
ARGUMENTS: Final = ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900", "--lang=en-GB")


class Browser:
    """One window. What is looked for is waited for, up to `limit_s`."""

    def __init__(self, driver: str, folder: Path, limit_s: float = 30.0) -> None:
        self.limit_s = limit_s
        self.downloads = folder / "downloads"
        port = find_port()
        with (folder / "chromedriver.log").open("wb") as log:
            self._process = subprocess.Popen([driver, f"--port={port}"], stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(folder)})
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        try:
            self.until(self._answers)
            unboxed = ["--no-sandbox"] if os.geteuid() == 0 else []
            options = {"args": [*ARGUMENTS, *unboxed], "prefs": {"download.default_directory": str(self.downloads)}}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            self._session = "/session/" + self._call("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Close the window and end the driver."""
        try:
            if hasattr(self, "_session"):
                self._client.delete(self._session)
        finally:
            self._client.close()
            self._process.terminate()
            self._process.wait(20)

    def until(self, holds: Callable[[], Any]) -> Any:
        """Wait until it is true, and give what it is."""
        deadline = time.monotonic() + self.limit_s
        while not (found := holds()):
            assert time.monotonic() < deadline, f"not within {self.limit_s} s; the page says: {self._words()}"
            time.sleep(0.02)
        return found

    def open(self, address: str) -> None:
        """Go to a page that has nothing of an earlier one."""
        self._do("url", {"url": "about:blank"})
        self._do("url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script's body in the page and give what it returns."""
        return self._do("execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Give a command of the Chrome DevTools Protocol."""
        return self._do("goog/cdp/execute", {"cmd": command, "params": parameters})

    def find(self, selector: str, words: str = "") -> str:
        """Wait for an element that is visible and holds the words; gives its reference."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].find(one => one.checkVisibility() && one.innerText.includes(arguments[1]))"
        )
        found: str = self.until(lambda: self.run(script, selector, words))[ELEMENT]
        return found

    def sees(self, selector: str) -> list[str]:
        """The words of every visible element of that kind, now."""
        found: list[str] = self.run(f"{VISIBLE} return seen.map(one => one.innerText)", selector)
        return found

    def click(self, selector: str, words: str = "") -> None:
        """Click as a person does: what lies under something else is an error."""
        self._do(f"element/{self.find(selector, words)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into a field that is emptied first; the paths of files into one that takes files."""
        field = self.find(selector)
        if self.run("return document.querySelector(arguments[0]).type", selector) != "file":
            self._do(f"element/{field}/clear", {})
        self._do(f"element/{field}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._do("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def drop(self, selector: str, paths: Sequence[Path]) -> None:
        """Drop files or folders, as from a file manager."""
        self.find(selector)
        script = f"{VISIBLE} seen[0].scrollIntoView({{block: 'center'}}); const at = seen[0].getBoundingClientRect();"
        x, y = self.run(f"{script} return [at.x + at.width / 2, at.y + at.height / 2]", selector)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.devtools("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def picture(self, file: Path) -> None:
        """Write the whole page as PNG."""
        shown = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shown["data"]))

    def complaints(self) -> list[str]:
        """What the browser complained of since it was asked last: scripts that failed, breaches of the content security policy."""
        return [entry["message"] for entry in self._do("se/log", {"type": "browser"}) if entry["source"] != "network"]

    def _answers(self) -> bool:
        try:
            return bool(self._client.get("/status").json()["value"]["ready"])
        except httpx.TransportError:
            return False

    def _words(self) -> str:
        return str(self.run("return document.body.innerText")) if hasattr(self, "_session") else ""

    def _do(self, what: str, body: dict[str, Any]) -> Any:
        return self._call(f"{self._session}/{what}", body)

    def _call(self, address: str, body: dict[str, Any]) -> Any:
        answer = self._client.post(address, json=body)
        value = answer.json()["value"]
        assert answer.status_code == 200, f"{value['error']}: {value['message'].splitlines()[0]}"
        return value
