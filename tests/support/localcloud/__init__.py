"""A local Hetzner Cloud for tests: its API on loopback, servers behind it, and a bill.

Made from Hetzner's OpenAPI document and research/hetzner.md (sections 2, 3, "Design consequences"
18-20), by another author than the clients it tests. It refuses what Hetzner refuses, and is driven
by the real `hcloud` library. It binds to loopback, answers for loopback only, and has no way out.

Fixtures (`pytest_plugins = ("cloud_fixtures",)`); after each test the cloud must hold exactly what
the test told `expect` (by default nothing), all its answers must have been of Hetzner's schema, and
nothing of the run may be left on this machine:

- `paper_cloud`: no machines at all. For rules of the API, faults, bills; 20 ms a test.
- `cloud`: one sshd process per server on 127.83.N.M (`processes`). No root; port 22 only as root,
  else by the file in BURST_TEST_SSH_PORTS. User data is followed as far as files go.
- `real_cloud`: nspawn containers with systemd, cloud-init, sshd, loop-mounted volumes, metadata
  service and firewall (`containers`). Root; mark such tests `root` and `slow`. The stock tree is
  made once (minutes) below ~/.cache/burst-tests.

An example: the second create is performed, but its answer is lost.

    pytest_plugins = ("cloud_fixtures",)

    def test_a_lost_answer_is_looked_up(paper_cloud: LocalCloud) -> None:
        client = paper_cloud.client()               # hcloud.Client; or paper_cloud.endpoint, .token
        paper_cloud.set_capacity("ccx63", "fsn1", 0)                   # 412 resource_unavailable
        paper_cloud.quota().dedicated_cores = 16                       # 403 beyond it
        paper_cloud.fault(Fault("POST /servers", "lost", nth=2))       # see faults.Fault
        paper_cloud.fail_action("attach_volume", "locked")             # accepted, fails later
        paper_cloud.next_server("ignores_shutdown")                    # see machines.Quirk
        paper_cloud.world.timings.create_image = 90                    # API seconds
        paper_cloud.faults.on("performed", kill_the_client, nth=7)     # at call number 7
        ...                                                            # the code under test
        paper_cloud.guest_off("burst-1")                               # the dead man struck
        paper_cloud.clock.advance(3600)                                # an hour passes
        paper_cloud.wait_for(lambda: paper_cloud.server("burst-1").status == "off", "off")
        assert paper_cloud.journal.operations().count("POST /servers") == 2
        assert paper_cloud.calls("POST /servers")[1].body["labels"]["burst"] == "1"
        assert paper_cloud.bill().cents == Decimal("0.14")
        paper_cloud.expect(volumes=["burst-cache"])

From another process: `python -m localcloud` (it prints endpoint, token and secret), and the control
path (`control`). API time is the cloud's `clock`, on which actions, locks, rate limit and bill run:
with `clock.scale = 0` only `advance` moves it. Knowing deviations stand in DEVIATIONS below.
"""

from typing import Final

from .clock import Clock
from .cloud import LocalCloud
from .control import Barrier
from .faults import Call, Fault
from .model import Firewall, Image, PrimaryIp, Server, SshKey, Volume
from .world import REALISTIC, Quota, Timings, Token

__all__ = [
    "REALISTIC",
    "Barrier",
    "Call",
    "Clock",
    "Fault",
    "Firewall",
    "Image",
    "LocalCloud",
    "PrimaryIp",
    "Quota",
    "Server",
    "SshKey",
    "Timings",
    "Token",
    "Volume",
]

DEVIATIONS: Final = """
Stricter: unknown fields and query parameters are 422 everywhere.
Guessed, as no source fixes them: an attached volume's delete is 422 `service_error`; unknown
types, images, keys and locations in a create are 422 `invalid_input`; changing a system image is
403 `forbidden`; names of limits in `resource_limit_exceeded`; shutdown or reboot of a server that
is off is 422 `service_error`; a volume counts as attached from the start of its attach action, and
as free from the end of its detach action; PUT is not hindered by locks (but firewalls answer
`conflict`).
Invented: prices outside the EU; that bills are of the whole seconds the API shows, that volumes
and snapshots bill started hours of a calendar month (`billing`); sizes of snapshots.
Absent: networks, floating IPs, load balancers, certificates, ISOs, placement groups, backups,
rebuild, rescue, change_type, metrics, DNS. Asking for them is 404, or 500 in a server's create.
Containers: one Debian stands for every system image; no DMI, so cloud-init reads the same data
from a NoCloud seed; power cuts leave file systems clean; loop devices instead of SCSI (no
`vpd_pg80`); detaching does not tear a mounted device away; no IPv6; a firewall's rules lie in the
server's own namespace.
"""
