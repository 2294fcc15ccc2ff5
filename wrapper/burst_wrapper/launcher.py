"""The launcher: the fastest thing that `build.rustc-wrapper` can name.

Where there is a C compiler it is the native client (`native/client.c`), with the Python launcher
beside it for whatever is unusual; else it is the Python launcher. Both lie in the data folder, so
that they survive when somebody empties the cache.

The Python launcher is three lines whose first one holds an absolute interpreter with `-I -S`, which
pip and uv drop from the scripts they install. It loads the cached bytecode of `hot.py` by its
absolute path: that works for editable installations too, whose `.pth` files `-S` ignores.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from burst_lifecycle.atomic_file import write_atomically
from burst_protocol.version import BUILD
from burst_wrapper import hot, paths
from burst_wrapper.native_build import build_client
from burst_wrapper.processes import find_program

if TYPE_CHECKING:
    from collections.abc import Mapping

# Kernels before 5.1 cut the first line of a script at 127 bytes, without an error.
MAX_SHEBANG_BYTES = 127
# Only x86 kernels have this file. The script can look for it without starting a process, unlike
# `uname`; a home folder may be shared between machines of two kinds.
X86_MARK = "/proc/sys/kernel/bootloader_type"

PYTHON_PART = """\
import posix, sys
from _frozen_importlib_external import SourceFileLoader
try:
    code = SourceFileLoader({name!r}, {module!r}).get_code({name!r})
except OSError:  # burst was uninstalled: what we stand before works without it
    {without}
module = {{"__name__": {name!r}, "__file__": {module!r}}}
exec(code, module)
module[{entry!r}]()
"""

# What comes before the names of a module's two entries, and what a launcher does without it.
ENTRIES = {
    "burst-rustc": ("", "posix.execv(sys.argv[{first}], sys.argv[{first}:])"),
    "burst-runner": ("", "posix.execv(sys.argv[{first}], sys.argv[{first}:])"),
    "burst-rustdoc": (
        "rustdoc_",
        'posix.execv("/usr/bin/env", ["env", "rustdoc", *sys.argv[{first}:]])',
    ),
}

# As in scripts/burst-rustc, which says why the environment goes along.
SHELL_PART = """\
#!/bin/sh
''':'
burst_environ=$(tr '\\0\\n' '\\n\\1' 2>/dev/null </proc/$$/environ)
[ ${{#burst_environ}} -lt 120000 ] || burst_environ=
[ -x {interpreter} ] && exec {interpreter} -I -S "$0" "$burst_environ" "$@"
exec "$@"
'''
"""


def launcher_path(environ: Mapping[bytes, bytes]) -> bytes:
    """Where `cargo burst enable` puts the launcher: $XDG_DATA_HOME/burst/bin/burst-rustc."""
    return paths.data_dir(environ) + b"/bin/" + hot.OWN_NAME


def launcher_text(interpreter: bytes, module: bytes, hook: str = "burst-rustc") -> bytes:
    """The launcher for an interpreter and the absolute path of the hook's module: `hot.py`, or
    `runner.py` for `burst-runner` and `burst-rustdoc`."""
    prefix, without = ENTRIES[hook]
    shebang = b"#!" + interpreter + b" -IS\n"
    if len(shebang) <= MAX_SHEBANG_BYTES and not set(interpreter) & set(b" \t"):
        head, first, entry = shebang, 1, prefix + "from_launcher"
    else:
        quoted = "'" + os.fsdecode(interpreter).replace("'", "'\\''") + "'"
        head = os.fsencode(SHELL_PART.format(interpreter=quoted))
        first, entry = 2, prefix + "from_script"
    path = os.fsdecode(module)
    python = PYTHON_PART.format(
        name="burst_wrapper." + os.path.basename(path).removesuffix(".py"),
        module=path,
        without=without.format(first=first),
        entry=entry,
    )
    return head + os.fsencode(python)


def python_launcher_path(environ: Mapping[bytes, bytes]) -> bytes:
    """Where the native launcher looks for the other one."""
    return launcher_path(environ) + b".py"


def write_launcher(environ: Mapping[bytes, bytes]) -> bytes:
    """Write the launcher for this very interpreter and installation; returns its path.

    A launcher that is right already keeps its mtime: cargo asks a changed wrapper for rustc's
    version again. Raises OSError.
    """
    path, python_path = launcher_path(environ), python_launcher_path(environ)
    text = launcher_text(os.fsencode(sys.executable), os.fsencode(os.path.abspath(hot.__file__)))
    cache_dir = paths.cache_dir(environ)
    client = build_client(find_program(b"cc", b"/", environ), native_dir(cache_dir))
    if client is None:
        write_atomically(path, text, mode=0o755, keep_equal=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(python_path)
    else:
        # The Python one first: it must be there before anything can need it.
        write_atomically(python_path, text, mode=0o755, keep_equal=True)
        write_atomically(path, client.read_bytes(), mode=0o755, keep_equal=True)
    return path


def write_hook(name: str, environ: Mapping[bytes, bytes]) -> bytes:
    """The launcher of `burst-runner` or `burst-rustdoc`, beside that of `burst-rustc`; its path.
    Raises OSError."""
    path = paths.data_dir(environ) + b"/bin/" + name.encode()
    module = os.path.join(os.path.dirname(os.path.abspath(hot.__file__)), "runner.py")
    text = launcher_text(os.fsencode(sys.executable), os.fsencode(module), name)
    write_atomically(path, text, mode=0o755, keep_equal=True)
    return path


def remove_launcher(environ: Mapping[bytes, bytes]) -> None:
    """Remove what `write_launcher` wrote, if anything."""
    for path in (launcher_path(environ), python_launcher_path(environ)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


# --- the client that the installed script starts ---


def native_dir(cache_dir: bytes) -> Path:
    """Where our native parts are built."""
    return Path(os.fsdecode(os.path.join(cache_dir, b"native")))


def client_path(cache_dir: bytes) -> bytes:
    """Where scripts/burst-rustc looks for the client: the name says what it belongs to."""
    machine = "x86" if os.path.exists(X86_MARK) else "other"
    name = f"client-{BUILD}-{hot.PROTOCOL.decode()}-{machine}"
    return os.path.join(cache_dir, name.encode())


def publish(client: Path, environ: Mapping[bytes, bytes], cache_dir: bytes) -> None:
    """Put a client that was just built where wrapper calls find it. Raises OSError.

    A native launcher becomes this client, too: an upgrade must not need another `cargo burst
    enable`.
    """
    content = client.read_bytes()
    write_atomically(client_path(cache_dir), content, mode=0o755, keep_equal=True)
    launcher = launcher_path(environ)
    if os.path.exists(python_launcher_path(environ)) and os.path.exists(launcher):
        write_atomically(launcher, content, mode=0o755, keep_equal=True)
