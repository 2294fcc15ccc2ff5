"""Where a build's wall time went: each moment is counted once."""

from burst_wrapper.daemon.spent import Spent


class Time:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_moment_is_remote_while_anything_is() -> None:
    """However many units run there at once; the rest is home's."""
    time = Time()
    spent = Spent(time)
    time.now += 3
    spent.away("a")
    time.now += 2
    spent.away("b")
    time.now += 5
    spent.over("a")
    time.now += 1
    spent.over("b")
    time.now += 4
    spent.over("never away")
    assert (spent.remote_s, spent.home_s) == (8.0, 7.0)


def test_ending_twice_changes_nothing() -> None:
    """A unit may end by an error and by its task's end."""
    time = Time()
    spent = Spent(time)
    spent.away("a")
    time.now += 1
    spent.over("a")
    spent.over("a")
    assert (spent.remote_s, spent.home_s) == (1.0, 0.0)
