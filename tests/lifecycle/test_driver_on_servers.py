"""`--driver remote` with `[hetzner]` configured: cargo runs on a server that is booted for it."""

from __future__ import annotations

import pytest

from builds import machine
from faults import MANIFEST
from localcloud import LocalCloud
from server_builds import admin, configure, ready_servers

pytest_plugins = ("cloud_fixtures",)

BARE = {
    "bare/Cargo.toml": MANIFEST.format(name="bare")
    + '[profile.dev]\npanic = "abort"\n[workspace]\n',
    "bare/.cargo/config.toml": """\
[build]
rustflags = ["-Clinker=rust-lld", "-Clinker-flavor=ld.lld", "-Crelocation-model=static"]
""",
    "bare/src/main.rs": """\
#![no_std]
#![no_main]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
#[no_mangle]
pub extern "C" fn _start() -> ! {
    unsafe { core::arch::asm!("syscall", in("rax") 60, in("rdi") 7, options(noreturn)) }
}
""",
}
"""A program that rustc's own linker links, with nothing of any libc's."""


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_cargo_on_a_server_of_its_own(real_cloud: LocalCloud) -> None:
    """It has no Rust: home's is shown there, and links where no C compiler is wanted."""
    cloud = real_cloud
    with machine(CARGO_TERM_COLOR="never") as space:
        space.write({"Cargo.toml": MANIFEST.format(name="app"), "src/lib.rs": "fn  f( ) { }\n"})
        configure(space, cloud, boot_after_s=1_000_000)
        done = space.burst("check", "--driver", "remote").check()
        (server,) = ready_servers(cloud)
        assert "Checking app" in done.stderr
        assert "Finished" in done.stderr
        assert f"cargo ran on {server}" in done.stderr
        assert (space.project / "Cargo.lock").exists()
        assert space.units() == []
        space.burst("--driver", "remote", "fmt").check()
        assert (space.project / "src/lib.rs").read_text() == "fn f() {}\n"
        space.write(BARE)
        bare = space.project / "bare"
        space.burst("build", "--driver", "remote", cwd=bare).check()
        assert space.run(bare / "target/debug/bare").status == 7
        assert space.burst("run", "-q", "--driver", "remote", cwd=bare).status == 7
        assert ready_servers(cloud) == [server]
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
