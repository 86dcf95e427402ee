"""One run: a candidate is started, loaded, and ended, in a network of its own where that can be had.

A fresh network namespace for each run keeps the sockets that linger in TIME_WAIT from the next candidate's run, and
the congestion control can be set there without touching the machine's.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from .candidates import Place, candidate_of
from .scenarios import descriptors_for


def inside(order: dict) -> dict:
    """Does the run that `order` describes; the load tool's report, or what went wrong."""
    if order["isolated"]:
        set_up_network(order["congestion"])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    candidate = candidate_of(order)
    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        listen, backend = free_ports(2)
        # What the limit allows, not more: some candidates refuse to start otherwise.
        most = min(12_000, (hard - descriptors_for(0)) // 2)
        place = Place(Path(directory), listen, backend, most)
        if candidate.start is None:
            return load(order, ["--proxy", f"127.0.0.1:{backend}", "--backend", f"127.0.0.1:{backend}"])
        command = candidate.start(order["program"], place)
        log = open(Path(directory) / "output", "wb+")
        proxy = subprocess.Popen(
            pinned(order["proxy_core"], command),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **candidate.environment},
            start_new_session=True,
        )
        try:
            addresses = ["--proxy", f"127.0.0.1:{listen}", "--backend", f"127.0.0.1:{backend}"]
            report = load(order, [*addresses, "--pid", str(proxy.pid)])
        finally:
            # Its session is its own, so this ends the proxy and its children, and nothing else.
            os.killpg(proxy.pid, signal.SIGKILL)
            proxy.wait()
        if "problem" in report:
            log.seek(0)
            report["problem"] += "; it said: " + log.read()[-500:].decode(errors="replace").strip()
        return report


def load(order: dict, addresses: list[str]) -> dict:
    command = pinned(order["load_core"], [order["load"], *addresses, *order["arguments"]])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=order["timeout"], check=False)
    except subprocess.TimeoutExpired:
        return {"problem": f"not done within {order['timeout']} s"}
    if done.returncode != 0:
        return {"problem": done.stderr.strip()}
    return json.loads(done.stdout)


def pinned(core: int | None, command: list[str]) -> list[str]:
    return command if core is None else ["taskset", "-c", str(core), *command]


def set_up_network(congestion: str | None) -> None:
    run = lambda *command: subprocess.run(command, check=True, capture_output=True)
    run("ip", "link", "set", "lo", "up")
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("2048 65535")
    if congestion:
        # By route, not by sysctl: in a namespace the sysctl takes only what the host allows to everybody.
        for network in ("127.0.0.1", "127.0.0.0/8"):
            local = ["local", network, "dev", "lo", "table", "local", "proto", "kernel", "scope", "host"]
            run("ip", "route", "replace", *local, "src", "127.0.0.1", "congctl", congestion)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def isolation() -> list[str] | None:
    """The prefix that gives a command a network of its own; None if that is not to be had."""
    for prefix in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        try:
            done = subprocess.run([*prefix, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
        except FileNotFoundError:
            return None
        if done.returncode == 0:
            return prefix
    return None


def outside(order: dict, prefix: list[str] | None, script: str) -> dict:
    """Does the run in a process, and a network, of its own."""
    command = [*(prefix or []), sys.executable, script, "--inside", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"problem": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the run ended"}
    return json.loads(done.stdout)
