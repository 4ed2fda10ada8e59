"""The server of a review: what it answers, and whom."""

import asyncio
import base64
import csv
import errno
import io
import json
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient
from tests.results.conftest import *  # noqa: F403 - the same photos and clusters

from shoal.cli.main import main
from shoal.errors import UserError
from shoal.results.result import Result
from shoal.review.app import Refused, _body, create_app
from shoal.review.desk import Desk
from shoal.review.guard import MOST_AT_ONCE
from shoal.review.serve import listening
from shoal.review.session import Session

BASE = "http://127.0.0.1:8377"
TOKEN = "secret-token"
PAGE = {"Origin": BASE, "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def desk(clusters):
    result = Result.load(clusters)
    with result.folder.alone():
        yield Desk(result)


@pytest.fixture
def session(desk):
    return desk.session


@pytest.fixture
def app(desk):
    return create_app(desk, TOKEN, 8377)


@pytest.fixture
def client(app):
    with TestClient(app, base_url=BASE) as client:
        assert client.get(f"/?token={TOKEN}").status_code == 200
        yield client


def post(client, path, body):
    """What the page sends, for the session that it shows."""
    return client.post(path, json=body, headers={**PAGE, "X-Shoal": client.get("/api/state").json()["key"]})


def decide(client, *decisions, key=None):
    key = key or base64.b64encode(os.urandom(12)).decode()
    return post(client, "/api/decide", {"key": key, "decisions": decisions})


def labels_of(client):
    return np.frombuffer(client.get("/api/column/label").content, "<i4")


# Who is answered


@pytest.mark.parametrize(
    "path", ["/", "/api/state", "/api/column/label", "/thumb/0", "/image/0", "/api/events", "/?token=wrong"]
)
def test_nobody_without_the_token_is_answered(app, path):
    answer = TestClient(app, base_url=BASE).get(path)
    assert answer.status_code == 403
    assert "token" in answer.json()["error"]


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_have(app):
    answer = TestClient(app, base_url=BASE, follow_redirects=False).get(f"/?token={TOKEN}")
    assert answer.headers["location"] == "/"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example:8377"},  # a name that was made to lead here
        {"Host": "127.0.0.1:1"},
    ],
)
def test_no_other_page_is_answered(client, headers):
    assert client.get("/api/state", headers=headers).status_code == 403
    assert client.post("/api/decide", json={}, headers={**PAGE, "X-Shoal": "key", **headers}).status_code == 403


def test_a_form_of_another_page_decides_nothing(client, clusters):
    assert client.post("/api/decide", content="key=12345678", headers={"Origin": BASE}).status_code == 403
    assert (clusters / "decisions.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "path",
    [
        "/image/../../../etc/passwd",
        "/image/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/image//etc/passwd",
        "/image/-1",
        "/image/32",
        "/image/99999999999999999999",
        "/thumb/red-0.png",
        "/clustering.safetensors",
        "/api/thumbs?rows=0,99",
        "/api/thumbs?rows=0;1",
        "/api/ids?rows=" + ",".join(["0"] * 2000),
        "/api/questions?n=100000",
        "/api/search?from=yesterday",
    ],
)
def test_nothing_but_the_images_is_served(client, path):
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"].endswith(".")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(client, method):
    assert client.request(method, "/api/state", headers=PAGE).status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"nonsense", b"[" * 100_000, b'{"key": "12345678"}', b'{"key": 1, "decisions": []}'),
        *(
            b'{"key": "12345678", "decisions": [{"do": "rename", "cluster": 0, "name": %s}]}' % name
            for name in (b"null", b"{}", b"5", b'"%s"' % (b"x" * 2000))
        ),
        b'{"key": "12345678", "decisions": [{"do": "answer", "image": 0, "new": null}]}',
    ],
)
def test_odd_bodies_are_refused(client, session, body):
    answer = client.post("/api/decide", content=body, headers={**PAGE, "X-Shoal": session.key})
    assert answer.status_code == 400
    assert "error" in answer.json()


@pytest.mark.parametrize(
    "decision",
    [
        {},
        {"do": "learn", "file": "x"},
        {"do": "gone", "images": []},
        {"do": "__init__"},
        {"do": "move", "images": [99], "cluster": 0},
        {"do": "move", "images": [True], "cluster": 0},
        {"do": "move", "images": ["red-0.png"], "cluster": 0},
        {"do": "move", "images": [0], "cluster": 77},
        {"do": "move", "images": 5, "cluster": 0},
        {"do": "rename", "cluster": -1, "name": "x"},
        {"do": "answer", "image": 0},
        {"do": "split", "cluster": 0, "parts": [[0], [55]]},
        "undo",
        None,
    ],
)
def test_what_is_no_decision_is_refused_and_not_kept(client, clusters, decision):
    assert decide(client, {"do": "rename", "cluster": 0, "name": "a"}, decision).status_code == 400
    assert (clusters / "decisions.jsonl").read_text() == ""


def test_a_flood_is_told_to_wait(app):
    guard = app.build_middleware_stack()
    while not hasattr(guard, "running"):
        guard = guard.app
    guard.running = MOST_AT_ONCE
    app.middleware_stack = guard
    client = TestClient(app, base_url=BASE, cookies={"shoal-8377": TOKEN})
    assert client.get("/api/state").status_code == 429
    guard.running = 0
    assert client.get("/api/state").status_code == 200


def test_answers_carry_the_headers_that_keep_other_pages_out(client):
    answer = client.get("/")
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "sandbox" in client.get("/image/0").headers["content-security-policy"]


# What is answered


def test_state_columns_and_names(client, session):
    state = client.get("/api/state").json()
    assert state["n"] == 32
    assert [each["size"] for each in state["clusters"]] == [8] * 4
    labels = labels_of(client)
    for cluster in state["clusters"]:
        assert {int(labels[row]) for row in cluster["central"]} == {cluster["number"]}
    assert client.get("/api/ids?rows=0,31").json() == [session.ids[0], session.ids[31]]
    place = np.frombuffer(client.get("/api/column/place").content, "<u2").reshape(-1, 2)
    assert place.min() == 0
    assert place.max() == 65534
    assert len(client.get("/api/column/date").content) == 4 * 32


def test_thumbnails_and_images_are_those_of_the_rows(client, session, tmp_path):
    body = client.get("/api/thumbs?rows=3,8").content
    size = int.from_bytes(body[:4], "little")
    with Image.open(io.BytesIO(body[4 : 4 + size])) as image:
        assert image.format == "WEBP"
    answer = client.get("/image/3")
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == (tmp_path / "photos" / session.ids[3]).read_bytes()


def test_an_image_that_has_changed_or_gone_is_not_shown(client, session, tmp_path):
    (tmp_path / "photos" / session.ids[3]).unlink()
    (tmp_path / "photos" / session.ids[4]).write_bytes(b"something else")
    assert client.get("/image/3").status_code == 404
    assert client.get("/image/4").status_code == 404
    assert client.get("/thumb/3").status_code == 200  # the report keeps it


def test_an_image_that_changes_during_the_review_is_not_shown_and_a_pipe_is_not_waited_for(client, session, tmp_path):
    assert client.get("/image/5").status_code == 200  # where the images are is known from here on
    photos = tmp_path / "photos"
    (photos / session.ids[3]).write_bytes((photos / session.ids[20]).read_bytes())
    (photos / session.ids[4]).unlink()
    os.mkfifo(photos / session.ids[4])
    (photos / session.ids[6]).unlink()
    (photos / session.ids[6]).symlink_to("/etc/passwd")
    assert [client.get(f"/image/{row}").status_code for row in (3, 4, 6)] == [404, 404, 404]
    assert client.get("/api/about/4").status_code == 200


def test_a_jpeg_of_more_pixels_than_pillow_opens_is_shown_reduced(client, session, monkeypatch):
    file = io.BytesIO()
    Image.new("CMYK", (640, 480), (200, 0, 0, 0)).save(file, "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    monkeypatch.setattr("shoal.review.facts.LARGEST_EDGE", 200)
    monkeypatch.setattr("shoal.review.facts.read_blob", lambda _blob: (file.getvalue(), b""))
    monkeypatch.setattr(session.facts, "_is_other", lambda *_: False)
    with Image.open(io.BytesIO(client.get("/image/3").content)) as image:
        assert image.size == (200, 150)


def test_features_are_reviewed_without_pictures(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", np.concatenate([rng.normal(c, 0.3, (20, 5)) for c in (0, 5)]).astype(np.float32))
    assert main(["cluster", str(tmp_path / "rows.npy"), "-k", "2", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    client = TestClient(create_app(Desk(Result.load(tmp_path / "out")), TOKEN, 8377), base_url=BASE)
    client.get(f"/?token={TOKEN}")
    assert client.get("/api/thumbs?rows=0,1").content == bytes(8)
    assert client.get("/api/state").json()["n"] == 40
    assert client.get("/thumb/0").status_code == 404


def test_tables_that_a_killed_review_left_behind_are_written_by_the_next_command(clusters):
    client = TestClient(create_app(Desk(Result.load(clusters)), TOKEN, 8377), base_url=BASE)
    client.get(f"/?token={TOKEN}")
    decide(client, {"do": "rename", "cluster": 0, "name": "renamed"})
    again = Session(Result.load(clusters))  # as after a kill
    assert "renamed" not in (clusters / "assignments.csv").read_text()
    again.decided_at = -100.0
    again.write_if_idle()
    assert "renamed" in (clusters / "assignments.csv").read_text()
    decide(client, {"do": "merge", "clusters": [1], "into": 0})
    assert main(["report", str(clusters)]) == 0
    with (clusters / "assignments.csv").open() as file:
        assert {row["cluster"] for row in csv.DictReader(file)} == {"0", "2", "3"}


def test_decisions_are_kept_and_told(client, clusters):
    labels = labels_of(client)
    first, second = (np.flatnonzero(labels == cluster).tolist() for cluster in (0, 1))
    answer = decide(
        client, {"do": "merge", "clusters": [1], "into": 0}, {"do": "rename", "cluster": 0, "name": "both"}
    ).json()
    assert answer["changed"] == {"rows": second, "labels": [0] * 8}
    assert answer["undoable"] == 1  # what was decided together is undone together
    assert next(each for each in answer["clusters"] if each["number"] == 0)["name"] == "both"
    answer = decide(client, {"do": "split", "cluster": 0, "parts": [first[:4], first[4:6]]}).json()
    assert answer["numbers"] == [4, 5]
    answer = decide(client, {"do": "answer", "image": second[0], "new": "odd"}).json()
    assert answer["numbers"] == [6]
    assert answer["answers"] == 1
    found = Result.load(clusters)
    assert found.names == {0: "both", 6: "odd"}
    assert (found.assignments.labels.numpy() == labels_of(client)).all()
    assert decide(client, {"do": "undo"}).json()["changed"] == {"rows": [second[0]], "labels": [0]}


def test_a_page_that_shows_another_layer_decides_nothing(client, clusters):
    body = {"key": "12345678", "decisions": [{"do": "rename", "cluster": 0, "name": "of another"}]}
    answer = client.post("/api/decide", json=body, headers={**PAGE, "X-Shoal": "key of a layer"})
    assert (answer.status_code, "another layer" in answer.json()["error"]) == (409, True)
    assert not Result.load(clusters).names
    assert post(client, "/api/layer", {"k": "2"}).status_code == 400
    answer = post(client, "/api/layer", {"k": 2})
    assert (answer.status_code, "has no layers" in answer.json()["error"]) == (400, True)


def test_a_call_that_is_repeated_is_done_once(client, clusters):
    for _ in range(2):
        assert decide(client, {"do": "new", "images": [0], "name": "x"}, key="the same key").json()["numbers"] == [4]
    assert len((clusters / "decisions.jsonl").read_text().splitlines()) == 1
    again = TestClient(
        create_app(Desk(Result.load(clusters)), TOKEN, 8377), base_url=BASE, cookies={"shoal-8377": TOKEN}
    )
    assert decide(again, {"do": "new", "images": [0], "name": "x"}, key="the same key").status_code == 200
    assert len((clusters / "decisions.jsonl").read_text().splitlines()) == 1


def test_two_windows_lose_nothing(client, clusters):
    """What each decides is kept whole, in some order."""

    def work(cluster):
        for row in range(8):
            assert decide(client, {"do": "move", "images": [row + 8 * cluster], "cluster": -1}).status_code == 200

    threads = [threading.Thread(target=work, args=(cluster,)) for cluster in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (labels_of(client) == -1).all()
    assert (Result.load(clusters).assignments.labels == -1).all()


def test_split_more_search_and_questions(client):
    labels = labels_of(client)
    parts = post(client, "/api/split", {"cluster": 0, "n": 3}).json()["parts"]
    assert sorted(row for part in parts for row in part["rows"]) == np.flatnonzero(labels == 0).tolist()
    more = post(client, "/api/more", {"rows": [0, 1], "n": 6}).json()
    assert {int(labels[row]) for row in more["rows"]} == {int(labels[0])}
    assert not {0, 1} & {*more["rows"]}
    rows = np.frombuffer(client.get("/api/search?text=RED-").content, "<i4")
    assert len(rows) == 8
    found = client.get("/api/questions?n=5").json()
    assert len({each["row"] for each in found}) == 5
    assert all(1 <= len(each["candidates"]) <= 5 for each in found)
    skipped = ",".join(str(each["row"]) for each in found)
    assert not {each["row"] for each in client.get(f"/api/questions?n=5&skipped={skipped}").json()} & {
        each["row"] for each in found
    }
    about = client.get("/api/about/0").json()
    assert about["cluster"] == labels[0]
    assert about["nearest"][0][0] == labels[0]
    assert len(about["neighbours"]) == 8


def test_a_network_that_knows_no_names_suggests_none(client):
    assert client.get("/api/names").json() == {}
    answer = client.get("/api/find?text=a red square")
    assert answer.status_code == 400
    assert "cannot be searched by text" in answer.json()["error"]


def test_learning_counts_once_it_is_accepted(client, clusters):
    assert post(client, "/api/learn", {}).status_code == 400  # nothing was said
    labels = labels_of(client)
    for row in range(0, 32, 4):
        decide(client, {"do": "answer", "image": row, "cluster": int(labels[row])})
    moved = int(np.flatnonzero(labels == labels[0])[-1])
    decide(client, {"do": "answer", "image": moved, "cluster": int(labels[-1])})
    proposal = post(client, "/api/learn", {}).json()
    assert proposal["n_changed"] == len(proposal["sample"])
    assert "learn" not in (clusters / "decisions.jsonl").read_text()
    assert post(client, "/api/accept", {"file": "../x"}).status_code == 400
    answer = post(client, "/api/accept", {"file": proposal["file"]})
    assert answer.status_code == 200
    assert labels_of(client)[moved] == labels[-1]
    assert (Result.load(clusters).assignments.labels.numpy() == labels_of(client)).all()
    decide(client, {"do": "undo"})
    assert json.loads((clusters / "decisions.jsonl").read_text().splitlines()[-1])["do"] == "undo"


def test_the_tables_follow_when_it_ends(client, session, clusters):
    decide(client, {"do": "rename", "cluster": 0, "name": "renamed"})
    session.close()
    assert "renamed" in (clusters / "assignments.csv").read_text()
    assert "renamed" in (clusters / "report.html").read_text()


def test_a_browser_that_asks_for_an_icon_sees_no_fault(client):
    assert client.get("/favicon.ico").status_code == 204


# The command


def test_a_port_in_use_is_named():
    with listening(None) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            listening(port)
    with pytest.raises(UserError, match="port 70000"):
        listening(70000)


def test_two_reviews_of_a_folder_are_refused(clusters, capsys):
    with Result.load(clusters).folder.alone():
        assert main(["review", str(clusters), "--no-browser"]) == 2
    assert "close its review" in capsys.readouterr().err


def test_a_read_only_folder_is_named(clusters, capsys, monkeypatch):
    opened = Path.open

    def refuse(path, mode="r", *args, **kwargs):  # root may write anywhere, so that a mode of the folder says nothing
        if path.parent == clusters and mode != "rb":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert main(["review", str(clusters), "--no-browser"]) == 2
    assert "cannot be written" in capsys.readouterr().err


SERVED = "from shoal.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_it_is_served_until_it_is_stopped_and_survives_a_kill(clusters):
    command = [sys.executable, "-c", SERVED, "review", str(clusters), "--no-browser"]

    def start():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        address = process.stdout.readline().split()[1]
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        for _ in range(100):
            try:
                opener.open(address).read()
                break
            except OSError:
                threading.Event().wait(0.1)
        return process, opener, address.partition("/?")[0]

    def rename(opener, base, name):
        body = json.dumps({"key": os.urandom(8).hex(), "decisions": [{"do": "rename", "cluster": 0, "name": name}]})
        shown = json.loads(opener.open(f"{base}/api/state").read())["key"]
        request = urllib.request.Request(f"{base}/api/decide", body.encode(), {"X-Shoal": shown})
        assert opener.open(request).status == 200

    process, opener, base = start()
    rename(opener, base, "first")
    process.kill()
    process.communicate()
    assert Result.load(clusters).names == {0: "first"}
    process, opener, base = start()
    rename(opener, base, "second")
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "assignments" in out
    assert "second" in (Path(clusters) / "assignments.csv").read_text()


def test_a_proposal_is_out_of_date_after_any_decision(client, session):
    labels = labels_of(client)
    for row in range(0, 8, 2):
        decide(client, {"do": "answer", "image": row, "cluster": int(labels[row])})
    file = session.learn()["file"]
    decide(client, {"do": "rename", "cluster": int(labels[0]), "name": "kept"})
    with pytest.raises(UserError, match="out of date: learn again"):
        session.accept(file)
    session.accept(session.learn()["file"])


def test_what_is_undone_is_as_before(client, session):
    before, confidence = client.get("/api/state").json(), session.confidence.clone()
    row, other = 0, 1
    decide(client, {"do": "move", "images": [row], "cluster": -1})
    assert session.confidence[row] == 0
    decide(client, {"do": "undo"})
    decide(client, {"do": "answer", "image": other, "cluster": int(labels_of(client)[other])})
    assert session.confidence[other] == 1
    decide(client, {"do": "undo"})
    assert session.confidence.equal(confidence)
    assert client.get("/api/state").json()["clusters"] == before["clusters"]


def test_an_undo_beside_other_decisions_is_refused(session):
    size = session.log.size
    with pytest.raises(UserError, match="an undo comes alone"):
        session.decide("one", [{"do": "rename", "cluster": 0, "name": "a"}, {"do": "undo"}])
    assert session.log.size == size


def test_the_report_follows_a_review_that_undoes_everything(clusters):
    for decision in ({"do": "rename", "cluster": 0, "name": "ZEBRAS"}, {"do": "undo"}):
        result = Result.load(clusters)
        with result.folder.alone():
            session = Session(result)
            session.decide(decision["do"], [decision])
            session.decided_at -= 60
            session.write_if_idle()
            session.close()
        assert ("ZEBRAS" in (clusters / "report.html").read_text()) == (decision["do"] == "rename")


def test_parts_that_another_window_has_changed_are_looked_at_again(client, session):
    labels = labels_of(client)
    first, other = (np.flatnonzero(labels == cluster).tolist() for cluster in (0, 1))
    parts = [part["rows"] for part in post(client, "/api/split", {"cluster": 0, "n": 2}).json()["parts"]]
    decide(client, {"do": "move", "images": [parts[1][0]], "cluster": 1})
    decide(client, {"do": "confirm", "images": [parts[0][0]]})
    before, fixed, size = labels_of(client), session.now.fixed.copy(), session.log.size
    answer = decide(client, {"do": "split", "cluster": 0, "parts": parts[1:]})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "cluster 0 has changed since: look at its parts again.",
    )
    assert (labels_of(client) == before).all()
    assert (session.now.fixed == fixed).all()
    assert session.log.size == size
    assert session.now.labels[other].tolist() == [1] * 8
    again = [part["rows"] for part in post(client, "/api/split", {"cluster": 0, "n": 2}).json()["parts"]]
    assert sorted(row for part in again for row in part) == sorted({*first} - {parts[1][0]})
    assert decide(client, {"do": "split", "cluster": 0, "parts": again[1:]}).json()["numbers"] == [4]
    assert np.flatnonzero(labels_of(client) == 4).tolist() == sorted(again[1])


def test_parts_of_a_cluster_that_was_merged_since_or_that_a_split_makes_itself(client, session):
    labels = labels_of(client)
    rows = np.flatnonzero(labels == 1).tolist()
    decide(client, {"do": "merge", "clusters": [1], "into": 0})
    size = session.log.size
    assert decide(client, {"do": "split", "cluster": 4, "parts": [rows[:3]]}).status_code == 400
    assert session.log.size == size
    assert decide(client, {"do": "split", "cluster": 1, "parts": [rows[:3]]}).json()["numbers"] == [4]


def test_the_confidence_of_an_image_that_is_no_longer_fixed_is_that_of_the_clusters(client, session):
    before = session.confidence.clone()
    decide(client, {"do": "move", "images": [0, 1], "cluster": -1})
    decide(client, {"do": "confirm", "images": [2]})
    assert session.confidence[:3].tolist() == [0, 0, 1]
    decide(client, {"do": "answer", "image": 0, "none_of": [0, 1]}, {"do": "answer", "image": 2, "none_of": [0, 1]})
    assert session.confidence[[0, 2]].equal(before[[0, 2]])
    assert session.confidence[1] == 0
    decide(client, {"do": "undo"})
    assert session.confidence[:3].tolist() == [0, 0, 1]
    decide(client, {"do": "undo"})
    decide(client, {"do": "undo"})
    assert session.confidence.equal(before)
    assert client.get("/api/about/2").json()["confidence"] == pytest.approx(float(before[2]), abs=1e-4)


def test_what_an_earlier_review_fixed_has_a_confidence_of_its_own_once_it_is_not(clusters):
    before = Result.load(clusters).assignments.confidence
    for decision in ({"do": "confirm", "images": [0]}, {"do": "answer", "image": 0, "none_of": [0, 1]}):
        session = Session(Result.load(clusters))
        session.decide(decision["do"], [decision])
        assert float(session.confidence[0]) == (1 if decision["do"] == "confirm" else pytest.approx(float(before[0])))
        session.close()


def test_the_images_that_stand_for_clusters_do_not_depend_on_questions(clusters):
    """A question reads the decisions again, but the distances are those of the tables."""

    def shown(ask):
        session = Session(Result.load(clusters))
        for row in (3, 11):
            session.decide(f"key {row}", [{"do": "move", "images": [row], "cluster": int(session.now.labels[-1])}])
            if ask:
                session.questions(3, [])
        session.decide("last", [{"do": "rename", "cluster": 0, "name": "a"}])
        session._shown.clear()
        found = [(each["number"], each["central"], each["doubtful"]) for each in session.state()["clusters"]]
        (clusters / "decisions.jsonl").unlink()
        return found

    assert shown(ask=True) == shown(ask=False)


def test_the_nearest_clusters_are_present_ones(client):
    labels = labels_of(client)
    rows = np.flatnonzero(labels == 0).tolist()

    def nearest(row):
        return [number for number, _ in client.get(f"/api/about/{row}").json()["nearest"]]

    assert sorted(nearest(rows[0])) == [0, 1, 2, 3]
    decide(client, {"do": "merge", "clusters": [0], "into": 1})
    assert sorted(nearest(rows[0])) == [1, 2, 3]
    decide(client, {"do": "split", "cluster": 1, "parts": [rows]})
    assert sorted(nearest(rows[0])) == [1, 2, 3, 4]
    assert nearest(rows[0])[0] == 4
    decide(client, {"do": "undo"})
    assert sorted(nearest(rows[0])) == [1, 2, 3]


def test_rows_in_double_precision_have_nearest_clusters(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", np.concatenate([rng.normal(c, 0.3, (20, 5)) for c in (1e6, 1e6 + 5)]))
    assert main(["cluster", str(tmp_path / "rows.npy"), "-k", "2", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    session = Session(Result.load(tmp_path / "out"))
    [[own, near], [_, far]] = session.about(3)["nearest"]
    assert own == session.now.labels[3]
    assert near < 2 < 9 < far


@pytest.mark.parametrize("stated", [True, False])
def test_dates_beyond_all_dates_are_unknown(client, session, monkeypatch, stated):
    """Minutes are counted in 32 bits, up to the year 6053."""
    if stated:
        date = "9999:12:31 23:59:59"
        monkeypatch.setattr("shoal.review.facts._stated_date", lambda blob: date if "red-0" in str(blob) else None)
    else:
        ages = 2**31 * 60 * 10**9
        monkeypatch.setattr("shoal.review.facts.stat_of", lambda blob: (1, ages if "red-0" in str(blob) else 0, 1))
    row = session.ids.index("red-0.png")
    dates = np.frombuffer(client.get("/api/column/date").content, "<i4")
    assert np.flatnonzero(dates == -(2**31)).tolist() == [row]
    assert client.get(f"/api/about/{row}").json()["date"] is None
    assert len(np.frombuffer(client.get("/api/search?from=1970-01-01").content, "<i4")) == 31


def test_a_request_that_breaks_off_is_refused():
    class Broken:
        async def stream(self):
            yield b'{"key": '
            raise ClientDisconnect

    with pytest.raises(Refused) as refused:
        asyncio.run(_body(Broken()))
    assert (refused.value.status, str(refused.value)) == (400, "the request broke off")
