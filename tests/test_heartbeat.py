"""Signs of life, as another process finds them."""

from threading import Event

import pytest

from shoal import heartbeat


class Slow(dict):
    """A store in which a sign takes as long as ``beating`` has not been waited for."""

    def __init__(self):
        super().__init__()
        self.beating, self.may_end = Event(), Event()

    def set(self, name, value):
        if value != "left":
            self.beating.set()
            self.may_end.wait(5)
        self[name] = value

    def check(self, names):
        return {*names} <= self.keys()


def test_the_last_sign_is_that_of_leaving_though_a_beat_is_on_its_way(monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    place, threads = Slow(), []

    class Thread(heartbeat.Thread):
        def start(self):
            threads.append(self)
            super().start()

        def join(self, timeout=None):
            place.may_end.set()  # the beat ends while it is waited for
            super().join(timeout)

    monkeypatch.setattr(heartbeat, "Thread", Thread)
    with heartbeat.heard(place, "job/", 0, 1, pytest.fail):
        assert place.beating.wait(5)
    threads[0].join(5)
    assert place == {"job/alive 0": "left"}


def test_who_fails_does_not_leave(monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    place = Slow()
    place.may_end.set()

    def fail():
        with heartbeat.heard(place, "", 1, 2, pytest.fail):
            assert place.beating.wait(5)
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fail()
    assert place["alive 1"] != "left"
