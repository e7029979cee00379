"""A JupyterLab to drive, and waiting for what a page shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path


class Jupyter:
    def __init__(self, root: Path):
        self.root = root

    def __enter__(self) -> Jupyter:
        home = self.root / ".home"
        env = {name: value for name, value in os.environ.items() if name != "NBHELPERS_BATCH"}
        env |= {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
        env |= {
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        }
        env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        # No question about news over what the test looks at, and cells that stay in the page when they are out of
        # sight.
        for name, setting in (
            ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
            ("notebook-extension/tracker", {"windowingMode": "none"}),
        ):
            file = home / f"settings/@jupyterlab/{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(setting))
        self._log = open(home / "log", "w+")  # noqa: SIM115
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root"]
        command += [f"--ServerApp.root_dir={self.root}", "--LabApp.expose_app_in_browser=True"]
        self._process = subprocess.Popen(command, env=env, stdout=self._log, stderr=subprocess.STDOUT)
        self._url, self._token = self._wait_for_address()
        return self

    def _wait_for_address(self) -> tuple[str, str]:
        for _ in range(600):
            text = Path(self._log.name).read_text()
            if found := re.search(r"(http://127\.0\.0\.1:\d+)/lab\?token=(\w+)", text):
                return found[1], found[2]
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start: {text[-600:]}")

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def notebook(self, name: str, *cells: str) -> None:
        """Writes a notebook of code cells into the served folder."""
        made = [
            {
                "cell_type": "code",
                "id": f"cell{place}",
                "metadata": {},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
            for place, source in enumerate(cells)
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        (self.root / name).write_text(
            json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
        )

    def open(self, browser, name: str) -> None:
        """Opens the notebook and waits until its kernel is ready."""
        browser.get(f"{self._url}/lab/tree/{name}?token={self._token}&reset")
        ready = "return window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        wait_for(browser, ready, 90)

    def run_all(self, browser) -> None:
        """Starts Run All; the test waits for what it wants to see."""
        browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")

    def restart_and_run_all(self, browser) -> None:
        """Kernel > Restart and Run All, with its question answered."""
        browser.execute_script("window.jupyterapp.commands.execute('notebook:restart-run-all')")
        wait_for(browser, "return document.querySelector('.jp-Dialog .jp-mod-accept')").click()

    def theme(self, browser, name: str) -> None:
        """Changes the theme and waits for its style sheet."""
        browser.execute_script(
            "window.jupyterapp.commands.execute('apputils:change-theme', {theme: arguments[0]})", name
        )
        wait_for(browser, f"return document.body.dataset.jpThemeName === {name!r}")


def wait_for(browser, script: str, seconds: float = 60):
    """What the script returns, once that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = browser.execute_script(script)
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"still not true after {seconds:.0f} s: {script}")
