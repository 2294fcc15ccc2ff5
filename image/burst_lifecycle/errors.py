"""The branch of the error tree that clouds and servers add; see `burst_protocol.errors`.

::

    BurstError
    ├── UserError
    │   ├── NotConfigured           no `hetzner` in the configuration              (40)
    │   ├── TokenProblem            no token, or a file that others may read       (41)
    │   ├── NotTrusted              a project's file asks for what costs money     (42)
    │   └── OverBudget              it would cost more than was agreed             (43)
    └── EnvironmentProblem
        ├── CloudProblem            the API said no, or did not answer             (44)
        │   ├── Unauthorized        the token is revoked, or reads only            (45)
        │   ├── NotFound            that resource does not exist                   (46)
        │   ├── NoCapacity          not to be had here and now                     (47)
        │   ├── QuotaExceeded       the account's limit                            (48)
        │   ├── Busy                locked, conflicting or in use: later           (49)
        │   ├── NameTaken           that name or key exists                        (50)
        │   ├── Ambiguous           it may have been done: look before doing again (51)
        │   ├── ActionFailed        accepted, then failed                          (52)
        │   ├── DeadlinePassed      not done within its time                       (53)
        │   └── CloudUnreachable    no connection, certainly nothing done          (54)
        ├── StillBilling            something costs money and cannot be ended here (55)
        ├── NotOurs                 refused: it does not carry our labels          (56)
        ├── ServerProblem           a server that does not do what it should       (57)
        ├── ReaperProblem           what should run `reap` does not run it         (58)
        └── StillWorking            not deleted: something runs there              (59)
"""

from __future__ import annotations

from burst_protocol.errors import EnvironmentProblem, UserError


class NotConfigured(UserError):
    """no server is configured: {detail}"""

    exit_code = 40
    code = "not-configured"
    hint = "`cargo burst enable hetzner` shows what it costs and asks"


class TokenProblem(UserError):
    """no usable API token: {detail}"""

    exit_code = 41
    code = "token"
    hint = "a file that only you can read, or a command, under `token` in the configuration"


class NotTrusted(UserError):
    """{path} is not trusted: {detail}"""

    exit_code = 42
    code = "not-trusted"
    hint = "read it, then `cargo burst enable --trust` in that project"


class OverBudget(UserError):
    """it would cost more than agreed: {detail}"""

    exit_code = 43
    code = "budget"
    hint = "`max_eur_per_hour` and `budget_eur_per_month` in your own configuration set the limit"


class CloudProblem(EnvironmentProblem):
    """the cloud refused {what}: {detail}"""

    exit_code = 44
    code = "cloud"
    hint = "units compile at home meanwhile; `burst-admin doctor` looks closer"


class Unauthorized(CloudProblem):
    """the cloud does not accept the token for {what}: {detail}"""

    exit_code = 45
    code = "cloud-token"
    hint = "it needs read and write; until it works nothing can be deleted with it"


class NotFound(CloudProblem):
    """{what} does not exist"""

    exit_code = 46
    code = "cloud-not-found"
    hint = "`burst-admin status` lists what there is"


class NoCapacity(CloudProblem):
    """{what} cannot be had now: {detail}"""

    exit_code = 47
    code = "no-capacity"
    hint = "more entries in `server_type` and `location` give more chances"


class QuotaExceeded(CloudProblem):
    """the account's limit does not allow {what}: {detail}"""

    exit_code = 48
    code = "quota"
    hint = "ask for a higher limit in the console, or name smaller types in `server_type`"


class Busy(CloudProblem):
    """{what} is busy: {detail}"""

    exit_code = 49
    code = "cloud-busy"
    hint = "it is tried again"


class NameTaken(CloudProblem):
    """{what} exists already: {detail}"""

    exit_code = 50
    code = "cloud-name-taken"
    hint = "`burst-admin status` lists what there is"


class Ambiguous(CloudProblem):
    """no answer to {what}; it may have been done: {detail}"""

    exit_code = 51
    code = "cloud-ambiguous"
    hint = "the next command looks for it before anything else"


class ActionFailed(CloudProblem):
    """{what} was accepted and then failed: {detail}"""

    exit_code = 52
    code = "cloud-action"
    hint = "what there is of it is deleted; it is tried again"


class DeadlinePassed(CloudProblem):
    """{what} took too long: {detail}"""

    exit_code = 53
    code = "cloud-deadline"
    hint = "the next command looks for it before anything else"


class CloudUnreachable(CloudProblem):
    """the cloud cannot be reached for {what}: {detail}"""

    exit_code = 54
    code = "cloud-unreachable"
    hint = "is this machine online?"


class StillBilling(EnvironmentProblem):
    """something still costs money: {detail}"""

    exit_code = 55
    code = "still-billing"
    hint = "look into the console; `burst-admin status` names all of it"


class NotOurs(EnvironmentProblem):
    """refused to touch {what}: {detail}"""

    exit_code = 56
    code = "not-ours"
    hint = "what does not carry all of our labels is deleted by hand, in the console"


class ServerProblem(EnvironmentProblem):
    """server {what}: {detail}"""

    exit_code = 57
    code = "server"
    hint = "units compile at home meanwhile; it is deleted at its boot deadline at the latest"


class ReaperProblem(EnvironmentProblem):
    """the reaper is not installed: {detail}"""

    exit_code = 58
    code = "reaper"
    hint = "run `burst-admin reap` by hand until it is; the README has a recipe for scheduled jobs"


class StillWorking(EnvironmentProblem):
    """nothing was deleted, because something runs: {detail}"""

    exit_code = 59
    code = "still-working"
    hint = "wait, or add --force: what runs there is lost, and compiled again at home"
