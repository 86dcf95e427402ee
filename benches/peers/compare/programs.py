"""Finds the programs that are compared, and builds the load tool."""

import os
import subprocess
import sys
from pathlib import Path

from .candidates import CANDIDATES

ROOT = Path(__file__).resolve().parent.parent.parent.parent


def find_programs(only: str | None, also: list[str]) -> dict[str, str]:
    """The programs of the candidates that are wanted and installed, and of those called NAME=PATH in `also`."""
    names = [candidate.name for candidate in CANDIDATES]
    wanted = only.split(",") if only else names
    unknown = [name for name in wanted if name not in names]
    if unknown:
        sys.exit(f"no such candidate: {', '.join(unknown)}; there are {', '.join(names)}")
    own = ROOT / "target/release/snigate"
    if "SNIGATE" not in os.environ and own.exists():
        os.environ["SNIGATE"] = str(own)
    programs = {}
    for candidate in CANDIDATES:
        if candidate.name not in wanted:
            continue
        program = candidate.find() if candidate.start else ""
        if program is None:
            tell(f"{candidate.name} is left out: not on PATH, and {candidate.variable} does not name it")
        else:
            programs[candidate.name] = program
    others = dict(pair.split("=", 1) for pair in also)
    return {**programs, **{name: str(Path(path).resolve()) for name, path in others.items()}}


def build_load() -> str:
    if "PEERS_LOAD" in os.environ:
        return os.environ["PEERS_LOAD"]
    target = ROOT / "target/peers-load"
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", str(target)]
    subprocess.run([*command, "--manifest-path", str(ROOT / "benches/peers/load/Cargo.toml")], check=True)
    return str(target / "release/peers-load")


def tell(text: str, end: str = "\n") -> None:
    if end == "\r" and not sys.stderr.isatty():
        return
    print(f"\033[2K{text}" if sys.stderr.isatty() else text, end=end, file=sys.stderr, flush=True)
