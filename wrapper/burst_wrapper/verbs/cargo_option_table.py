"""The options of all verbs of cargo 1.95 and nextest 0.9.143, from their `--help`.

Written by `tests/support/cargo_help.py`, which adds what an installed one has besides, and compared
with it by `tests/contract/test_cargo_options.py`. `--x=` takes a value, `--x=?` may take one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# <table>
TABLE: Final[Mapping[str, str]] = {
    "add": (
        "--base= --branch= --build --color= --config= --default-features --dev --dry-run "
        "--features= --frozen --git= --ignore-rust-version --locked --manifest-path= "
        "--no-default-features --no-optional --no-public --offline --optional --package=? "
        "--path= --public --quiet --registry= --rename= --rev= --tag= --target= --verbose -F= "
        "-Z= -n -p=? -q -v"
    ),
    "bench": (
        "--all --all-features --all-targets --bench=? --benches --bin=? --bins --color= "
        "--config= --example=? --examples --exclude= --features= --frozen "
        "--ignore-rust-version --jobs= --lib --locked --manifest-path= --message-format= "
        "--no-default-features --no-fail-fast --no-run --offline --package=? --profile= "
        "--quiet --target=? --target-dir= --test=? --tests --timings --unit-graph --verbose "
        "--workspace -F= -Z= -j= -p=? -q -v"
    ),
    "build": (
        "--all --all-features --all-targets --artifact-dir= --bench=? --benches --bin=? "
        "--bins --color= --config= --example=? --examples --exclude= --features= --frozen "
        "--future-incompat-report --ignore-rust-version --jobs= --keep-going --lib --locked "
        "--manifest-path= --message-format= --no-default-features --offline --package=? "
        "--profile= --quiet --release --target=? --target-dir= --test=? --tests --timings "
        "--unit-graph --verbose --workspace -F= -Z= -j= -p=? -q -r -v"
    ),
    "check": (
        "--all --all-features --all-targets --bench=? --benches --bin=? --bins --color= "
        "--config= --example=? --examples --exclude= --features= --frozen "
        "--future-incompat-report --ignore-rust-version --jobs= --keep-going --lib --locked "
        "--manifest-path= --message-format= --no-default-features --offline --package=? "
        "--profile= --quiet --release --target=? --target-dir= --test=? --tests --timings "
        "--unit-graph --verbose --workspace -F= -Z= -j= -p=? -q -r -v"
    ),
    "clean": (
        "--color= --config= --doc --dry-run --frozen --locked --manifest-path= --offline "
        "--package=? --profile= --quiet --release --target=? --target-dir= --verbose "
        "--workspace -Z= -n -p=? -q -r -v"
    ),
    "clippy": (
        "--all --all-features --all-targets --allow-dirty --allow-no-vcs --allow-staged "
        "--bench=? --benches --bin=? --bins --broken-code --color= --config= --edition "
        "--example=? --examples --exclude= --explain= --features= --fix --frozen "
        "--future-incompat-report --ignore-rust-version --jobs= --keep-going --lib --locked "
        "--manifest-path= --message-format= --no-default-features --no-deps --offline "
        "--package=? --profile= --quiet --release --target=? --target-dir= --test=? --tests "
        "--timings --unit-graph --verbose --version --workspace -F= -V -Z= -j= -p=? -q -r -v"
    ),
    "config": ("--color= --config= --frozen --locked --offline --quiet --verbose -Z= -q -v"),
    "doc": (
        "--all --all-features --bin=? --bins --color= --config= --document-private-items "
        "--example=? --examples --exclude= --features= --frozen --ignore-rust-version --jobs= "
        "--keep-going --lib --locked --manifest-path= --message-format= --no-default-features "
        "--no-deps --offline --open --package=? --profile= --quiet --release --target=? "
        "--target-dir= --timings --unit-graph --verbose --workspace -F= -Z= -j= -p=? -q -r -v"
    ),
    "fetch": (
        "--color= --config= --frozen --locked --manifest-path= --offline --quiet --target=? "
        "--verbose -Z= -q -v"
    ),
    "fix": (
        "--all --all-features --all-targets --allow-dirty --allow-no-vcs --allow-staged "
        "--bench=? --benches --bin=? --bins --broken-code --color= --config= --edition "
        "--edition-idioms --example=? --examples --exclude= --features= --frozen "
        "--ignore-rust-version --jobs= --keep-going --lib --locked --manifest-path= "
        "--message-format= --no-default-features --offline --package=? --profile= --quiet "
        "--release --target=? --target-dir= --test=? --tests --timings --verbose --workspace "
        "-F= -Z= -j= -p=? -q -r -v"
    ),
    "generate-lockfile": (
        "--color= --config= --frozen --ignore-rust-version --locked --manifest-path= "
        "--offline --publish-time= --quiet --verbose -Z= -q -v"
    ),
    "help": ("--color= --config= --frozen --locked --offline --quiet --verbose -Z= -q -v"),
    "info": (
        "--color= --config= --frozen --index= --locked --offline --quiet --registry= "
        "--verbose -Z= -q -v"
    ),
    "init": (
        "--bin --color= --config= --edition= --frozen --lib --locked --name= --offline "
        "--quiet --registry= --vcs= --verbose -Z= -q -v"
    ),
    "install": (
        "--all-features --bin=? --bins --branch= --color= --config= --debug --dry-run "
        "--example=? --examples --features= --force --frozen --git= --ignore-rust-version "
        "--index= --jobs= --keep-going --list --locked --message-format= "
        "--no-default-features --no-track --offline --path= --profile= --quiet --registry= "
        "--rev= --root= --tag= --target=? --target-dir= --timings --verbose --version= -F= "
        "-Z= -f -j= -n -q -v"
    ),
    "locate-project": (
        "--color= --config= --frozen --locked --manifest-path= --message-format= --offline "
        "--quiet --verbose --workspace -Z= -q -v"
    ),
    "login": (
        "--color= --config= --frozen --locked --offline --quiet --registry= --verbose -Z= -q -v"
    ),
    "logout": (
        "--color= --config= --frozen --locked --offline --quiet --registry= --verbose -Z= -q -v"
    ),
    "metadata": (
        "--all-features --color= --config= --features= --filter-platform= --format-version= "
        "--frozen --locked --manifest-path= --no-default-features --no-deps --offline --quiet "
        "--verbose -F= -Z= -q -v"
    ),
    "new": (
        "--bin --color= --config= --edition= --frozen --lib --locked --name= --offline "
        "--quiet --registry= --vcs= --verbose -Z= -q -v"
    ),
    "nextest archive": (
        "--all --all-features --all-targets --archive-file= --archive-format= --bench= "
        "--benches --bin= --bins --build-jobs= --cargo-message-format= --cargo-profile= "
        "--cargo-quiet --cargo-verbose --color= --config= --config-file= --example= "
        "--examples --exclude= --features= --filterset= --frozen --future-incompat-report "
        "--ignore-rust-version --lib --locked --manifest-path= --no-default-features "
        "--no-pager --offline --override-version-check --package= --profile= --release "
        "--target= --target-dir= --test= --tests --timings --tool-config-file= --unit-graph "
        "--user-config-file= --verbose --workspace --zstd-level= -E= -F= -P= -Z= -p= -r -v"
    ),
    "nextest bench": (
        "--all --all-features --all-targets --bench= --benches --bin= --bins --build-jobs= "
        "--cargo-message-format= --cargo-profile= --cargo-quiet --cargo-verbose --color= "
        "--config= --config-file= --debugger= --example= --examples --exclude= --fail-fast "
        "--features= --ff --filterset= --frozen --future-incompat-report "
        "--ignore-default-filter --ignore-rust-version --lib --locked --manifest-path= "
        "--max-fail= --nff --no-capture --no-default-features --no-fail-fast "
        "--no-input-handler --no-pager --no-run --no-tests= --offline "
        "--override-version-check --package= --partition= --platform-filter= --profile= "
        "--release --run-ignored= --show-progress= --stress-count= --stress-duration= "
        "--target= --target-dir= --test= --tests --timings --tool-config-file= --tracer= "
        "--unit-graph --user-config-file= --verbose --workspace -E= -F= -P= -Z= -p= -r -v"
    ),
    "nextest list": (
        "--all --all-features --all-targets --archive-file= --archive-format= --bench= "
        "--benches --bin= --binaries-metadata= --bins --build-dir-remap= --build-jobs= "
        "--cargo-message-format= --cargo-metadata= --cargo-profile= --cargo-quiet "
        "--cargo-verbose --color= --config= --config-file= --example= --examples --exclude= "
        "--extract-overwrite --extract-to= --features= --filterset= --frozen "
        "--future-incompat-report --ignore-default-filter --ignore-rust-version --lib "
        "--list-type= --locked --manifest-path= --message-format= --no-default-features "
        "--no-pager --offline --override-version-check --package= --partition= "
        "--persist-extract-tempdir --platform-filter= --profile= --release --run-ignored= "
        "--show-progress= --target= --target-dir= --target-dir-remap= --test= --tests "
        "--timings --tool-config-file= --unit-graph --user-config-file= --verbose --workspace "
        "--workspace-remap= -E= -F= -P= -T= -Z= -p= -r -v"
    ),
    "nextest run": (
        "--all --all-features --all-targets --archive-file= --archive-format= --bench= "
        "--benches --bin= --binaries-metadata= --bins --build-dir-remap= --build-jobs= "
        "--cargo-message-format= --cargo-metadata= --cargo-profile= --cargo-quiet "
        "--cargo-verbose --color= --config= --config-file= --debugger= --example= --examples "
        "--exclude= --extract-overwrite --extract-to= --fail-fast --failure-output= "
        "--features= --ff --filterset= --final-status-level= --flaky-result= --frozen "
        "--future-incompat-report --hide-progress-bar --ignore-default-filter "
        "--ignore-rust-version --jobs= --lib --locked --manifest-path= --max-fail=? "
        "--max-progress-running= --message-format= --message-format-version= --nff "
        "--no-capture --no-default-features --no-fail-fast --no-input-handler "
        "--no-output-indent --no-pager --no-run --no-tests= --offline "
        "--override-version-check --package= --partition= --persist-extract-tempdir "
        "--platform-filter= --profile= --release --rerun= --retries= --run-ignored= "
        "--show-progress= --status-level= --stress-count= --stress-duration= "
        "--success-output= --target= --target-dir= --target-dir-remap= --test= "
        "--test-threads= --tests --timings --tool-config-file= --tracer= --unit-graph "
        "--user-config-file= --verbose --workspace --workspace-remap= -E= -F= -P= -R= -Z= -j= "
        "-p= -r -v"
    ),
    "nextest self": (
        "--color= --config-file= --manifest-path= --no-pager --override-version-check "
        "--profile= --tool-config-file= --user-config-file= --verbose -P= -v"
    ),
    "nextest self schema": (
        "--color= --config-file= --manifest-path= --no-pager --override-version-check "
        "--profile= --tool-config-file= --user-config-file= --verbose -P= -v"
    ),
    "nextest self schema repo-config": (
        "--color= --config-file= --manifest-path= --no-pager --output= "
        "--override-version-check --profile= --tool-config-file= --user-config-file= "
        "--verbose -P= -o= -v"
    ),
    "nextest self schema user-config": (
        "--color= --config-file= --manifest-path= --no-pager --output= "
        "--override-version-check --profile= --tool-config-file= --user-config-file= "
        "--verbose -P= -o= -v"
    ),
    "nextest self update": (
        "--beta --check --color= --config-file= --force --manifest-path= --no-pager "
        "--override-version-check --profile= --rc --releases-url= --tool-config-file= "
        "--user-config-file= --verbose --version= --yes -P= -f -n -v -y"
    ),
    "nextest show-config": (
        "--color= --config-file= --manifest-path= --no-pager --override-version-check "
        "--profile= --tool-config-file= --user-config-file= --verbose -P= -v"
    ),
    "nextest show-config test-groups": (
        "--all --all-features --all-targets --archive-file= --archive-format= --bench= "
        "--benches --bin= --binaries-metadata= --bins --build-dir-remap= --build-jobs= "
        "--cargo-message-format= --cargo-metadata= --cargo-profile= --cargo-quiet "
        "--cargo-verbose --color= --config= --config-file= --example= --examples --exclude= "
        "--extract-overwrite --extract-to= --features= --filterset= --frozen "
        "--future-incompat-report --groups= --ignore-default-filter --ignore-rust-version "
        "--lib --locked --manifest-path= --no-default-features --no-pager --offline "
        "--override-version-check --package= --partition= --persist-extract-tempdir "
        "--platform-filter= --profile= --release --run-ignored= --show-default --target= "
        "--target-dir= --target-dir-remap= --test= --tests --timings --tool-config-file= "
        "--unit-graph --user-config-file= --verbose --workspace --workspace-remap= -E= -F= "
        "-P= -Z= -p= -r -v"
    ),
    "nextest show-config version": (
        "--color= --config-file= --manifest-path= --no-pager --override-version-check "
        "--profile= --tool-config-file= --user-config-file= --verbose -P= -v"
    ),
    "owner": (
        "--add= --color= --config= --frozen --index= --list --locked --offline --quiet "
        "--registry= --remove= --token= --verbose -Z= -a= -l -q -r= -v"
    ),
    "package": (
        "--all-features --allow-dirty --color= --config= --exclude= --exclude-lockfile "
        "--features= --frozen --index= --jobs= --keep-going --list --locked --manifest-path= "
        "--message-format= --no-default-features --no-metadata --no-verify --offline "
        "--package=? --quiet --registry= --target=? --target-dir= --verbose --workspace -F= "
        "-Z= -j= -l -p=? -q -v"
    ),
    "pkgid": (
        "--color= --config= --frozen --locked --manifest-path= --offline --package=? --quiet "
        "--verbose -Z= -p=? -q -v"
    ),
    "publish": (
        "--all-features --allow-dirty --color= --config= --dry-run --exclude= --features= "
        "--frozen --index= --jobs= --keep-going --locked --manifest-path= "
        "--no-default-features --no-verify --offline --package=? --quiet --registry= "
        "--target=? --target-dir= --verbose --workspace -F= -Z= -j= -n -p=? -q -v"
    ),
    "read-manifest": (
        "--color= --config= --frozen --locked --manifest-path= --offline --quiet --verbose "
        "-Z= -q -v"
    ),
    "remove": (
        "--build --color= --config= --dev --dry-run --frozen --locked --manifest-path= "
        "--offline --package=? --quiet --target= --verbose -Z= -n -p=? -q -v"
    ),
    "report": ("--color= --config= --frozen --locked --offline --quiet --verbose -Z= -q -v"),
    "run": (
        "--all-features --bin=? --color= --config= --example=? --features= --frozen "
        "--ignore-rust-version --jobs= --keep-going --locked --manifest-path= "
        "--message-format= --no-default-features --offline --package=? --profile= --quiet "
        "--release --target=? --target-dir= --timings --unit-graph --verbose -F= -Z= -j= -p=? "
        "-q -r -v"
    ),
    "rustc": (
        "--all-features --all-targets --bench=? --benches --bin=? --bins --color= --config= "
        "--crate-type= --example=? --examples --features= --frozen --future-incompat-report "
        "--ignore-rust-version --jobs= --keep-going --lib --locked --manifest-path= "
        "--message-format= --no-default-features --offline --package=? --print= --profile= "
        "--quiet --release --target=? --target-dir= --test=? --tests --timings --unit-graph "
        "--verbose -F= -Z= -j= -p=? -q -r -v"
    ),
    "rustdoc": (
        "--all-features --all-targets --bench=? --benches --bin=? --bins --color= --config= "
        "--example=? --examples --features= --frozen --ignore-rust-version --jobs= "
        "--keep-going --lib --locked --manifest-path= --message-format= --no-default-features "
        "--offline --open --output-format= --package=? --profile= --quiet --release "
        "--target=? --target-dir= --test=? --tests --timings --unit-graph --verbose -F= -Z= "
        "-j= -p=? -q -r -v"
    ),
    "search": (
        "--color= --config= --frozen --index= --limit= --locked --offline --quiet --registry= "
        "--verbose -Z= -q -v"
    ),
    "test": (
        "--all --all-features --all-targets --bench=? --benches --bin=? --bins --color= "
        "--config= --doc --example=? --examples --exclude= --features= --frozen "
        "--future-incompat-report --ignore-rust-version --jobs= --lib --locked "
        "--manifest-path= --message-format= --no-default-features --no-fail-fast --no-run "
        "--offline --package=? --profile= --quiet --release --target=? --target-dir= --test=? "
        "--tests --timings --unit-graph --verbose --workspace -F= -Z= -j= -p=? -q -r -v"
    ),
    "tree": (
        "--all-features --charset= --color= --config= --depth= --duplicates --edges= "
        "--exclude= --features= --format= --frozen --invert=? --locked --manifest-path= "
        "--no-dedupe --no-default-features --offline --package=? --prefix= --prune= --quiet "
        "--target=? --verbose --workspace -F= -Z= -d -e= -f= -i=? -p=? -q -v"
    ),
    "uninstall": (
        "--bin= --color= --config= --frozen --locked --offline --package=? --quiet --root= "
        "--verbose -Z= -p=? -q -v"
    ),
    "update": (
        "--breaking --color= --config= --dry-run --frozen --ignore-rust-version --locked "
        "--manifest-path= --offline --precise= --quiet --recursive --verbose --workspace -Z= "
        "-b -n -q -v -w"
    ),
    "vendor": (
        "--color= --config= --frozen --locked --manifest-path= --no-delete --offline --quiet "
        "--respect-source-config --sync= --verbose --versioned-dirs -Z= -q -s= -v"
    ),
    "verify-project": (
        "--color= --config= --frozen --locked --manifest-path= --offline --quiet --verbose "
        "-Z= -q -v"
    ),
    "version": ("--color= --config= --frozen --locked --offline --quiet --verbose -Z= -q -v"),
    "yank": (
        "--color= --config= --frozen --index= --locked --offline --quiet --registry= --token= "
        "--undo --verbose --version= -Z= -q -v"
    ),
}
# </table>
