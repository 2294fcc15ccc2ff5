"""The launchers keep one contract. Each test runs over every launcher that works here."""

from __future__ import annotations

import asyncio
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs
import pytest

from burst_agent.mounts import Mount
from burst_agent.sandbox import (
    BubblewrapLauncher,
    Launcher,
    Limits,
    NativeLauncher,
    Outcome,
    PlainLauncher,
    SandboxSpec,
    choose_launcher,
)
from burst_protocol.errors import SandboxUnavailable
from burst_wrapper.native_build import build_native

PATIENCE_S = 60
NOBODY = 65534
SYSTEM = (b"/usr", b"/bin", b"/sbin", b"/lib", b"/lib64", b"/etc/alternatives")


def system() -> tuple[Mount, ...]:
    """This machine's own programs, for tests that are not about the platform."""
    return tuple(
        Mount.symlink(os.readlink(path), path) if os.path.islink(path) else Mount.read(path, path)
        for path in SYSTEM
        if os.path.lexists(path)
    )


@pytest.fixture(scope="session")
def helper(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The built burst-sandbox, where any user may execute it."""
    cc = shutil.which("cc")
    tools = build_native(None if cc is None else os.fsencode(cc), tmp_path_factory.mktemp("native"))
    if tools.sandbox is None:
        pytest.skip(tools.reason)
    return os.fsencode(tools.sandbox)


@pytest.fixture(params=["native", "bubblewrap", "plain", "plain-without-helper"])
def launcher(request: pytest.FixtureRequest, helper: bytes) -> Launcher:
    """Each launcher in turn; those that do not work on this machine are skipped."""
    chosen: Launcher
    match request.param:
        case "native":
            chosen = NativeLauncher(helper)
        case "bubblewrap":
            chosen = BubblewrapLauncher()
        case "plain":
            chosen = PlainLauncher(helper)
        case _:
            chosen = PlainLauncher()
    reason = asyncio.run(chosen.probe())
    if reason is not None:
        pytest.skip(reason)
    return chosen


@pytest.fixture
def sandbox(launcher: Launcher) -> Launcher:
    """Only launchers that isolate."""
    if not launcher.isolates:
        pytest.skip("does not isolate")
    return launcher


@attrs.frozen
class Ran:
    outcome: Outcome
    stdout: bytes
    stderr: bytes


def run(launcher: Launcher, spec: SandboxSpec, user: int | None = None) -> Ran:
    """Runs to the end and gives everything back."""

    async def go() -> Ran:
        with launcher.prepare(spec) as launch:
            process = await asyncio.create_subprocess_exec(
                *launch.argv,
                env=dict(launch.env),
                cwd=launch.cwd,
                pass_fds=launch.pass_fds,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else (),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(PATIENCE_S):
                out, err = await process.communicate()
            return Ran(launch.outcome(process.returncode or 0), out, err)

    return asyncio.run(go())


def shell(
    script: str, *mounts: Mount, cwd: bytes = b"/", limits: Limits | None = None
) -> SandboxSpec:
    """A script of /bin/sh with this machine's programs at hand."""
    return SandboxSpec(
        mounts=(*system(), *mounts),
        argv=(b"/bin/sh", b"-c", script.encode()),
        env=((b"PATH", b"/usr/bin:/bin"),),
        cwd=cwd,
        limits=limits or Limits(),
    )


# ---- results --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 101, 127])
def test_exit_codes_come_through(launcher: Launcher, code: int) -> None:
    """rustc's 0, 1 and 101 and whatever else."""
    ran = run(launcher, shell(f"echo out; echo err >&2; exit {code}"))
    assert (ran.outcome.exit_code, ran.outcome.signal) == (code, None)
    assert (ran.stdout, ran.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_death_by_signal_is_told_from_an_exit_code(launcher: Launcher, number: int) -> None:
    """A killed rustc is our failure and never shown; 137 as an exit code would be its word."""
    ran = run(launcher, shell(f"kill -{number:d} $$"))
    assert (ran.outcome.exit_code, ran.outcome.signal) == (None, number)


def test_an_exit_code_above_128_is_one(helper: bytes) -> None:
    """With the helper's record; bubblewrap cannot tell."""
    ran = run(NativeLauncher(helper), shell("exit 137"))
    assert (ran.outcome.exit_code, ran.outcome.signal) == (137, None)


def test_a_program_that_is_not_there_is_no_exit_code(helper: bytes) -> None:
    """Nothing is printed where rustc's words are expected, and the reason is told apart."""
    spec = attrs.evolve(shell(""), argv=(b"/nowhere/rustc",))
    for launcher in (NativeLauncher(helper), PlainLauncher(helper)):
        ran = run(launcher, spec)
        assert ran.outcome.exit_code is None
        assert "/nowhere/rustc" in ran.outcome.error
        assert "No such file" in ran.outcome.error
        assert ran.stderr == b""


def test_a_failed_set_up_is_an_error_for_every_sandbox(sandbox: Launcher, tmp_path: Path) -> None:
    """A source that vanished between planning and mounting."""
    gone = tmp_path / "gone"
    gone.write_bytes(b"")
    spec = shell("exit 0", Mount.read(os.fsencode(gone), b"/gone"))
    with sandbox.prepare(spec) as launch:
        gone.unlink()
        done = subprocess.run(
            launch.argv,
            check=False,
            env=dict(launch.env),
            pass_fds=launch.pass_fds,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        outcome = launch.outcome(done.returncode)
    assert outcome.error
    assert outcome.exit_code is None


def test_usage_is_reported(helper: bytes) -> None:
    """Slots are given by what earlier runs needed."""
    ran = run(NativeLauncher(helper), shell("exec ls -R /usr/bin"))
    assert ran.outcome.max_rss_bytes > 100_000


# ---- what is seen ---------------------------------------------------------------------------


def test_paths_are_the_same_inside(launcher: Launcher, tmp_path: Path) -> None:
    """rustc writes absolute paths into everything."""
    (tmp_path / "f").write_bytes(b"hello")
    place = os.fsencode(tmp_path)
    ran = run(launcher, shell(f"cat {tmp_path}/f; pwd", Mount.read(place, place), cwd=place))
    assert ran.stdout == b"hello" + place + b"\n"


def test_what_is_not_declared_does_not_exist(sandbox: Launcher, tmp_path: Path) -> None:
    """Neither the file beside a declared one nor anything of home."""
    for name in ("declared", "secret"):
        (tmp_path / name).write_bytes(b"x")
    place = os.fsencode(tmp_path / "declared")
    script = f"cd {tmp_path} && echo *; ls / /etc; test -e /root || test -e /home || echo none"
    ran = run(sandbox, shell(script, Mount.read(place, place)))
    lines = ran.stdout.split()
    assert lines[0] == b"declared"
    assert b"secret" not in lines
    assert b"passwd" not in lines
    assert b"alternatives" in lines


def test_inputs_cannot_be_written(sandbox: Launcher, tmp_path: Path) -> None:
    """Not the file, not its directory, not what is mounted further down, not the root."""
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "f").write_bytes(b"before")
    (tmp_path / "e").mkdir()
    place = b"/home/p/d"
    script = """cd /home/p/d
        for try in f new deep/new ../new /new; do (echo after >$try) 2>/dev/null && echo $try; done
        rm -f f 2>/dev/null && echo rm; chmod 777 f 2>/dev/null && echo chmod; true"""
    mounts = (
        Mount.read(os.fsencode(tmp_path / "d"), place),
        Mount.read(os.fsencode(tmp_path / "e"), place + b"/deep"),
    )
    ran = run(sandbox, shell(script, *mounts))
    assert (ran.outcome.exit_code, ran.stdout) == (0, b"")
    assert (tmp_path / "d" / "f").read_bytes() == b"before"


def test_the_out_dir_is_written_through(launcher: Launcher, tmp_path: Path) -> None:
    """Inside the read-only project, with an extern lying in it."""
    for name in ("p/target/deps", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "extern").write_bytes(b"metadata")
    deps = os.fsencode(tmp_path / "p/target/deps")
    if not launcher.isolates:
        ran = run(launcher, shell("echo made >made", cwd=deps))
        assert (tmp_path / "p/target/deps/made").read_bytes() == b"made\n"
        return
    mounts = (
        Mount.read(os.fsencode(tmp_path / "p"), os.fsencode(tmp_path / "p")),
        Mount.write(os.fsencode(tmp_path / "out"), deps),
        Mount.read(os.fsencode(tmp_path / "extern"), deps + b"/libx.rmeta"),
    )
    script = "cat libx.rmeta >made; chmod +x made; (echo no >libx.rmeta) 2>/dev/null; true"
    ran = run(launcher, shell(script, *mounts, cwd=deps))
    assert ran.outcome.exit_code == 0, ran
    assert (tmp_path / "out/made").read_bytes() == b"metadata"
    assert os.access(tmp_path / "out/made", os.X_OK)
    assert (tmp_path / "extern").read_bytes() == b"metadata"


def test_tmp_is_private_and_a_project_in_it_visible(sandbox: Launcher, tmp_path: Path) -> None:
    """What is written to /tmp is gone afterwards."""
    name = f"burst-test-{os.getpid()}"
    place = os.fsencode(tmp_path)
    ran = run(sandbox, shell(f"echo x >/tmp/{name}; ls -a /tmp", Mount.read(place, b"/tmp/p")))
    assert sorted(ran.stdout.split()) == [b".", b"..", name.encode(), b"p"]
    assert not (Path("/tmp") / name).exists()


def test_names_that_are_no_text(sandbox: Launcher, tmp_path: Path) -> None:
    """Bytes that are not UTF-8, a newline, quotes, a leading dash: file, argument and variable."""
    name = b"-a \xff'\n\"$(x)"
    place = os.fsencode(tmp_path) + b"/" + name
    with open(place, "wb") as file:
        file.write(b"content")
    spec = shell('cat -- "$1"; printf %s "$V"', Mount.read(place, place), cwd=os.fsencode(tmp_path))
    spec = attrs.evolve(
        spec, argv=(*spec.argv, b"sh", place), env=(*spec.env, (b"V", name), (b"EMPTY", b""))
    )
    ran = run(sandbox, spec)
    assert ran.stdout == b"content" + name


def test_many_binds(sandbox: Launcher, tmp_path: Path) -> None:
    """A unit with some hundred externs."""
    mounts = []
    for number in range(300):
        (tmp_path / str(number)).write_bytes(b"%d\n" % number)
        mounts.append(Mount.read(os.fsencode(tmp_path / str(number)), b"/deps/%d" % number))
    ran = run(sandbox, shell("cat /deps/* | wc -l", *mounts))
    assert ran.stdout.strip() == b"300", ran


def test_a_project_below_usr(sandbox: Launcher, tmp_path: Path) -> None:
    """A read-only /usr is taken apart to make room for /usr/src/p."""
    (tmp_path / "f").write_bytes(b"source")
    script = "cat /usr/burst-project/sub/f; test -x /usr/bin/env && ls -d /usr/lib"
    ran = run(sandbox, shell(script, Mount.read(os.fsencode(tmp_path), b"/usr/burst-project/sub")))
    assert ran.stdout == b"source/usr/lib\n"


def test_links_cannot_lead_a_mount_out(helper: bytes, tmp_path: Path) -> None:
    """An absolute link in the sandbox means the sandbox's root, also while it is being built."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "f").write_bytes(b"x")
    mounts = (
        Mount.symlink(os.fsencode(outside), b"/away"),
        Mount.read(os.fsencode(tmp_path / "f"), b"/away/new/f"),
    )
    ran = run(NativeLauncher(helper), shell(f"cat /away/new/f {outside}/new/f", *mounts))
    assert ran.stdout == b"xx"
    assert list(outside.iterdir()) == []


# ---- what there is around it ----------------------------------------------------------------


def test_the_environment_is_what_was_declared(launcher: Launcher) -> None:
    """Nothing of ours; unset differs from empty."""
    spec = attrs.evolve(shell(""), argv=(b"/usr/bin/env",), env=((b"A", b"1"), (b"B", b"")))
    assert sorted(run(launcher, spec).stdout.split()) in (
        [b"A=1", b"B="],
        [b"A=1", b"B=", b"PWD=/"],
    )


def test_nothing_answers_on_the_network(sandbox: Launcher) -> None:
    """There is only loopback."""
    ran = run(sandbox, shell("cat /proc/net/dev"))
    devices = [line.split(b":")[0].strip() for line in ran.stdout.splitlines()[2:]]
    assert devices == [b"lo"]


def test_other_processes_are_invisible(sandbox: Launcher) -> None:
    """Process numbers are the sandbox's own."""
    children = [subprocess.Popen(["sleep", "60"])]
    try:
        while children[-1].pid <= 9:  # in a namespace of our own numbers may be as low as in there
            children.append(subprocess.Popen(["sleep", "60"]))
        ran = run(sandbox, shell(f"ls -d /proc/[0-9]* | wc -l; kill -0 {children[-1].pid} 2>&1"))
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert int(ran.stdout.split()[0]) <= 4
    assert ran.outcome.exit_code != 0


def test_no_privileges_are_left(sandbox: Launcher) -> None:
    """Not even for root, and none can be got by a setuid program."""
    ran = run(sandbox, shell("grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status"))
    facts = dict(line.split(b":\t") for line in ran.stdout.splitlines())
    assert facts.pop(b"NoNewPrivs") == b"1"
    assert set(facts.values()) == {b"0" * 16}
    ran = run(sandbox, shell("(echo x >/proc/sys/kernel/domainname) 2>/dev/null && echo bad; true"))
    assert ran.stdout == b""


def test_the_user_is_the_same(sandbox: Launcher) -> None:
    """Files made inside belong to the caller."""
    ran = run(sandbox, shell("id -u; id -g; hostname"))
    assert ran.stdout.split() == [b"%d" % os.geteuid(), b"%d" % os.getegid(), b"burst"]


def test_devices_work(sandbox: Launcher) -> None:
    """null, random bytes, descriptors by name, shared memory."""
    script = """echo x >/dev/null && head -c 4 /dev/urandom | wc -c
        echo y | cat /dev/stdin; echo z >/dev/shm/z && cat /dev/shm/z"""
    assert run(sandbox, shell(script)).stdout.split() == [b"4", b"y", b"z"]


def test_descriptors_that_are_passed_keep_their_numbers(launcher: Launcher) -> None:
    """A jobserver's pipe is named by number in MAKEFLAGS; nothing else is inherited."""
    reader, writer = os.pipe()
    try:
        os.write(writer, b"+")
        spec = shell(f"head -c 1 /proc/self/fd/{reader}; ls /proc/self/fd")
        ran = run(launcher, attrs.evolve(spec, pass_fds=(reader, writer)))
    finally:
        os.close(reader)
        os.close(writer)
    assert ran.stdout[:1] == b"+"
    # ls has one for the directory it lists
    numbers = {int(number) for number in ran.stdout[1:].split()}
    assert numbers - {0, 1, 2} >= {reader, writer}
    assert len(numbers - {0, 1, 2, reader, writer}) <= 1


def test_a_fifo_can_be_a_jobserver(launcher: Launcher, tmp_path: Path) -> None:
    """make 4.4 and newer name it by path instead of by descriptor."""
    path = tmp_path / "jobs"
    os.mkfifo(path)
    name = os.fsencode(path)
    fd = os.open(path, os.O_RDWR)
    try:
        os.write(fd, b"+")
        script = f"exec 3<>{path}; head -c 1 <&3; printf - >&3"
        ran = run(launcher, shell(script, Mount.write(name, name)))
        assert ran.stdout == b"+", ran
        assert os.read(fd, 2) == b"-"
    finally:
        os.close(fd)


@pytest.mark.root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare")
def test_where_proc_is_refused_we_go_on_without(helper: bytes) -> None:
    """A container that covers parts of /proc may not mount another."""
    if os.geteuid() != 0:
        pytest.skip("needs root to cover it")
    with NativeLauncher(helper).prepare(shell("ls /proc; exit 4")) as launch:
        cover = 'mount -t tmpfs none /proc/sys && exec unshare -Urm "$@"'
        done = subprocess.run(
            ["unshare", "-m", "/bin/sh", "-c", cover, "sh", *launch.argv],
            check=False,
            pass_fds=launch.pass_fds,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        outcome = launch.outcome(done.returncode)
    if b"unshare failed" in done.stderr:
        pytest.skip("no user namespaces here")
    assert outcome.exit_code == 4, (outcome, done)
    assert not outcome.has_proc


# ---- limits ---------------------------------------------------------------------------------


def test_limits_are_set(launcher: Launcher) -> None:
    """As the program sees them; a limit of ours is never above the one we have."""
    if isinstance(launcher, PlainLauncher) and launcher.path is None:
        pytest.skip("sets no limits")
    limits = Limits(memory_bytes=1 << 30, cpu_s=77, file_bytes=1 << 20)
    ran = run(launcher, shell("ulimit -d; ulimit -t; ulimit -f; ulimit -c", limits=limits))
    assert ran.stdout.split() == [b"1048576", b"77", b"2048", b"0"]


def test_a_file_that_grows_too_large_ends_the_program(helper: bytes, tmp_path: Path) -> None:
    """By SIGXFSZ, which is told from an exit code."""
    place = os.fsencode(tmp_path)
    spec = shell("exec head -c 100000 /dev/zero >big", Mount.write(place, place), cwd=place)
    ran = run(NativeLauncher(helper), attrs.evolve(spec, limits=Limits(file_bytes=65536)))
    assert ran.outcome.signal == signal.SIGXFSZ
    assert (tmp_path / "big").stat().st_size == 65536


def test_memory_is_limited(helper: bytes) -> None:
    """What a process writes to counts, not what it maps."""
    script = "x=x; while :; do x=$x$x; done"
    ran = run(NativeLauncher(helper), shell(script, limits=Limits(memory_bytes=64 << 20)))
    assert ran.outcome.exit_code != 0
    assert not ran.outcome.error


# ---- ends -----------------------------------------------------------------------------------

STAY = (
    "(trap '' TERM HUP INT; (echo ready; exec sleep 1000 8>&-) & exec sleep 1000) & exec sleep 1000"
)


def until_gone(reader: int) -> bool:
    """Whether every process that had the pipe's other end is gone in time."""
    poll = select.poll()
    poll.register(reader, select.POLLHUP)
    return bool(poll.poll(PATIENCE_S * 1000))


@pytest.mark.parametrize("how", ["kill the outer process", "launch.kill"])
def test_a_kill_leaves_no_process(launcher: Launcher, how: str) -> None:
    """All that ran inside hold a pipe open; when it is closed, all are gone."""
    if how != "launch.kill" and not launcher.isolates:
        pytest.skip("only the process group ends it")
    with launcher.prepare(shell(STAY)) as launch:
        process = subprocess.Popen(
            launch.argv,
            env=dict(launch.env),
            pass_fds=launch.pass_fds,
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"
            if how == "launch.kill":
                launch.kill(process.pid)
            else:
                process.kill()
            assert until_gone(process.stdout.fileno())
        outcome = launch.outcome(process.wait())
    if launcher.name in {"burst-sandbox", "bubblewrap"}:
        assert "killed by signal 9" in outcome.error
    assert outcome.exit_code is None


PARENT = """
import os, subprocess, sys, pickle
launcher, spec = pickle.loads(bytes.fromhex(sys.argv[1]))
with launcher.prepare(spec) as launch:
    subprocess.Popen(launch.argv, pass_fds=launch.pass_fds, env={}, start_new_session=True)
    sys.stdin.read()
"""


def test_death_of_the_agent_leaves_no_process(sandbox: Launcher) -> None:
    """The agent may be killed too; nothing must go on writing."""
    agent = subprocess.Popen(
        [sys.executable, "-c", PARENT, pickle.dumps((sandbox, shell(STAY))).hex()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert agent.stdout is not None
    assert agent.stdin is not None
    with agent.stdout, agent.stdin:
        assert agent.stdout.readline() == b"ready\n"
        agent.kill()
        assert until_gone(agent.stdout.fileno())
    agent.wait()


def test_a_helper_whose_agent_is_gone_does_not_start(helper: bytes) -> None:
    """Between the fork and the line that asks for a signal at the parent's death."""
    with NativeLauncher(helper).prepare(shell("echo started")) as launch:
        done = subprocess.run(
            ["/bin/sh", "-c", '"$@"; exit $?', "sh", *launch.argv],
            check=False,
            pass_fds=launch.pass_fds,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        outcome = launch.outcome(done.returncode)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert "parent is gone" in outcome.error


def test_what_outlives_the_program_is_ended_with_it(sandbox: Launcher) -> None:
    """A macro's daemon does not stay behind, and does not keep the pipes open."""
    ran = run(sandbox, shell("sleep 1000 & exit 3"))
    assert ran.outcome.exit_code == 3


def test_orphans_are_reaped(helper: bytes) -> None:
    """By pid 1; they do not count as the program's end."""
    script = "for i in 1 2 3; do (true & ) ; done; sleep 0.1; ps -A -o stat= | grep -c Z; exit 5"
    ran = run(NativeLauncher(helper), shell(script))
    assert (ran.outcome.exit_code, ran.stdout) == (5, b"0\n")


# ---- choosing -------------------------------------------------------------------------------


def test_our_own_helper_is_preferred(helper: bytes) -> None:
    """It is several times faster."""
    choice = asyncio.run(choose_launcher(helper, allow_plain=False))
    if asyncio.run(NativeLauncher(helper).probe()) is None:
        assert choice.launcher == NativeLauncher(helper)
        assert choice.refused == ()


def test_a_helper_that_does_not_work_is_not_chosen(tmp_path: Path) -> None:
    """Wrong architecture, noexec: the next is taken and the reason kept."""
    bad = tmp_path / "burst-sandbox"
    bad.write_bytes(b"\x7fELF not really")
    bad.chmod(0o755)
    choice = asyncio.run(choose_launcher(os.fsencode(bad), allow_plain=True))
    assert choice.launcher.name != "burst-sandbox"
    assert choice.refused[0].startswith("burst-sandbox: ")


def test_without_permission_there_is_no_plain_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An agent on a server never runs without isolation."""
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(SandboxUnavailable, match="bubblewrap"):
        asyncio.run(choose_launcher(None, allow_plain=False))
    choice = asyncio.run(choose_launcher(None, allow_plain=True))
    assert choice.launcher == PlainLauncher()
    assert len(choice.refused) == 2


# ---- the real thing -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sysroot() -> bytes:
    """Of the toolchain that is the default here."""
    if shutil.which("rustc") is None:
        pytest.skip("no rustc")
    done = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True)
    return done.stdout.strip()


@pytest.mark.slow
def test_rustc_links_the_same_bytes(launcher: Launcher, sysroot: bytes, tmp_path: Path) -> None:
    """A program linked inside, with only toolchain and system, equals the one linked outside."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.rs").write_text('fn main() { println!("hello {}", file!()); }\n')
    out = project / "out"
    place = os.fsencode(project)
    env = ((b"PATH", b"/usr/bin:/bin"),)
    argv = (
        *(sysroot + b"/bin/rustc", b"--edition=2021", b"-g", b"main.rs"),
        *(b"--crate-name=hello", b"--out-dir", os.fsencode(out)),
    )
    out.mkdir()
    subprocess.run(argv, check=True, env=dict(env), cwd=project)
    expected = (out / "hello").read_bytes()
    shutil.rmtree(out)
    out.mkdir()
    mounts = (
        *system(),
        Mount.read(sysroot, sysroot),
        Mount.read(place, place),
        Mount.write(os.fsencode(out), os.fsencode(out)),
    )
    ran = run(launcher, SandboxSpec(mounts, argv, env, place, Limits(memory_bytes=4 << 30)))
    assert ran.outcome.exit_code == 0, ran
    assert ran.stderr == b""
    assert (out / "hello").read_bytes() == expected


@pytest.mark.root
@pytest.mark.parametrize("kind", ["native", "bubblewrap"])
def test_a_plain_user_can_do_it_too(kind: str, helper: bytes) -> None:
    """No privileges are needed where user namespaces are allowed."""
    if os.geteuid() != 0:
        pytest.skip("the other tests show it, without root")
    # pytest's directories are closed to others.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        public = Path(name)
        public.chmod(0o755)
        copy, out = public / "burst-sandbox", public / "out"
        copy.write_bytes(Path(os.fsdecode(helper)).read_bytes())
        copy.chmod(0o755)
        out.mkdir()
        os.chown(out, NOBODY, NOBODY)
        launcher = NativeLauncher(os.fsencode(copy)) if kind == "native" else BubblewrapLauncher()
        spec = shell(
            "id -u; id -g; echo x >/out/x; test -w /usr || echo fixed; cat /proc/net/dev | wc -l",
            Mount.write(os.fsencode(out), b"/out"),
        )
        ran = run(launcher, spec, user=NOBODY)
        assert ran.stdout.split() == [b"65534", b"65534", b"fixed", b"3"], ran
        assert (out / "x").stat().st_uid == NOBODY
