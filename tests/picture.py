"""Takes the README's picture of the page: `python -m tests.picture deploy/pictures/page.png`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from model.phantom import make_phantom
from tests.browser import Browser
from tests.installed import program
from tests.running import Running, series_uid
from tests.servers import find_port
from worker.phantom import write_series


def main(file: Path) -> None:
    """Serve, push the demo's phantom, and take the case that is made of it."""
    with tempfile.TemporaryDirectory() as folder:
        service = Running(Path(folder) / "data", dicom_port=find_port(), http_port=find_port()).start()
        browser = Browser(program("chromedriver"), Path(folder))
        try:
            files = write_series(make_phantom().flair, Path(folder) / "series", patient_id="ANON-0042")
            service.push(files)
            case = service.wait_until(series_uid(files), "done")
            browser.open(f"{service.ports['http']}#case/{case['id']}")
            browser.find("#verdict")
            browser.until(lambda: browser.run("return document.querySelector('figure img').naturalWidth"))
            browser.picture(file)
            Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)
        finally:
            browser.stop()
            service.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
