"""burst_wrapper.daemon.rest: how long a host that failed is left alone."""

from __future__ import annotations

from burst_protocol.errors import AuthenticationFailed, LinkLost, Unreachable
from burst_wrapper.daemon.rest import Rest

AWAY = Unreachable("connection refused", host="there")
LOST = LinkLost("nothing heard", host="there")


def pauses(rest: Rest, now_s: float, error: LinkLost | Unreachable, times: int) -> list[float]:
    """Of so many attempts, one after the other, each as soon as it may be."""
    found = []
    for _ in range(times):
        rest.failed(error, now_s)
        found.append(rest.until_s - now_s)
        now_s = rest.until_s
    return found


def test_one_that_was_never_reached_is_asked_seldom() -> None:
    """Builds go on at home anyway; nobody dials by himself."""
    rest = Rest()
    assert not rest.failed(AWAY, 0)
    assert pauses(rest, 20, AWAY, 6) == [40, 80, 160, 320, 600, 600]


def test_one_that_was_lost_is_dialled_again_soon() -> None:
    """For ten minutes, then as seldom as others."""
    rest = Rest()
    rest.reached(100)
    rest.lost(1000)
    assert rest.failed(LOST, 1000)
    assert pauses(rest, 1001, AWAY, 5) == [2, 4, 8, 16, 20]
    assert rest.failed(AWAY, 1599)
    assert not rest.failed(AWAY, 1601)
    assert rest.until_s >= 1621


def test_one_that_comes_and_goes_is_given_up_in_the_end() -> None:
    """Ready, and lost after a second, again and again: each costs whoever works there."""
    rest = Rest()
    now_s, times = 0.0, 0
    while True:
        rest.reached(now_s)
        rest.lost(now_s + 1)
        if not rest.failed(LOST, now_s + 1):
            break
        now_s, times = rest.until_s, times + 1
    assert 600 <= now_s < 700
    assert times < 40
    # A connection that lasts makes it good again.
    rest.reached(now_s)
    rest.lost(now_s + 61)
    assert rest.failed(LOST, now_s + 61)
    assert rest.until_s == now_s + 62


def test_what_does_not_pass_by_itself_is_not_dialled() -> None:
    """A login that is refused again and again gets a machine banned."""
    rest = Rest()
    rest.reached(0)
    rest.lost(100)
    assert not rest.failed(AuthenticationFailed("no key", host="there"), 100)
    assert rest.until_s == 120
