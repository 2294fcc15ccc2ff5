"""`cargo burst enable` and `disable`: whether cargo calls us without being asked every time."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from typing import Any

from attrs import define

from burst_lifecycle.atomic_file import write_atomically
from burst_protocol.errors import ConfigError, EnvironmentProblem, UserError
from burst_wrapper import paths
from burst_wrapper.cargo_config import (
    Edit,
    NotWritable,
    config_file,
    read_text,
    set_wrapper,
    take_back,
    unset_wrapper,
    wrapper_in,
)
from burst_wrapper.launcher import launcher_path, remove_launcher, write_launcher

OWN_NAME = "burst-rustc"
_MORE = """also:
  cargo burst {verb} hetzner   servers that exist only while they are used; shows what they cost
  cargo burst {verb} --trust   this project's own .config/burst.toml
"""


class OtherWrapper(UserError):
    """{path} names another wrapper already: `{wrapper}`"""

    code = "other-wrapper"
    hint = "add --force to replace it; `cargo burst disable` puts it back"


class NotInstalled(EnvironmentProblem):
    """`burst-rustc` is not on PATH"""

    code = "not-installed"
    hint = "add the folder pip installed it to, or leave out --no-launcher"


class NoProject(UserError):
    """no cargo project here: {detail}"""

    code = "no-project"
    hint = "run it in the project's folder, or without --project for all of yours"


@define
class Record:
    """What `enable` did to one configuration file, kept until `disable`."""

    added: str
    removed: str
    previous: str | None
    created_file: bool
    created_folder: bool


class Records:
    """The records by configuration file, in the state folder (0600: they quote its lines)."""

    def __init__(self, environ: dict[bytes, bytes]) -> None:
        self._path = paths.state_dir(environ) + b"/enabled.json"
        try:
            with open(self._path, "rb") as file:
                entries: dict[str, dict[str, Any]] = json.load(file)
            self.entries = {name: Record(**entry) for name, entry in entries.items()}
        except FileNotFoundError:
            self.entries = {}
        except (OSError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(str(error), path=os.fsdecode(self._path)) from None

    def save(self) -> None:
        entries = {
            name: {field: getattr(record, field) for field in Record.__slots__ if field[0] != "_"}
            for name, record in self.entries.items()
        }
        if entries:
            text = json.dumps(entries, indent=2).encode()
            write_atomically(self._path, text, mode=0o600)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


def _elsewhere(args: list[str]) -> tuple[str, list[str]]:
    """`hetzner` and `--trust` are about other things than cargo's configuration."""
    if "hetzner" in args[:1]:
        return "hetzner", args[1:]
    return ("trust" if "--trust" in args else ""), args


def run(args: list[str]) -> int:
    """`cargo burst enable`."""
    subject, rest = _elsewhere(args)
    if subject:
        module = import_module(f"burst_wrapper.cli.{subject}")
        code: int = module.run(rest)
        return code
    parser = argparse.ArgumentParser(
        prog="cargo burst enable",
        description="Set `build.rustc-wrapper` in cargo's configuration, so that every cargo "
        "command, also the one of your editor, compiles through burst.",
        epilog=_MORE.format(verb="enable"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_project(parser)
    parser.add_argument(
        "--no-launcher",
        action="store_true",
        help="name `burst-rustc` instead of the launcher's path: slower by some milliseconds per "
        "call, but a project's configuration then fits every machine",
    )
    parser.add_argument("--force", action="store_true", help="replace another wrapper")
    options = parser.parse_args(args)
    environ = dict(os.environb)
    path = _config_path(environ, project=options.project)
    if options.no_launcher:
        if shutil.which(OWN_NAME) is None:
            raise NotInstalled
        wrapper = OWN_NAME
    else:
        # First, so that cargo's configuration never names a file that is not there.
        wrapper = os.fsdecode(_launcher(environ))
    changed = enable(path, wrapper, environ, force=options.force)
    state = "compiles through burst now" if changed else "compiled through burst already"
    print(f"cargo {state} ({os.fsdecode(path)})")
    _warn_of_variables(environ)
    return 0


def run_disable(args: list[str]) -> int:
    """`cargo burst disable`."""
    subject, rest = _elsewhere(args)
    if subject:
        module = import_module(f"burst_wrapper.cli.{subject}")
        code: int = module.run_disable(rest)
        return code
    parser = argparse.ArgumentParser(
        prog="cargo burst disable",
        description="Undo `cargo burst enable`: the configuration becomes what it was before.",
        epilog=_MORE.format(verb="disable"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_project(parser)
    options = parser.parse_args(args)
    environ = dict(os.environb)
    path = _config_path(environ, project=options.project)
    changed = disable(path, environ)
    if not Records(environ).entries:
        remove_launcher(environ)
    state = "compiles without burst now" if changed else "was not set to use burst"
    print(f"cargo {state} ({os.fsdecode(path)})")
    _warn_of_variables(environ)
    return 0


def enable(path: bytes, wrapper: str, environ: dict[bytes, bytes], *, force: bool) -> bool:
    """Set the wrapper in one file; False if it was set already. Raises BurstError."""
    text = read_text(path)
    current = wrapper_in(text or "", path)
    if current == wrapper:
        return False
    ours = current is not None and _is_ours(current)
    if current is not None and not ours and not force:
        raise OtherWrapper(path=os.fsdecode(path), wrapper=current)
    edit = set_wrapper(text or "", wrapper, path)
    records = Records(environ)
    name = os.fsdecode(path)
    old = records.entries.get(name)
    if ours and old is not None:  # another path to us: what `disable` restores stays the same
        old.added = old.added.replace(str(current), wrapper)
    else:
        records.entries[name] = Record(
            added=edit.added,
            removed="" if ours else edit.removed,
            previous=None if ours else current,
            created_file=text is None,
            created_folder=not os.path.isdir(os.path.dirname(path)),
        )
    # The record first: killed in between, `disable` finds nothing to undo and says so.
    _write(records.save, name)
    _write(lambda: write_atomically(path, edit.text.encode()), name)
    return True


def disable(path: bytes, environ: dict[bytes, bytes]) -> bool:
    """Take our wrapper out of one file; False if it was not there. Raises BurstError."""
    records = Records(environ)
    name = os.fsdecode(path)
    record = records.entries.pop(name, None)
    text = read_text(path)
    current = wrapper_in(text or "", path)
    found = text is not None and current is not None and _is_ours(current)
    if found and text is not None:
        if record is None:
            restored = unset_wrapper(text, None, path).text
        else:
            edit = Edit("", record.added, record.removed)
            restored = take_back(text, edit, record.previous, path)
        if record is not None and record.created_file and not restored.strip():
            _write(lambda: os.unlink(path), name)
            if record.created_folder:
                with contextlib.suppress(OSError):  # not empty any more
                    os.rmdir(os.path.dirname(path))
        else:
            _write(lambda: write_atomically(path, restored.encode()), name)
    _write(records.save, name)
    return found


def _launcher(environ: dict[bytes, bytes]) -> bytes:
    try:
        return write_launcher(environ)
    except OSError as error:
        path = error.filename or launcher_path(environ)
        raise NotWritable(error.strerror or str(error), path=os.fsdecode(path)) from None


def _write(action: Any, name: str) -> None:
    try:
        action()
    except OSError as error:
        path = os.fsdecode(error.filename or name)
        raise NotWritable(error.strerror or str(error), path=path) from None


def _is_ours(wrapper: str) -> bool:
    return os.path.basename(wrapper) == OWN_NAME


def _add_project(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--project",
        action="store_true",
        help="only for this workspace (.cargo/config.toml beside its Cargo.toml)",
    )


def _config_path(environ: dict[bytes, bytes], *, project: bool) -> bytes:
    if not project:
        return config_file(paths.cargo_home(environ))
    cargo = environ.get(b"CARGO") or b"cargo"
    command = [cargo, b"locate-project", b"--workspace", b"--message-format=plain"]
    try:
        answer = subprocess.run(command, capture_output=True, check=False, env=environ)
    except OSError as error:
        raise NoProject(f"cannot run cargo: {error.strerror}") from None
    if answer.returncode:
        lines = answer.stderr.decode("utf-8", "replace").splitlines() or ["cargo failed"]
        raise NoProject(lines[0].removeprefix("error: "))
    return config_file(os.path.dirname(answer.stdout.rstrip(b"\n")) + b"/.cargo")


def _warn_of_variables(environ: dict[bytes, bytes]) -> None:
    for variable in (b"RUSTC_WRAPPER", b"CARGO_BUILD_RUSTC_WRAPPER"):
        if variable in environ:
            text = os.fsdecode(variable + b"=" + environ[variable])
            print(f"warning: {text} in your environment overrides this", file=sys.stderr)
            return
