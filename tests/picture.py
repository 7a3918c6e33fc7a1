"""Takes the README's picture of the page: `python -m tests.picture deploy/pictures/page.png`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

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
            for patient_id in ("WARM-UP", "ANON-0042"):  # the first case of a worker is slow
                files = write_series(make_phantom().flair, Path(folder) / patient_id, patient_id=patient_id, uid_seed=patient_id)
                service.push(files)
                case = service.wait_until(series_uid(files), "done")
            browser.open(f"{service.ports['http']}#case/{case['id']}")
            browser.find("#verdict")
            browser.until(lambda: browser.run("return document.querySelector('figure img').naturalWidth"))
            browser.picture(file)
        finally:
            browser.stop()
            service.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
