"""The observer in real programs: rustc with a nosy proc macro, a linker, C programs."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from burst_agent.mounts import Mount
from burst_agent.observe import Access, Observation, Op, Program, parse
from burst_agent.sandbox import NativeLauncher, PlainLauncher, SandboxSpec
from burst_wrapper.native_build import NativeTools, build_native

PATIENCE_S = 60


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> NativeTools:
    """Both native tools, built by this machine's cc."""
    cc = shutil.which("cc")
    built = build_native(None if cc is None else os.fsencode(cc), tmp_path_factory.mktemp("native"))
    if built.observer is None:
        pytest.skip(built.reason)
    return built


@pytest.fixture(scope="session")
def rustc() -> str:
    """The real one, not rustup's proxy."""
    if shutil.which("rustc") is None:
        pytest.skip("no rustc")
    done = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True)
    return done.stdout.decode().strip() + "/bin/rustc"


class Observed:
    """Runs programs under the observer, in this process' world."""

    def __init__(self, library: Path, log: Path) -> None:
        self.library = library
        self.log = log
        self.stdout = b""
        self.returncode = 0

    def run(self, argv: list[str | Path], cwd: Path, **env: str) -> Observation:
        self.log.unlink(missing_ok=True)
        fd = os.open(self.log, os.O_CREAT | os.O_RDWR | os.O_APPEND)
        try:
            done = subprocess.run(
                argv,
                check=False,
                cwd=cwd,
                pass_fds=(fd,),
                stdout=subprocess.PIPE,
                timeout=PATIENCE_S,
                env={
                    "PATH": "/usr/bin:/bin",
                    "LD_PRELOAD": os.fspath(self.library),
                    "BURST_OBSERVER_FD": str(fd),
                    **env,
                },
            )
        finally:
            os.close(fd)
        self.stdout, self.returncode = done.stdout, done.returncode
        return parse(self.log.read_bytes())


@pytest.fixture
def observed(tools: NativeTools, tmp_path: Path) -> Observed:
    """The library is built, so it is there."""
    assert tools.observer is not None
    return Observed(tools.observer, tmp_path / "observer.log")


def find(observation: Observation, path: Path | str | bytes) -> set[Access]:
    name = os.fsencode(path)
    return {access for access in observation.accesses if access.path == name}


def compile_c(source: str, target: Path, *flags: str) -> Path:
    """A C program, as a linker or another child of rustc would be one."""
    subprocess.run(
        ["cc", "-O1", "-w", "-x", "c", "-", "-x", "none", "-o", target, *flags],
        input=source.encode(),
        check=True,
    )
    return target


# ---- rustc ----------------------------------------------------------------------------------

MACRO = """
extern crate proc_macro;
use proc_macro::TokenStream;
use std::{env, fs, path::Path, process::Command};
#[proc_macro]
pub fn nosy(_: TokenStream) -> TokenStream {
    let dir = env::var("NOSY_DIR").unwrap();
    let dir = Path::new(&dir);
    let text = fs::read_to_string(dir.join("file")).unwrap();
    assert!(fs::read(dir.join("absent")).is_err());
    assert!(!dir.join("absent-too").exists());
    assert_eq!(fs::read_dir(dir.join("folder")).unwrap().count(), 1);
    assert!(fs::canonicalize(dir.join("link")).unwrap().ends_with("file"));
    assert!(fs::metadata("relative").is_ok());
    assert!(env::var("NOSY_UNSET").is_err());
    fs::write(dir.join("written"), "x").unwrap();
    fs::remove_file(dir.join("written")).unwrap();
    let git = Command::new(env::var("NOSY_GIT").unwrap()).arg("--version").output();
    let _ = std::net::TcpStream::connect("127.0.0.1:1");
    let hidden = env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        name.starts_with("LD_PRELOAD") || name.starts_with("BURST_")
    }).count();
    let asked = env::var_os("LD_PRELOAD").is_some() as usize;
    format!("const NOSY: (&str, bool, usize) = ({:?}, {}, {});",
        text.trim(), git.is_ok(), hidden + asked).parse().unwrap()
}
"""


@pytest.fixture(scope="session")
def macro(rustc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A proc macro that reads what it was not told to."""
    place = tmp_path_factory.mktemp("macro")
    (place / "nosy.rs").write_text(MACRO)
    subprocess.run(
        [rustc, "--edition=2021", "--crate-type=proc-macro", "nosy.rs"], check=True, cwd=place
    )
    return place / "libnosy.so"


@pytest.fixture
def nosy(tmp_path: Path) -> Path:
    """What the macro looks at."""
    place = tmp_path / "nosy"
    (place / "folder").mkdir(parents=True)
    (place / "folder" / "entry").write_text("")
    (place / "file").write_text("content\n")
    (place / "link").symlink_to("file")
    (place / "relative").write_text("")
    (place / "user.rs").write_text('nosy::nosy!(); fn main() { println!("{:?}", NOSY); }\n')
    return place


@pytest.mark.slow
@pytest.mark.parametrize("git", [shutil.which("git") or "/usr/bin/env", "git-that-is-not-there"])
def test_all_that_a_proc_macro_does_is_seen(
    observed: Observed, rustc: str, macro: Path, nosy: Path, git: str
) -> None:
    """Files, absent files, folders, links, variables, programs, network, and no trace of us."""
    seen = observed.run(
        [rustc, "--edition=2021", "--extern", f"nosy={macro}", "user.rs", "-o", "user"],
        nosy,
        NOSY_DIR=os.fspath(nosy),
        NOSY_GIT=git,
    )
    assert observed.returncode == 0
    assert seen.complete, seen.gap
    present = shutil.which(git) is not None
    said = subprocess.run([nosy / "user"], check=True, capture_output=True).stdout
    assert said == f'("content", {str(present).lower()}, 0)\n'.encode()

    assert Access(Op.OPEN, os.fsencode(nosy / "file"), 0, False) in seen.accesses
    assert {access.absent for access in find(seen, nosy / "absent")} == {True}
    assert {access.absent for access in find(seen, nosy / "absent-too")} == {True}
    assert Op.LIST in {access.op for access in find(seen, nosy / "folder")}
    assert Op.LINK in {access.op for access in find(seen, nosy / "link")}
    assert find(seen, nosy / "relative")
    assert any(access.write for access in find(seen, nosy / "written"))
    variables = {read.name: read.present for read in seen.env_reads}
    assert variables[b"NOSY_DIR"] is True
    assert variables[b"NOSY_UNSET"] is False
    assert any(
        program.path == git.encode() and (program.errno == 0) == present
        for program in seen.programs
    )
    assert b"socket 2" in seen.network
    assert Op.LIBRARY in {access.op for access in find(seen, macro)}


@pytest.mark.slow
def test_the_linker_is_observed_too(observed: Observed, rustc: str, tmp_path: Path) -> None:
    """cc, collect2 and ld inherit the library: a link script or library that is read is known."""
    (tmp_path / "main.rs").write_text("fn main() {}\n")
    (tmp_path / "natives").mkdir()
    compile_c("int unused;", tmp_path / "natives" / "extra.o", "-c")
    seen = observed.run([rustc, "main.rs", "-C", f"link-arg={tmp_path}/natives/extra.o"], tmp_path)
    assert observed.returncode == 0
    assert seen.complete, seen.gap
    assert find(seen, tmp_path / "natives" / "extra.o")
    assert any(program.path.endswith(b"cc") for program in seen.programs)
    assert any(access.path.endswith(b"/crti.o") for access in seen.accesses)


@pytest.mark.slow
def test_outputs_are_the_same_with_and_without(
    observed: Observed, rustc: str, tmp_path: Path
) -> None:
    """Observing changes nothing."""
    (tmp_path / "main.rs").write_text('fn main() { println!("x"); }\n')
    argv: list[str | Path] = [rustc, "-g", "main.rs", "-o", "program"]
    subprocess.run(argv, check=True, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
    expected = (tmp_path / "program").read_bytes()
    (tmp_path / "program").unlink()
    assert observed.run(argv, tmp_path).complete
    assert (tmp_path / "program").read_bytes() == expected


@pytest.mark.slow
def test_in_the_sandbox(tools: NativeTools, rustc: str, macro: Path, nosy: Path) -> None:
    """The library is bound where no project is, and reports from inside; what was not mounted is
    reported as absent."""
    if tools.sandbox is None:
        pytest.skip(tools.reason)
    assert tools.observer is not None
    launcher = NativeLauncher(os.fsencode(tools.sandbox))
    reason = asyncio.run(launcher.probe())
    if reason is not None:
        pytest.skip(reason)
    sysroot = os.fsencode(rustc.removesuffix("/bin/rustc"))
    system = (b"/usr", b"/bin", b"/lib", b"/lib64")
    log = nosy / "log"
    fd = os.open(log, os.O_CREAT | os.O_RDWR | os.O_APPEND)
    out = nosy / "out"
    out.mkdir()
    spec = SandboxSpec(
        mounts=(
            *(
                Mount.symlink(os.readlink(path), path)
                if os.path.islink(path)
                else Mount.read(path, path)
                for path in system
                if os.path.lexists(path)
            ),
            Mount.read(sysroot, sysroot),
            Mount.read(os.fsencode(macro), os.fsencode(macro)),
            Mount.read(os.fsencode(nosy / "user.rs"), os.fsencode(nosy / "user.rs")),
            Mount.write(os.fsencode(out), os.fsencode(out)),
        ),
        argv=(
            *(sysroot + b"/bin/rustc", b"--edition=2021", b"--emit=metadata", b"user.rs"),
            *(b"--extern", b"nosy=" + os.fsencode(macro), b"--out-dir", os.fsencode(out)),
        ),
        env=((b"NOSY_DIR", os.fsencode(nosy)), (b"NOSY_GIT", b"git")),
        cwd=os.fsencode(nosy),
        observer_path=os.fsencode(tools.observer),
        observer_fd=fd,
    )
    try:
        with launcher.prepare(spec) as launch:
            done = subprocess.run(
                launch.argv,
                check=False,
                env=dict(launch.env),
                pass_fds=launch.pass_fds,
                capture_output=True,
                timeout=PATIENCE_S,
            )
            outcome = launch.outcome(done.returncode)
    finally:
        os.close(fd)
    # The macro's file was not declared: it panics, and we know why.
    assert outcome.exit_code == 1, (outcome, done)
    seen = parse(log.read_bytes())
    assert seen.complete, seen.gap
    assert {access.absent for access in find(seen, nosy / "file")} == {True}
    assert not any(b".burst" in access.path for access in seen.accesses)


def test_it_costs_about_a_millisecond(tools: NativeTools, rustc: str, tmp_path: Path) -> None:
    """Processor time per rustc (0.3 to 0.6 ms measured), the least of several interleaved runs,
    since the machine may be busy; twice that would be a mistake of ours."""
    fd = os.open(tmp_path / "log", os.O_CREAT | os.O_RDWR | os.O_APPEND)
    os.set_inheritable(fd, True)
    observed_env = {"LD_PRELOAD": os.fspath(tools.observer or ""), "BURST_OBSERVER_FD": str(fd)}
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]

    def cpu_ms(env: dict[str, str]) -> float:
        pid = os.posix_spawn(rustc, [rustc, "-vV"], env, file_actions=quiet)
        _, status, usage = os.wait4(pid, 0)
        assert status == 0
        return (usage.ru_utime + usage.ru_stime) * 1000

    pairs = [(cpu_ms({}), cpu_ms(observed_env)) for _ in range(20)]
    os.close(fd)
    assert min(with_it for _, with_it in pairs) - min(plain for plain, _ in pairs) < 2


# ---- any program ----------------------------------------------------------------------------


def test_paths_are_made_absolute_and_kept_as_they_are(observed: Observed, tmp_path: Path) -> None:
    """Relative to the directory of the process or of a descriptor, with any byte in them."""
    program = compile_c(
        r"""#define _GNU_SOURCE
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/stat.h>
        #include <unistd.h>
        int main() { struct stat st;
            int d = open("sub", O_DIRECTORY);
            fopen("a\nb \xff", "r"); openat(d, "in-dir", O_RDONLY); stat("../x/./y", &st);
            fstatat(d, "z", &st, AT_SYMLINK_NOFOLLOW); access("w", R_OK); chdir("sub");
            faccessat(AT_FDCWD, "v", F_OK, 0); creat("u", 0600); fopen("t", "a"); return 0; }""",
        tmp_path / "program",
    )
    (tmp_path / "sub").mkdir()
    seen = observed.run([program], tmp_path)
    place = os.fsencode(tmp_path)
    assert seen.complete
    for expected in (
        Access(Op.OPEN, place + b"/sub", 0, False),
        Access(Op.OPEN, place + b"/a\nb \xff", 2, False),
        Access(Op.OPEN, place + b"/sub/in-dir", 2, False),
        Access(Op.STAT, place + b"/../x/./y", 2, False),
        Access(Op.STAT, place + b"/sub/z", 2, False),
        Access(Op.ACCESS, place + b"/w", 2, False),
        Access(Op.CHDIR, place + b"/sub", 0, False),
        Access(Op.ACCESS, place + b"/sub/v", 2, False),
        Access(Op.OPEN, place + b"/sub/u", 0, True),
        Access(Op.OPEN, place + b"/sub/t", 0, True),
    ):
        assert expected in seen.accesses


def test_results_and_errno_are_untouched(observed: Observed, tmp_path: Path) -> None:
    """The program prints the same with the library and without."""
    program = compile_c(
        r"""#define _GNU_SOURCE
        #include <errno.h>
        #include <fcntl.h>
        #include <spawn.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/stat.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        #define P(x) do { errno = 77; long r = (long)(x); printf("%ld %d\n", r, errno); } while (0)
        int main(int argc, char **argv) { struct stat st; char b[100]; char *none[] = {0};
            P(open("absent", O_RDONLY)); P(open("made", O_CREAT | O_WRONLY, 0640));
            P(stat("made", &st)); P(st.st_mode); P(stat("absent", &st)); P(access("made", X_OK));
            P(readlink("made", b, 100)); P(opendir("absent") != 0); P(realpath("absent", 0) != 0);
            P(getenv("UNSET") != 0); P(fopen("absent/x", "r") != 0); P(stat((void *)8, &st));
            P(syscall(SYS_openat, AT_FDCWD, "absent", O_RDONLY)); P(statx(0, 0, 0, 0, 0));
            int pid = 5; P(posix_spawn(&pid, "absent", 0, 0, none, none)); P(pid);
            P(execl("absent", "absent", (char *)0)); P(mkdir("made", 0700)); P(unlink("made"));
            P(system("exit 3")); P(open("", O_RDONLY)); return 0; }""",
        tmp_path / "program",
    )
    expected = subprocess.run([program], check=True, capture_output=True, cwd=tmp_path).stdout
    observed.run([program], tmp_path)
    assert observed.stdout == expected


@pytest.mark.parametrize(
    "call",
    [
        'execv("/usr/bin/env", args)',
        'execvp("env", args)',
        'execve("/usr/bin/env", args, vars)',
        'execvpe("env", args, vars)',
        'execl("/usr/bin/env", "env", (char *)0)',
        'execlp("env", "env", (char *)0)',
        'execle("/usr/bin/env", "env", (char *)0, vars)',
        'fexecve(open("/usr/bin/env", 0), args, vars)',
        'posix_spawn(&pid, "/usr/bin/env", 0, 0, args, vars)',
        'posix_spawnp(&pid, "env", 0, 0, args, vars)',
    ],
)
def test_children_are_observed_by_whatever_call(
    observed: Observed, tmp_path: Path, call: str
) -> None:
    """The library goes along, and the child's environment shows nothing of it."""
    program = compile_c(
        r"""#define _GNU_SOURCE
        #include <fcntl.h>
        #include <spawn.h>
        #include <sys/wait.h>
        #include <unistd.h>
        char *args[] = {"env", 0}, *vars[] = {"PATH=/usr/bin:/bin", 0};
        int main() { int pid; CALL; wait(0); return 0; }""".replace("CALL", call),
        tmp_path / "program",
    )
    seen = observed.run([program], tmp_path)
    assert seen.complete, seen.gap
    assert observed.stdout == b"PATH=/usr/bin:/bin\n"
    assert len(seen.programs) == 1
    assert seen.programs[0].path.endswith(b"env")


def test_an_unobserved_child_is_noticed(observed: Observed, tmp_path: Path) -> None:
    """A static program says nothing; so do the shells of system and popen."""
    static = compile_c("int main() { return 0; }", tmp_path / "static", "-static")
    starter = compile_c(
        r"""#include <unistd.h>
        int main(int c, char **v) { return execv(v[1], v + 1); }""",
        tmp_path / "starter",
    )
    seen = observed.run([starter, static], tmp_path)
    assert not seen.complete
    assert Program(os.fsencode(static), 0) in seen.programs
    shell = compile_c(
        '#include <stdlib.h>\nint main() { return system("true"); }', tmp_path / "shell"
    )
    assert not observed.run([shell], tmp_path).complete
    assert not observed.run([static], tmp_path).complete


def test_other_preloaded_libraries_stay(observed: Observed, tmp_path: Path) -> None:
    """Somebody's allocator comes after us in the list, and is all that is left of it."""
    other = compile_c("int other;", tmp_path / "other.so", "-shared", "-fPIC")
    both = f"{observed.library}:{other}"
    seen = observed.run(["/usr/bin/env"], tmp_path, LD_PRELOAD=both)
    assert seen.complete
    assert f"LD_PRELOAD={other}".encode() in observed.stdout.splitlines()
    observed.run(["/bin/sh", "-c", "/usr/bin/env; true"], tmp_path, LD_PRELOAD=both)
    assert f"LD_PRELOAD={other}".encode() in observed.stdout.splitlines()


def test_a_descriptor_that_became_something_else_is_left_alone(
    observed: Observed, tmp_path: Path
) -> None:
    """A program closes everything and opens its own file under our number."""
    program = compile_c(
        r"""#include <fcntl.h>
        #include <unistd.h>
        int main() { for (int i = 3; i < 100; i++) close(i);
            for (int i = 3; i < 100; i++) open("mine", O_CREAT | O_RDWR | O_APPEND, 0600);
            access("/anything", R_OK); return 0; }""",
        tmp_path / "program",
    )
    observed.run([program], tmp_path)
    assert (tmp_path / "mine").read_bytes() == b""


def test_many_threads_and_many_names(observed: Observed, tmp_path: Path) -> None:
    """No record is torn or lost, more names than the table of known ones has room for."""
    program = compile_c(
        r"""#include <pthread.h>
        #include <stdio.h>
        #include <unistd.h>
        void *work(void *which) { char name[64];
            for (int i = 0; i < 5000; i++) { sprintf(name, "/absent/%ld/%d", (long)which, i);
                access(name, R_OK); access("/absent/same", R_OK); } return 0; }
        int main() { pthread_t t[8];
            for (long i = 0; i < 8; i++) pthread_create(&t[i], 0, work, (void *)i);
            for (long i = 0; i < 8; i++) pthread_join(t[i], 0); return 0; }""",
        tmp_path / "program",
        "-pthread",
    )
    seen = observed.run([program], tmp_path)
    assert seen.complete, seen.gap
    paths = {access.path for access in seen.accesses}
    assert {b"/absent/%d/%d" % (t, i) for t in range(8) for i in range(5000)} <= paths
    assert observed.log.read_bytes().count(b"/absent/same\0") <= 8


def test_it_is_usable_before_libc_and_inside_the_allocator(
    observed: Observed, tmp_path: Path
) -> None:
    """An allocator that reads its configuration under a lock (jemalloc does) must not dead-lock."""
    allocator = compile_c(
        r"""#define _GNU_SOURCE
        #include <fcntl.h>
        #include <stddef.h>
        #include <stdlib.h>
        #include <unistd.h>
        static char arena[1 << 24]; static size_t used; static int busy, ready;
        static void *take(size_t n) {
            if (busy) abort(); /* a lock that is held */
            busy = 1;
            if (!ready) { char b[64]; readlink("/etc/malloc.conf", b, 64);
                secure_getenv("MALLOC_CONF"); open("/proc/absent", O_RDONLY);
                access("/absent-early", 0); ready = 1; }
            busy = 0;
            void *p = arena + used; used += (n + 31) & ~15ul; return p; }
        void *malloc(size_t n) { return take(n); }
        void *calloc(size_t a, size_t b) { return take(a * b); }
        void *realloc(void *p, size_t n) { char *q = take(n);
            for (size_t i = 0; p && i < n; i++) q[i] = ((char *)p)[i]; return q; }
        void free(void *p) { }
        __attribute__((constructor)) static void early(void) { malloc(1); }""",
        tmp_path / "alloc.so",
        *("-shared", "-fPIC"),
    )
    program = compile_c(
        "#include <stdlib.h>\nint main() { return !malloc(1); }",
        tmp_path / "program",
        *(os.fspath(allocator), f"-Wl,-rpath,{tmp_path}"),
    )
    seen = observed.run([program], tmp_path)
    assert observed.returncode == 0
    assert seen.complete
    assert find(seen, "/absent-early")
    assert b"MALLOC_CONF" in seen.env_names


def test_libraries_are_searched_as_without_us(observed: Observed, tmp_path: Path) -> None:
    """dlopen of a bare name uses the caller's RUNPATH; being in between must not lose it."""
    (tmp_path / "hidden").mkdir()
    compile_c("int x;", tmp_path / "hidden" / "libburst-test.so", "-shared", "-fPIC")
    program = compile_c(
        '#include <dlfcn.h>\nint main() { return !dlopen("libburst-test.so", RTLD_NOW); }',
        tmp_path / "program",
        *("-ldl", "-Wl,--enable-new-dtags", f"-Wl,-rpath,{tmp_path}/hidden"),
    )
    observed.run([program], tmp_path)
    assert observed.returncode == 0


def test_a_shell_script_is_observed(observed: Observed, tmp_path: Path) -> None:
    """Interpreters are ordinary programs: their hello comes too."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\ncat absent 2>/dev/null; exec /usr/bin/env\n")
    script.chmod(0o755)
    seen = observed.run([script], tmp_path)
    assert seen.complete, seen.gap
    assert find(seen, tmp_path / "absent")
    assert b"BURST" not in observed.stdout
    assert b"LD_PRELOAD" not in observed.stdout


def test_the_plain_launcher_observes(tools: NativeTools, tmp_path: Path) -> None:
    """Where there is no sandbox the observer alone carries the promise."""
    assert tools.observer is not None
    helper = None if tools.sandbox is None else os.fsencode(tools.sandbox)
    for path in {helper, None}:
        log = tmp_path / f"log-{path is None}"
        fd = os.open(log, os.O_CREAT | os.O_RDWR | os.O_APPEND)
        spec = SandboxSpec(
            mounts=(),
            argv=(b"/bin/cat", b"absent"),
            env=(),
            cwd=os.fsencode(tmp_path),
            observer_path=os.fsencode(tools.observer),
            observer_fd=fd,
        )
        with PlainLauncher(path).prepare(spec) as launch:
            subprocess.run(
                launch.argv,
                check=False,
                env=dict(launch.env),
                cwd=launch.cwd,
                pass_fds=launch.pass_fds,
                stderr=subprocess.DEVNULL,
                timeout=PATIENCE_S,
            )
        os.close(fd)
        seen = parse(log.read_bytes())
        assert seen.complete
        assert find(seen, tmp_path / "absent")
