"""A clustering to review, and its page in a browser."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import uvicorn
from tests.results.conftest import COLOURS, flags_of, photograph, weights  # noqa: F401 - a fixture

from shoal.results.result import Result
from shoal.review.app import create_app
from shoal.review.desk import Desk

EVIL = '<img src=x onerror="window.broken = 1">'
"""Name of a photo; a name that is code."""

EACH = 15
TOKEN = "token-of-the-test"


@pytest.fixture(scope="session")
def clustered(tmp_path_factory, weights):  # noqa: F811
    """61 photos of four colours in four clusters, to be copied."""
    from shoal.cli.main import main

    folder = tmp_path_factory.mktemp("review")
    for colour in COLOURS:
        for seed in range(EACH):
            photograph(folder / "photos" / colour[0], colour, seed)
    shutil.copy(folder / "photos/r/red-0.png", folder / "photos" / f"{EVIL}.png")
    command = ["cluster", str(folder / "photos"), "-k", "4", "--out", str(folder / "clusters"), "--quiet"]
    assert main([*command, *flags_of(weights)]) == 0
    return folder


@pytest.fixture
def reviewed(clustered, tmp_path):
    """A copy of the clusters, as if no one had decided anything."""
    shutil.copytree(clustered / "clusters", tmp_path / "clusters")
    replace(Result.load(tmp_path / "clusters"), source=str(clustered / "photos")).save()
    return tmp_path / "clusters"


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def address(reviewed):
    """The address of a review that runs in this process."""
    with reviewing(reviewed) as found:
        yield found


@contextlib.contextmanager
def reviewing(folder):
    """A review of a result that runs in this process, and its address."""
    port = free_port()
    result = Result.load(folder)
    with result.folder.alone():
        app = create_app(Desk(result), TOKEN, port)
        config = uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/?token={TOKEN}"
        finally:
            app.state.stopping.set()  # as ``serve`` does: pages hold streams open
            server.should_exit = True
            thread.join()


class Served:
    """``shoal review`` in a process of its own, always on the same port."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None

    def start(self):
        """Start, and return the address."""
        command = [sys.executable, "-m", "shoal", "review", str(self.folder), "--no-browser", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        address = self.process.stdout.readline().split()[1]
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return address
            threading.Event().wait(0.05)
        raise AssertionError("the server does not listen")

    def kill(self):
        """As ``kill -9`` does."""
        self.process.kill()
        self.process.communicate()

    def end(self):
        """As Ctrl-C does: it ends at once, also where a page is open, and complains of nothing."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            _, said = self.process.communicate(timeout=60)
            assert self.process.returncode == 0, said
            assert "Traceback" not in said, said
            assert said.strip() == "", said


@pytest.fixture
def serve(reviewed):
    """A command that can be killed and started again."""
    served = Served(reviewed)
    yield served
    served.end()


def answer_in_its_place(page, answers):
    """Answer as a server whose network has names and reads words: that takes weights, which other tests make."""

    def state(route):
        found = route.fetch().json()
        route.fulfill(json={**found, "has": {**found["has"], "names": True, "words": True}})

    page.route("**/api/state", state)

    def other(route):
        route.fulfill(json=answers[urlsplit(route.request.url).path.removeprefix("/api/")])

    for name in answers:
        page.route(re.compile(rf"/api/{name}\b"), other)


@pytest.fixture
def open_page(browser):
    """Open pages of an address; at the end no script has failed and nothing was asked of another host."""
    contexts, problems = [], []

    def opened(address, *, width=1440, height=900, beside=None, answers=None, **settings):
        if beside is None:
            contexts.append(browser.new_context(viewport={"width": width, "height": height}, **settings))
        page = (beside.context if beside else contexts[-1]).new_page()
        host = address.partition("/?")[0]
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if "violates" in message.text else None)
        page.on("request", lambda request: problems.append(request.url) if not request.url.startswith(host) else None)
        page.set_default_timeout(20_000)
        if answers:
            answer_in_its_place(page, answers)
        page.goto(address)
        page.wait_for_selector("main:not([aria-busy])")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def review(address, open_page):
    """Opens the page of a review; it is closed before the server is."""

    def opened(**settings):
        return open_page(address, **settings)

    return opened
