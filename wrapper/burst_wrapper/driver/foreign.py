"""Which of the files that came back cannot run on this machine, and why.

Magic numbers and fields of elf(5), Apple's `mach-o/loader.h` and Microsoft's PE format.
"""

from __future__ import annotations

import os
import struct
from typing import Final

_MACHINES: Final = {
    3: "x86",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC64",
    22: "s390x",
    40: "ARM",
    62: "x86-64",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}
"""By e_machine."""
_RUNS: Final = {
    "x86_64": {("x86-64", 64), ("x86-64", 32), ("x86", 32)},
    "i686": {("x86", 32)},
    "i386": {("x86", 32)},
    "aarch64": {("AArch64", 64)},
    "arm64": {("AArch64", 64)},
    "armv7l": {("ARM", 32)},
    "armv6l": {("ARM", 32)},
    "riscv64": {("RISC-V", 64)},
    "ppc64le": {("PowerPC64", 64)},
    "ppc64": {("PowerPC64", 64)},
    "s390x": {("s390x", 64)},
    "loongarch64": {("LoongArch", 64)},
}
"""What a kernel's machine (uname(2)) executes. A 64-bit ARM kernel may do without 32 bits."""
_MACHO: Final = (b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_HEADER_BYTES: Final = 20


def why_not(path: bytes, system: str = "", machine: str = "") -> str | None:
    """Why the program in that file cannot run here; None if it may, or is no program we know.

    `system` and `machine` as of uname(2), by default this machine's. OSError.
    """
    system, machine = system or os.uname().sysname, machine or os.uname().machine
    with open(path, "rb") as file:
        kind = describe(file.read(_HEADER_BYTES))
    if kind is None:
        return None
    made_for, architecture, bits = kind
    if made_for != system:
        return f"it is for {made_for}, this is {_spoken(system)}"
    allowed = _RUNS.get(machine)
    if system == "Linux" and allowed is not None and (architecture, bits) not in allowed:
        return f"it is for {architecture}, this machine is {machine}"
    return None


def describe(head: bytes) -> tuple[str, str, int] | None:
    """System (as uname says it), architecture and bits of a program, by its first 20 bytes."""
    if head[:4] == b"\x7fELF" and len(head) >= _HEADER_BYTES:
        order = ">" if head[5] == 2 else "<"
        (number,) = struct.unpack_from(order + "H", head, 18)
        return "Linux", _MACHINES.get(number, f"machine {number}"), 64 if head[4] == 2 else 32
    if head[:4] in _MACHO:
        return "Darwin", "", 64
    if head[:2] == b"MZ":
        return "Windows", "", 64
    return None


def _spoken(system: str) -> str:
    return "macOS" if system == "Darwin" else system
