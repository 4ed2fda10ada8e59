"""Decisions replayed, against a replay that does one image at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.decisions.log import DecisionLog, effective, translated
from shoal.decisions.replay import replay

IDS = [f"{i}.png" for i in range(12)]
BASE = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, -1])

images = st.lists(st.sampled_from(IDS), max_size=4)
old, new = st.integers(0, 2), st.integers(3, 6)
decisions = st.one_of(
    st.builds(lambda c, n: {"do": "rename", "cluster": c, "name": n}, old, st.sampled_from(["", "a", "b"])),
    st.builds(lambda c, i: {"do": "merge", "clusters": c, "into": i}, st.lists(old, max_size=2), old),
    st.builds(lambda c, n, i: {"do": "split", "cluster": c, "parts": [{"cluster": n, "images": i}]}, old, new, images),
    st.builds(lambda n, i: {"do": "new", "cluster": n, "images": i, "name": ""}, new, images),
    st.builds(lambda c, i: {"do": "move", "cluster": c, "images": i}, st.integers(-1, 2), images),
    st.builds(lambda i: {"do": "confirm", "images": i}, images),
    st.builds(lambda i, c: {"do": "answer", "image": i, "cluster": c}, st.sampled_from(IDS), st.integers(-1, 2)),
    st.builds(lambda i: {"do": "answer", "image": i, "none_of": [0, 1]}, st.sampled_from(IDS)),
    st.just({"do": "undo"}),
)


def one_at_a_time(steps):
    """Cluster of each image: merges move every image, and dead clusters are looked up."""
    kept = []
    for step in steps:
        if step["do"] != "undo":
            kept.append(step)
        elif kept:
            kept.pop()
    where, heir = dict(zip(IDS, BASE.tolist(), strict=True)), {}

    def alive(cluster):
        while cluster in heir:
            cluster = heir[cluster]
        return cluster

    for step in kept:
        for each in step.get("clusters", ()):
            dead, goal = alive(each), alive(step["into"])
            if dead != goal:
                heir[dead] = goal
                where = {image: goal if cluster == dead else cluster for image, cluster in where.items()}
        for images, cluster in placed(step):
            where |= dict.fromkeys(images, alive(cluster))
    return [where[image] for image in IDS]


def placed(step):
    """Images that a decision puts into a cluster."""
    if step["do"] == "split":
        return [(part["images"], part["cluster"]) for part in step["parts"]]
    if step["do"] in ("new", "move"):
        return [(step["images"], step["cluster"])]
    return [([step["image"]], step["cluster"])] if step["do"] == "answer" and "cluster" in step else []


def replayed(steps, ids=IDS):
    return replay(BASE, 3, {}, ids, effective(steps), lambda _name: pytest.fail("nothing was learned"))


@settings(max_examples=300, deadline=None)
@given(st.lists(decisions, max_size=12))
def test_a_replay_is_that_of_one_image_at_a_time(steps):
    assert replayed(steps).labels.tolist() == one_at_a_time(steps)


@settings(max_examples=100, deadline=None)
@given(st.lists(decisions, max_size=10), st.randoms(use_true_random=False))
def test_renamed_images_keep_what_was_decided(steps, random):
    names = [f"other {i}" for i in range(12)]
    random.shuffle(names)
    renamed = {"do": "renamed", "images": dict(zip(IDS, names, strict=True))}
    assert replayed([*steps, renamed], names).labels.tolist() == replayed(steps).labels.tolist()


def test_names_that_are_swapped_and_images_that_are_gone():
    steps = [
        {"do": "move", "images": ["0.png", "1.png", "4.png"], "cluster": 2},
        {"do": "gone", "images": ["4.png"]},
        {"do": "renamed", "images": {"0.png": "1.png", "1.png": "x.png", "5.png": "4.png"}},
        {"do": "move", "images": ["x.png"], "cluster": -1},
    ]
    found = translated(steps)
    assert found[0]["images"] == ["1.png", "x.png"]
    assert found[1]["images"] == ["x.png"]


def test_what_was_taken_together_is_undone_together(tmp_path):
    log = DecisionLog(tmp_path / "decisions.jsonl")
    log.append([{"do": "rename", "cluster": 0, "name": "a"}])
    log.append([{"do": "rename", "cluster": 1, "name": "b"}, {"do": "rename", "cluster": 2, "name": "c"}])
    log.append([{"do": "gone", "images": []}])
    log.append([{"do": "undo"}])
    assert [each["do"] for each in effective(log.read()[0])] == ["rename", "gone"]
    assert replayed(log.read()[0]).names == {0: "a"}
    assert replayed(log.read()[0]).n_decisions == 1


def test_parts_are_those_that_a_made_cluster_mostly_comes_from():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 3, 1000)
    ids = [f"{i}" for i in range(1000)]
    of_first, stray = np.flatnonzero(base == 0)[:50], np.flatnonzero(base == 1)[:2]
    step = {"do": "new", "cluster": 3, "images": [ids[i] for i in (*of_first, *stray)], "name": ""}
    now = replay(base, 3, {}, ids, [step], None)
    assert now.parts() == {0: [0, 3]}
    everything = {"do": "new", "cluster": 3, "images": [ids[i] for i in np.flatnonzero(base == 0)], "name": ""}
    assert replay(base, 3, {}, ids, [everything], None).parts() == {0: [3]}


def test_a_cluster_outlives_the_image_whose_answer_made_it():
    answer = {"do": "answer", "image": "0.png", "cluster": 3, "name": "cats"}
    later = [{"do": "move", "images": ["1.png"], "cluster": 3}, {"do": "merge", "clusters": [1], "into": 3}]
    found = replayed([answer, *later, {"do": "gone", "images": ["0.png"]}], ["-", *IDS[1:]])
    assert found.labels.tolist() == [0, 3, 0, 0, 3, 3, 3, 3, 2, 2, 2, -1]
    assert found.names == {3: "cats"}
    none = [{"do": "answer", "image": "0.png", "none_of": [1]}, {"do": "gone", "images": ["0.png"]}]
    assert translated(none) == []


def test_a_made_cluster_without_images_is_none_also_once_it_was_learnt():
    steps = [
        {"do": "answer", "image": "0.png", "cluster": 3, "name": "cats"},
        {"do": "learn", "file": "learned-1.safetensors"},
        {"do": "move", "images": ["0.png"], "cluster": 1},
    ]
    learnt = np.where(np.arange(12) == 0, 3, BASE)
    assert replay(BASE, 3, {}, IDS, steps[:2], lambda _name: (learnt, range(4))).clusters == [0, 1, 2, 3]
    assert replay(BASE, 3, {}, IDS, steps, lambda _name: (learnt, range(4))).clusters == [0, 1, 2]


def test_half_a_character_in_a_name_is_escaped():
    steps = [
        {"do": "rename", "cluster": 0, "name": " \ud800 a"},
        {"do": "new", "cluster": 3, "images": ["0.png"], "name": "\udfff"},
        {"do": "answer", "image": "1.png", "cluster": 4, "name": "b\ud800"},
    ]
    assert replayed(steps).names == {0: r"\ud800 a", 3: r"\udfff", 4: r"b\ud800"}
