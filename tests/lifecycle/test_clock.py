"""burst_lifecycle.clock: API time, whatever home's clock does."""

from __future__ import annotations

import attrs
import pytest

from burst_lifecycle.clock import ApiClock, Standing, standing

API = 1_800_000_000.0


@attrs.define
class World:
    """Home's two clocks, moved by hand."""

    wall_s: float = API + 86400.0
    steady_s: float = 500.0

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def clock(world: World) -> ApiClock:
    return ApiClock(wall=lambda: world.wall_s, steady=lambda: world.steady_s)


def test_unknown_until_an_answer(world: World, clock: ApiClock) -> None:
    """Then home's clock is all there is, and it is said."""
    assert clock.offset_s is None
    assert clock.now_s() == world.wall_s
    assert clock.standing is Standing.UNKNOWN


def test_an_own_action_tells(world: World, clock: ApiClock) -> None:
    """To a second and half a round trip; a day off is large."""
    clock.heard(API, 499.0, 500.0, own_action=True)
    assert clock.now_s() == API + 1.0
    assert clock.offset_s == 1.0 - 86400.0
    assert clock.standing is Standing.LARGE


@pytest.mark.parametrize("step_s", [-86400.0, 86400.0, 3.0])
def test_setting_homes_clock_moves_no_api_time(
    world: World, clock: ApiClock, step_s: float
) -> None:
    """And time that passes counts, suspend included, as the steady clock does."""
    clock.heard(API, 500.0, 500.0, own_action=True)
    world.passes(3600)
    world.wall_s += step_s
    assert clock.now_s() == API + 3600.5
    assert clock.offset_s == 3600.5 - 86400.0 - 3600.0 - step_s


def test_actions_are_stronger_than_dates(clock: ApiClock) -> None:
    """A Date may be that of a proxy: an hour long the action counts."""
    clock.heard(API + 1000, 500.0, 500.0, own_action=False)
    assert clock.now_s() == API + 1000.5
    clock.heard(API, 500.0, 500.0, own_action=True)
    assert clock.now_s() == API + 0.5
    clock.heard(API + 1000, 501.0, 501.0, own_action=False)
    assert clock.now_s() == API + 0.5
    clock.heard(API + 5000, 4200.0, 4200.0, own_action=False)
    assert clock.now_s() == API + 5000.5 - 3700


def test_a_slow_answer_does_not_replace_a_better_one(world: World, clock: ApiClock) -> None:
    """Unless the two contradict each other: then the newer is right."""
    clock.heard(API, 500.0, 500.0, own_action=True)
    clock.heard(API + 5, 500.0, 520.0, own_action=True)
    assert clock.now_s() == API + 0.5
    clock.heard(API + 900, 500.0, 520.0, own_action=True)
    assert clock.now_s() == pytest.approx(API + 900.5 - 10)


@pytest.mark.parametrize(
    ("offset_s", "expected"),
    [
        (None, Standing.UNKNOWN),
        (0.0, Standing.GOOD),
        (-300.0, Standing.GOOD),
        (300.5, Standing.LARGE),
        (-86400.0, Standing.LARGE),
    ],
)
def test_standing(offset_s: float | None, expected: Standing) -> None:
    """Five minutes either way."""
    assert standing(offset_s) is expected
