"""Reports in the system's Chromium: each test opens a real page, clicks, and leaves no error and no request behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from tests.report.examples import ROWS

from shoal.report import ReportData, write_report
from shoal.report.data import Copy
from shoal.types import Clustering, Images

ARTEFACTS = os.environ.get("SHOAL_ARTEFACTS")
"""Folder for screenshots; without it none are taken."""
N, K = 500, 12
EVIL = (
    "</script><script>window.broken = 1</script>.png",
    '"><img src=x onerror="window.broken = 1">',
    "line\u2028separator\nand break, with a comma.png",
    "caf\udce9 '; window.broken = 1; '.png",
    "<!--<script>",
)


def digits_data(**other):
    """500 digits in 12 clusters of scikit-learn's k-means."""
    digits = load_digits()
    features = torch.from_numpy(digits.data[:N]).float()
    means = KMeans(K, n_init=1, random_state=0).fit(features)
    centers = torch.from_numpy(means.cluster_centers_).float()
    nearest = torch.cdist(features, centers).sort(dim=1)
    pixels = torch.from_numpy(digits.images[:N] * 15.9).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    data = {
        "title": "digits",
        "command": "shoal train propos-digits",
        "config_yaml": "seed: 0\n",
        "metrics": ROWS,
        "images": Images(
            pixels=pixels,
            targets=torch.from_numpy(digits.target[:N]),
            clustered=torch.ones(N, dtype=torch.bool),
            classes=tuple("0123456789"),
            ids=[f"scans/digit-{i:03}.png" for i in range(N)],
            skipped={"broken.png": "not an image"},
        ),
        "features": features,
        "clustering": Clustering(nearest.indices[:, 0].contiguous(), centers, nearest.values[:, 0].contiguous()),
        "confidences": (-nearest.values / 10).softmax(dim=1).amax(dim=1),
        "positions": torch.from_numpy(PCA(2, random_state=0).fit_transform(digits.data[:N])).float(),
        "map_method": "principal components",
        "seed": 0,
        "sizes": nearest.indices[:, 0].bincount(minlength=K),
        "n_images": N,
        "duplicates": [
            [
                Copy("scans/digit-001.png", "near", True, "640 × 480"),
                Copy("scans/digit-002.png", "exact", False, "320 × 240"),
                Copy("not/shown.png", "link", False),
            ]
        ]
        * 14,
        "outliers": ["scans/digit-003.png", "not/shown.png"],
    }
    return ReportData(**(data | other))


def evil_data():
    """Names that are code, in every place a name goes to."""
    data = digits_data()
    images = data.images
    ids = [f"{EVIL[i % 5]}{i}" for i in range(N)]
    hostile = Images(images.pixels, images.targets, images.clustered, tuple(EVIL) * 2, ids, {EVIL[0]: EVIL[1]})
    return digits_data(
        title=EVIL[0],
        images=hostile,
        duplicates=[[Copy(name, "near", True, name) for name in names] for names in (ids[:2], EVIL)],
        outliers=list(EVIL),
    )


def sample_data():
    """Digits as a sample of a larger set, without labels, one cluster named."""
    data = digits_data()
    unlabelled = Images(data.images.pixels, torch.full((N,), -1), data.images.clustered, (), data.images.ids)
    return digits_data(
        images=unlabelled,
        metrics=(),
        names={3: "mostly threes"},
        config_yaml="",
        confidences=torch.linspace(0, 1, N),
        sizes=torch.arange(K) * 100 + 50,
        n_images=7200,
        duplicates=(),
        outliers=(),
    )


@pytest.fixture(scope="session")
def browser():
    """Chromium, as the system has it."""
    api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """Pages by name, each written once."""
    written, makers = {}, {"digits": digits_data, "evil": evil_data, "sample": sample_data}

    def path(name):
        if name not in written:
            written[name] = (makers[name](), tmp_path_factory.mktemp(name) / "report.html")
            write_report(*written[name])
        return written[name]

    return path


@pytest.fixture
def visit(browser, reports):
    """Open a report; at the end no script has failed and nothing was asked of the network."""
    contexts, problems = [], []

    def opened(name="digits", *, width=1440, height=900, fragment="", script="", **settings):
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **settings)
        contexts.append(context)
        page = context.new_page()
        if script:
            page.add_init_script(script)
        url = reports(name)[1].as_uri()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if not local(request.url, url) else None)
        page.goto(url + fragment)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def local(address, url):
    """The page itself, or a download that it makes."""
    return address.partition("#")[0] == url or address.startswith("blob:")


@pytest.fixture
def shoot():
    """Take a screenshot of the page, if they are wanted."""

    def shot(page, name):
        if ARTEFACTS:
            page.wait_for_timeout(250)
            page.screenshot(path=Path(ARTEFACTS) / f"{name}.png")

    return shot


@pytest.fixture(scope="session")
def members(reports):
    """The ids of a cluster of the digits, the most central first."""
    data = reports("digits")[0]
    order = data.clustering.distances.argsort().tolist()

    def ids(cluster):
        return [data.images.ids[i] for i in order if int(data.clustering.labels[i]) == cluster]

    return ids
