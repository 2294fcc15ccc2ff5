"""The one error tree of burst.

::

    BurstError                      never raised itself
    ├── UserError                   the user asked for something that cannot be
    │   ├── UsageError              a command line is wrong                       (2)
    │   ├── ConfigError             a configuration file is wrong                (10)
    │   ├── RemoteRequired          BURST_REQUIRE_REMOTE=1 and no remote run     (11)
    │   ├── SourceUnreadable        a file of the project cannot be read         (28)
    │   └── TooMuch                 more files for a mirror than likely meant    (29)
    ├── EnvironmentProblem          network, hosts, disks, other programs
    │   ├── Unreachable             a host does not answer                       (12)
    │   ├── HostKeyProblem          host key unknown or changed                  (13)
    │   ├── AuthenticationFailed    ssh refused us                               (14)
    │   ├── RemoteTooOld            no Python >= 3.11 there                      (15)
    │   ├── LinkLost                connection cut or silent                     (16)
    │   ├── AgentGone               the agent process ended                      (17)
    │   ├── DiskFull                no space left, here or there                 (18)
    │   ├── SandboxUnavailable      no namespaces, no bubblewrap                 (19)
    │   ├── ToolchainProblem        rustc not found or not understood            (20)
    │   ├── PlatformProblem         linker or libraries could not be captured    (21)
    │   ├── DaemonUnavailable       the daemon does not start or answer          (22)
    │   ├── Draining                that server takes no more work               (23)
    │   ├── ServiceUnavailable      a database that a program asks for           (26)
    │   └── NobodyListens           no server on that port of a project          (27)
    ├── DataProblem                 something stored or sent is not what it says
    │   ├── DigestMismatch          bytes do not have their digest               (30)
    │   ├── BlobMissing             the store lacks a blob                       (31)
    │   ├── LocalProtocolError      we misused the protocol                      (32)
    │   ├── RemoteProtocolError     the peer did                                 (33)
    │   └── VersionMismatch         the peer is another version                  (34)
    └── ExecutionProblem            the run itself, not the user's code
        ├── RustcKilled             rustc died by a signal                       (35)
        ├── LimitExceeded           time, memory or output limit                 (36)
        ├── Cancelled               nobody wants the result any more             (37)
        ├── AgentBug                the agent failed in a way it should not      (38)
        └── ProgramNotStarted       a program of the user's cannot be executed   (39)

Facts live on the classes (borg's habit): the docstring is the message template, `code` the stable
name that `explain` counts, `exit_code` the status of our own commands, `fallback` whether a unit
may compile at home instead. Exit codes are append-only. 70 is a bug in burst, 128+N a signal.
"""

from __future__ import annotations

from typing import ClassVar


class BurstError(Exception):
    """{detail}"""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"
    hint: ClassVar[str] = ""
    fallback: ClassVar[bool] = True

    def __init__(self, detail: str = "", **facts: object) -> None:
        self.detail = detail
        self.facts = facts
        super().__init__(detail)

    def __str__(self) -> str:
        template = (type(self).__doc__ or "{detail}").split("\n", 1)[0]
        try:
            return template.format(detail=self.detail, **self.facts)
        except (KeyError, IndexError):
            return self.detail or template


class UserError(BurstError):
    """{detail}"""

    fallback = False


class UsageError(UserError):
    """{detail}"""

    exit_code = 2
    code = "usage"
    hint = "see --help"


class ConfigError(UserError):
    """{path}: {detail}"""

    exit_code = 10
    code = "config"
    hint = "correct that line; the README lists every key with its default"


class RemoteRequired(UserError):
    """remote execution was required, but {detail}"""

    exit_code = 11
    code = "remote-required"
    hint = "unset BURST_REQUIRE_REMOTE to compile at home instead"


class SourceUnreadable(UserError):
    """cannot read {path}: {detail}"""

    exit_code = 28
    code = "source-unreadable"
    hint = "make it readable, or keep it at home: `exclude` in `.config/burst.toml`"


class TooMuch(UserError):
    """too much to copy without asking: {detail}"""

    exit_code = 29
    code = "too-much"
    hint = "`exclude` what programs do not need (`--sync-dry-run` lists all), or say `--yes`"


class EnvironmentProblem(BurstError):
    """{detail}"""


class Unreachable(EnvironmentProblem):
    """cannot reach {host}: {detail}"""

    exit_code = 12
    code = "unreachable"
    hint = "try `ssh` to the same host; units compile at home meanwhile"


class HostKeyProblem(EnvironmentProblem):
    """host key of {host} is not trusted: {detail}"""

    exit_code = 13
    code = "host-key"
    hint = "connect once with `ssh` and check the fingerprint, or correct known_hosts"


class AuthenticationFailed(EnvironmentProblem):
    """{host} refused our login: {detail}"""

    exit_code = 14
    code = "authentication"
    hint = "the same keys and agent as for `ssh` are used; try `ssh` to that host"


class RemoteTooOld(EnvironmentProblem):
    """{host} has no usable Python: {detail}"""

    exit_code = 15
    code = "remote-python"
    hint = "install Python 3.11 or newer there; nothing else is needed"


class LinkLost(EnvironmentProblem):
    """connection to {host} lost: {detail}"""

    exit_code = 16
    code = "link-lost"
    hint = "it is tried again with the next unit; `silence_s` sets the patience"


class AgentGone(EnvironmentProblem):
    """the agent ended: {detail}"""

    exit_code = 17
    code = "agent-gone"
    hint = "it is started again with the next unit; its log is named by `cargo burst explain`"


class DiskFull(EnvironmentProblem):
    """no space left: {detail}"""

    exit_code = 18
    code = "disk-full"
    hint = "free some space or lower `store_gb` in the configuration"


class SandboxUnavailable(EnvironmentProblem):
    """no sandbox: {detail}"""

    exit_code = 19
    code = "no-sandbox"
    hint = "allow user namespaces or install bubblewrap on that machine"


class ToolchainProblem(EnvironmentProblem):
    """toolchain: {detail}"""

    exit_code = 20
    code = "toolchain"
    hint = "check `rustc -vV`; cargo and rustc must be usable without burst first"


class PlatformProblem(EnvironmentProblem):
    """cannot capture the link environment: {detail}"""

    exit_code = 21
    code = "platform"
    hint = "links run at home; everything else is not affected"


class DaemonUnavailable(EnvironmentProblem):
    """the burst daemon is not available: {detail}"""

    exit_code = 22
    code = "daemon"
    hint = "see its log; `cargo burst stop` ends a daemon that hangs"


class Draining(EnvironmentProblem):
    """the server is about to go: {detail}"""

    exit_code = 23
    code = "draining"
    hint = "units compile at home; the next one that is worth it boots another server"


class ServiceUnavailable(EnvironmentProblem):
    """service {detail}"""

    exit_code = 26
    code = "service"
    hint = "install it on the machine that runs the program; `services` says which are started"


class NobodyListens(EnvironmentProblem):
    """cannot connect: {detail}"""

    exit_code = 27
    code = "nobody-listens"
    hint = "is the server running, and on 127.0.0.1, ::1 or all addresses?"


class DataProblem(BurstError):
    """{detail}"""


class DigestMismatch(DataProblem):
    """damaged data: {detail}"""

    exit_code = 30
    code = "digest-mismatch"
    hint = "the damaged entry was removed and will be made again"


class BlobMissing(DataProblem):
    """a stored blob is missing: {detail}"""

    exit_code = 31
    code = "blob-missing"
    hint = "the entry is dropped and will be made again"


class LocalProtocolError(DataProblem):
    """protocol misused by us: {detail}"""

    exit_code = 32
    code = "protocol-local"
    hint = "this is a bug in burst; please report it"


class RemoteProtocolError(DataProblem):
    """protocol misused by the peer: {detail}"""

    exit_code = 33
    code = "protocol-remote"
    hint = "the connection is made again"


class VersionMismatch(DataProblem):
    """the peer speaks another version: {detail}"""

    exit_code = 34
    code = "version"
    hint = "`cargo burst stop`, then build again"


class ExecutionProblem(BurstError):
    """{detail}"""


class RustcKilled(ExecutionProblem):
    """rustc was killed: {detail}"""

    exit_code = 35
    code = "rustc-killed"
    hint = "often memory; the unit was compiled at home"


class LimitExceeded(ExecutionProblem):
    """limit exceeded: {detail}"""

    exit_code = 36
    code = "limit"
    hint = "it protects the machine that compiles; the unit was compiled at home"


class Cancelled(ExecutionProblem):
    """cancelled: {detail}"""

    exit_code = 37
    code = "cancelled"
    hint = ""


class AgentBug(ExecutionProblem):
    """the agent failed: {detail}"""

    exit_code = 38
    code = "agent-bug"
    hint = "this is a bug in burst; agent.log in its store has the details"


class ProgramNotStarted(ExecutionProblem):
    """cannot start the program: {detail}"""

    exit_code = 39
    code = "program"
    hint = "is it built for the machine that runs it? `cargo burst run-local` runs it at home"
