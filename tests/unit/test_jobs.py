"""burst_wrapper.jobs: donated tokens, on real pipes and fifos, against a model of cargo."""

from __future__ import annotations

import array
import fcntl
import os
import termios
from pathlib import Path

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from burst_wrapper.callers import Caller
from burst_wrapper.jobs import Jobserver, TokenPool, TokenPools, parse_jobserver, token_source

CARGO = Caller(4711, 99, {}, b"cargo")


def tokens_in(fd: int) -> int:
    """How many bytes lie in a pipe, without taking one."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


# Names of jobservers


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({b"MAKEFLAGS": b""}, None),
        ({b"MAKEFLAGS": b"-j -k"}, None),
        # cargo 1.95 writes both forms
        (
            {b"CARGO_MAKEFLAGS": b"-j --jobserver-fds=8,9 --jobserver-auth=8,9"},
            Jobserver(None, 8, 9),
        ),
        ({b"MAKEFLAGS": b" -j4 --jobserver-auth=3,4"}, Jobserver(None, 3, 4)),
        (
            {b"MAKEFLAGS": b"-j4 --jobserver-auth=fifo:/tmp/GMfifo123 -- X=1"},
            Jobserver(b"/tmp/GMfifo123", -1, -1),
        ),
        # the last one counts, as in make
        ({b"MFLAGS": b"--jobserver-auth=3,4 --jobserver-auth=5,6"}, Jobserver(None, 5, 6)),
        # make says so where a rule is not marked as recursive
        ({b"MAKEFLAGS": b"-j --jobserver-auth=-2,-2"}, None),
        (
            {b"CARGO_MAKEFLAGS": b"--jobserver-auth=1,2", b"MAKEFLAGS": b"--jobserver-auth=3,4"},
            Jobserver(None, 1, 2),
        ),
    ],
)
def test_how_a_jobserver_is_named(env: dict[bytes, bytes], expected: Jobserver | None) -> None:
    """Descriptors or a fifo, in cargo's variable before make's."""
    assert parse_jobserver(env) == expected


def test_where_a_wrapper_reads_its_token() -> None:
    """Digits of a descriptor, a path, or nothing."""
    assert token_source({b"CARGO_MAKEFLAGS": b"--jobserver-auth=8,9"}) == b"8"
    assert token_source({b"MAKEFLAGS": b"--jobserver-auth=fifo:/run/f"}) == b"/run/f"
    assert token_source({}) == b""


# Whose tokens


def pipe_env(read_fd: int, write_fd: int) -> dict[bytes, bytes]:
    return {b"CARGO_MAKEFLAGS": b"-j --jobserver-auth=%d,%d" % (read_fd, write_fd)}


def test_a_jobserver_inherited_from_make_is_left_alone() -> None:
    """make counts its tokens at the end; one too many is an error message."""
    read_fd, write_fd = os.pipe()
    env = pipe_env(read_fd, write_fd)
    pools = TokenPools()
    inherited = attrs.evolve(CARGO, environ={b"MAKEFLAGS": b"-j --jobserver-auth=3,4"})
    assert pools.enter(inherited, os.getpid(), env) is None
    assert pools.enter(attrs.evolve(CARGO, environ=None), os.getpid(), env) is None
    assert pools.enter(attrs.evolve(CARGO, name=b"make"), os.getpid(), env) is None
    assert pools.enter(CARGO, os.getpid(), {}) is None
    assert tokens_in(read_fd) == 0
    os.close(read_fd)
    os.close(write_fd)


def test_a_jobserver_that_is_gone_is_no_jobserver() -> None:
    """Closed descriptors, a removed fifo, a process that ended: no donation, no error."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    os.close(write_fd)
    pools = TokenPools()
    assert pools.enter(CARGO, os.getpid(), pipe_env(read_fd, write_fd)) is None
    assert pools.enter(CARGO, 2**22 + 1, pipe_env(0, 1)) is None
    gone = {b"MAKEFLAGS": b"--jobserver-auth=fifo:/nowhere/fifo"}
    assert pools.enter(CARGO, os.getpid(), gone) is None


def test_cargos_descriptors_stay_as_they_are() -> None:
    """Ours is non-blocking; cargo's, which its own threads read, still blocks."""
    read_fd, write_fd = os.pipe()
    pools = TokenPools()
    pool = pools.enter(CARGO, os.getpid(), pipe_env(read_fd, write_fd))
    assert pool is not None
    assert not os.get_blocking(pool.fd)
    assert os.get_blocking(read_fd)
    assert os.get_blocking(write_fd)
    assert not os.get_inheritable(pool.fd)
    pool.settle()  # nothing owed, nothing there: does not wait
    pools.leave(CARGO, pool)
    os.close(write_fd)
    assert os.read(read_fd, 1) == b""  # the pipe was let go with the last wrapper
    os.close(read_fd)


def test_a_full_pipe_takes_no_donation() -> None:
    """The unit goes on without; nothing is owed for it."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    while True:
        try:
            os.write(write_fd, bytes(4096))
        except BlockingIOError:
            break
    pool = TokenPool(os.open(f"/proc/self/fd/{read_fd}", os.O_RDWR | os.O_NONBLOCK))
    assert not pool.donate()
    assert (pool.donated, pool.debt) == (0, 0)
    pool.close()
    os.close(read_fd)
    os.close(write_fd)


def test_two_cargos_have_two_pools() -> None:
    """A pid that came again is another cargo; wrappers of one cargo share a pool."""
    read_fd, write_fd = os.pipe()
    env = pipe_env(read_fd, write_fd)
    pools = TokenPools()
    first = pools.enter(CARGO, os.getpid(), env)
    assert first is not None
    assert pools.enter(CARGO, os.getpid(), env) is first
    second = pools.enter(attrs.evolve(CARGO, start_ticks=100), os.getpid(), env)
    assert second is not None
    assert second is not first
    assert (first.users, second.users) == (2, 1)
    pools.leave(CARGO, first)
    pools.leave(CARGO, first)
    pools.leave(attrs.evolve(CARGO, start_ticks=100), second)
    os.close(read_fd)
    os.close(write_fd)


# Counting


@attrs.define(eq=False)
class Running:
    """A wrapper that cargo holds a token for."""

    pool: TokenPool | None = None
    donated: bool = False
    local: bool = False
    reads: bool = False
    """It waits for a token before it compiles here."""


class CargoAndDaemon(RuleBasedStateMachine):
    """cargo starts, daemon donates, units end or come home, cargo notices: in any order."""

    fifo: bytes | None = None

    def __init__(self) -> None:
        super().__init__()
        self.read_fd = self.write_fd = -1
        self.jobs = 1
        self.held = 1
        """Tokens cargo has: its own one, and those read for running units."""
        self.units: list[Running] = []
        self.ended = 0
        """Units whose end cargo has not noticed yet."""
        self.pools = TokenPools()

    @initialize(jobs=st.integers(1, 4))
    def cargo(self, jobs: int) -> None:
        self.jobs = jobs
        if self.fifo is None:
            self.read_fd, self.write_fd = os.pipe()
            self.env = pipe_env(self.read_fd, self.write_fd)
        else:
            self.read_fd = self.write_fd = os.open(self.fifo, os.O_RDWR)
            self.env = {b"CARGO_MAKEFLAGS": b"-j --jobserver-auth=fifo:" + self.fifo}
        os.set_blocking(self.read_fd, False)
        os.write(self.write_fd, b"|" * (jobs - 1))

    def take(self) -> bool:
        try:
            return os.read(self.read_fd, 1) != b""
        except BlockingIOError:
            return False

    @rule(remote=st.booleans())
    def start(self, remote: bool) -> None:
        """cargo starts a wrapper, if it has or gets a token."""
        if len(self.units) + self.ended >= self.held:
            if not self.take():
                return
            self.held += 1
        unit = Running(local=not remote)
        if remote:
            unit.pool = self.pools.enter(CARGO, os.getpid(), self.env)
            assert unit.pool is not None
            unit.donated = unit.pool.donate()
        self.units.append(unit)

    def leave(self, unit: Running) -> None:
        if unit.pool is not None:
            self.pools.leave(CARGO, unit.pool)
            unit.pool = None

    @precondition(lambda self: any(unit.pool for unit in self.units))
    @rule(data=st.data())
    def remote_ends(self, data: st.DataObject) -> None:
        """The answer came, or the wrapper was killed: the daemon sees no difference."""
        unit = data.draw(st.sampled_from([unit for unit in self.units if unit.pool]))
        if unit.donated:
            assert unit.pool is not None
            unit.pool.finished()
        self.leave(unit)
        self.units.remove(unit)
        self.ended += 1

    @precondition(lambda self: any(unit.pool for unit in self.units))
    @rule(data=st.data())
    def comes_home(self, data: st.DataObject) -> None:
        """The unit shall be compiled here after all."""
        unit = data.draw(st.sampled_from([unit for unit in self.units if unit.pool]))
        if unit.donated:
            assert unit.pool is not None
            unit.pool.reclaimed()
            unit.reads = True
        unit.local = not unit.reads
        self.leave(unit)

    @precondition(lambda self: any(unit.reads for unit in self.units))
    @rule(data=st.data())
    def wrapper_reads(self, data: st.DataObject) -> None:
        """It keeps what it reads: cargo returns the unit's own token."""
        unit = data.draw(st.sampled_from([unit for unit in self.units if unit.reads]))
        if self.take():
            unit.reads, unit.local = False, True

    @precondition(lambda self: any(unit.local for unit in self.units))
    @rule(data=st.data())
    def local_ends(self, data: st.DataObject) -> None:
        unit = data.draw(st.sampled_from([unit for unit in self.units if unit.local]))
        self.units.remove(unit)
        self.ended += 1

    @precondition(lambda self: self.ended)
    @rule()
    def cargo_notices(self) -> None:
        """Tokens beyond what runs go back into the pipe; the first one is cargo's own."""
        self.ended -= 1
        wanted = max(1, len(self.units) + self.ended)
        os.write(self.write_fd, b"|" * (self.held - wanted))
        self.held = wanted

    def debts(self) -> int:
        return sum(pool.debt for pool in self.pools._pools.values()) + sum(
            self.pools._debts.values()
        )

    @invariant()
    def tokens_are_accounted_for(self) -> None:
        """As many too many as are donated, owed, or about to be read by a wrapper."""
        if self.read_fd < 0:
            return
        donated = sum(unit.donated and unit.pool is not None for unit in self.units)
        reading = sum(unit.reads for unit in self.units)
        total = tokens_in(self.read_fd) + self.held
        assert total == self.jobs + donated + self.debts() + reading

    @invariant()
    def local_work_stays_within_jobs(self) -> None:
        """But for debts, which are paid as soon as a token lies there."""
        assert sum(unit.local for unit in self.units) <= self.jobs + self.debts()

    def teardown(self) -> None:
        """However it went: when all is over the count is what it was."""
        if self.read_fd < 0:
            return
        try:
            self.finish()
        finally:
            for fd in {self.read_fd, self.write_fd}:
                os.close(fd)

    def finish(self) -> None:
        while self.units or self.ended:
            for unit in list(self.units):
                if unit.reads and self.take():
                    unit.reads, unit.local = False, True
                if unit.reads:
                    continue
                if unit.donated and unit.pool is not None:
                    unit.pool.finished()
                self.leave(unit)
                self.units.remove(unit)
                self.ended += 1
            while self.ended:
                self.cargo_notices()
        last = self.pools.enter(CARGO, os.getpid(), self.env)
        assert last is not None
        last.settle()
        assert last.debt == 0
        assert tokens_in(self.read_fd) == self.jobs - 1
        self.pools.leave(CARGO, last)


BRIEFLY = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_the_count_is_right_in_every_order_with_a_pipe() -> None:
    """At every moment, and at the end."""
    run_state_machine_as_test(CargoAndDaemon, settings=BRIEFLY)


def test_the_count_is_right_in_every_order_with_a_fifo(tmp_path: Path) -> None:
    """The other form of a jobserver, opened by its path."""
    path = bytes(tmp_path / "fifo")
    os.mkfifo(path)

    class WithFifo(CargoAndDaemon):
        fifo: bytes | None = path

    run_state_machine_as_test(WithFifo, settings=BRIEFLY)


def test_a_debt_is_taken_over_by_the_next_remote_unit() -> None:
    """No second donation while the first is owed; it is owed again when that unit ends."""
    read_fd, write_fd = os.pipe()
    pools = TokenPools()
    pool = pools.enter(CARGO, os.getpid(), pipe_env(read_fd, write_fd))
    assert pool is not None
    assert pool.donate()
    os.read(read_fd, 1)  # cargo starts another unit with it
    pool.finished()
    pool.settle()
    assert (pool.donated, pool.debt) == (0, 1)
    assert pool.donate()
    assert (pool.donated, pool.debt) == (1, 0)
    assert tokens_in(read_fd) == 0
    pool.finished()
    os.write(write_fd, b"|")  # cargo returns one
    pool.settle()
    assert (pool.donated, pool.debt, tokens_in(read_fd)) == (0, 0, 0)
    pools.leave(CARGO, pool)
    os.close(read_fd)
    os.close(write_fd)
