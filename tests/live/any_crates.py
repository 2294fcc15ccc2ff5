"""Any crates of the registry, built by plain cargo and through burst: compared.

    python tests/live/any_crates.py num_enum 'clap=4+derive' --release
    python tests/live/any_crates.py --verb check leptos+ssr

No test: the crates are whatever the registry has today. For who looks for what the tests do not
know. A package that depends on them is made, with a program that uses nothing of them. It is built
with an empty store (`cold`), from the store (`warm`), and edited in a target/ that plain cargo has
filled, of which burst knows nothing (`edit`). Prints what differs, which units ran at home and why,
and which were not in the store the second time; exit status 1 if anything differs, or if cargo
failed with burst alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from builds import machine, normal, with_env  # noqa: E402
from compare import compare_targets, report  # noqa: E402
from space import BURST_RUSTC, Done, Space  # noqa: E402

_MANIFEST = '[package]\nname = "crates-by-hand"\nedition = "2021"\n[dependencies]\n'


def dependency(word: str) -> str:
    """A line of a manifest, from `NAME[=VERSION][+FEATURE,…]`."""
    rest, _, features = word.partition("+")
    name, _, version = rest.partition("=")
    listed = ", ".join(f'"{feature}"' for feature in features.split(",") if feature)
    return f'{name} = {{ version = "{version or "*"}", features = [{listed}] }}\n'


def differences(plain: Done, burst: Done, space: Space, which: str) -> list[str]:
    """Between plain cargo's build, set aside, and this one."""
    found = []
    if plain.status != burst.status:
        found.append(f"{which}: status {burst.status}\n{burst.stderr[-3000:]}")
    elif plain.status == 0:
        pair = space.project / "target.plain", space.project / "target"
        if unlike := compare_targets(*pair, incremental=False):
            found.append(f"{which}:\n{report(unlike)}")
    said = [Counter(normal(done.stderr).splitlines()) for done in (plain, burst)]
    more, less = said[1] - said[0], said[0] - said[1]
    if plain.status == 0 and (more or less):
        found.append(f"{which}: said besides: {list(more)}; not said: {list(less)}")
    return found


def edited(space: Space, argv: list[str]) -> Done:
    """An edit, and what plain cargo makes of it; target/ is as it was before."""
    before, target = space.project / "target.plain", space.project / "target"
    shutil.copytree(before, target, symlinks=True)
    space.write({"src/main.rs": "fn main() { println!() }\n"})
    os.utime(space.project / "src/main.rs")
    plain = space.plain(*argv)
    target.rename(space.project / "target.edited")
    before.rename(target)
    (space.project / "target.edited").rename(before)
    return plain


def main() -> int:
    """Build and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("crates", nargs="+", metavar="NAME[=VERSION][+FEATURE,...]")
    parser.add_argument("--verb", default="build")
    parser.add_argument("--release", action="store_true")
    options = parser.parse_args()
    argv = [options.verb, "--offline", *(["--release"] if options.release else [])]
    with machine() as made:
        space = with_env(made, {"CARGO_INCREMENTAL": "0"})
        dependencies = "".join(map(dependency, options.crates))
        space.write({"Cargo.toml": _MANIFEST + dependencies, "src/main.rs": "fn main() {}\n"})
        fetched = space.plain("fetch")
        if fetched.status != 0:
            print(fetched.stderr, file=sys.stderr)
            return 2
        plain = space.plain(*argv)
        if plain.status != 0:
            print(f"plain cargo fails:\n{plain.stderr[-1500:]}", file=sys.stderr)
        if (space.project / "target").exists():
            (space.project / "target").rename(space.project / "target.plain")
        wrong = []
        for which in ("cold", "warm", "edit"):
            space.fresh_target()
            if which == "edit":
                space.forget_store()
                plain = edited(space, argv)
            burst = space.plain(*argv, RUSTC_WRAPPER=str(BURST_RUSTC))
            wrong += differences(plain, burst, space, which)
            units = space.units()
            print(f"{which}: {dict(Counter(unit['where'] for unit in units))}")
            for unit in units:
                if unit["where"] != "hit" and (which == "warm" or unit["where"] != "remote"):
                    print("  ", *(unit[name] for name in ("crate", "kind", "where", "why")))
        if "Traceback" in (log := space.log()):
            wrong.append(log)
        print("\n".join(wrong) or f"equal: {' '.join(options.crates)}")
        return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
