"""The launcher: the fastest thing that `build.rustc-wrapper` can name.

Three lines of Python whose first one holds an absolute interpreter with `-I -S`, which pip and uv
drop from the scripts they install. It loads the cached bytecode of `hot.py` by its absolute path:
that works for editable installations too, whose `.pth` files `-S` ignores.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from burst_wrapper import hot, paths

if TYPE_CHECKING:
    from collections.abc import Mapping

# Kernels before 5.1 cut the first line of a script at 127 bytes, without an error.
MAX_SHEBANG_BYTES = 127

PYTHON_PART = """\
import posix, sys
from _frozen_importlib_external import SourceFileLoader
try:
    code = SourceFileLoader("burst_wrapper.hot", {module!r}).get_code("burst_wrapper.hot")
except OSError:  # burst was uninstalled: the compiler works without it
    posix.execv(sys.argv[{first}], sys.argv[{first}:])
module = {{"__name__": "burst_wrapper.hot", "__file__": {module!r}}}
exec(code, module)
module[{entry!r}]()
"""

# As in scripts/burst-rustc, which says why the environment goes along.
SHELL_PART = """\
#!/bin/sh
''':'
environ=$(tr '\\0\\n' '\\n\\1' 2>/dev/null </proc/$$/environ)
[ ${{#environ}} -lt 120000 ] || environ=
[ -x {interpreter} ] && exec {interpreter} -I -S "$0" "$environ" "$@"
exec "$@"
'''
"""


def launcher_path(environ: Mapping[bytes, bytes]) -> bytes:
    """Where `cargo burst enable` puts the launcher: $XDG_DATA_HOME/burst/bin/burst-rustc."""
    return paths.data_dir(environ) + b"/bin/" + hot.OWN_NAME


def launcher_text(interpreter: bytes, module: bytes) -> bytes:
    """The launcher for an interpreter and the absolute path of `hot.py`."""
    shebang = b"#!" + interpreter + b" -IS\n"
    if len(shebang) <= MAX_SHEBANG_BYTES and not set(interpreter) & set(b" \t"):
        head, first, entry = shebang, 1, "from_launcher"
    else:
        quoted = "'" + os.fsdecode(interpreter).replace("'", "'\\''") + "'"
        head = os.fsencode(SHELL_PART.format(interpreter=quoted))
        first, entry = 2, "from_script"
    python = PYTHON_PART.format(module=os.fsdecode(module), first=first, entry=entry)
    return head + os.fsencode(python)


def write_launcher(environ: Mapping[bytes, bytes]) -> bytes:
    """Write the launcher for this very interpreter and installation; returns its path.

    A launcher that is right already keeps its mtime: cargo asks a changed wrapper for rustc's
    version again.
    """
    path = launcher_path(environ)
    text = launcher_text(os.fsencode(sys.executable), os.fsencode(os.path.abspath(hot.__file__)))
    paths.write_atomically(path, text, mode=0o755, keep_equal=True)
    return path
