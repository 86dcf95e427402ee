"""What the load tool does, and which figures come of it.

Each figure is a function of the tool's report. The first one of a scenario is what candidates are compared by; less
is better there.
"""

from dataclasses import dataclass
from typing import Callable

Report = dict[str, float]


@dataclass
class Figure:
    head: str
    of: Callable[[Report], float]
    digits: int = 2


@dataclass
class Scenario:
    name: str
    title: str
    arguments: list[str]
    figures: list[Figure]
    # Connections that are open at a time; the descriptor limit must allow twice as many, and some.
    open: int = 200
    # What a proxy alone can be asked, not `direct`.
    needs_proxy: bool = False


def per_second(count: str) -> Callable[[Report], float]:
    return lambda report: report[count] / report["seconds"]


def cpu_micros(count: str) -> Callable[[Report], float]:
    return lambda report: report["cpu_seconds"] * 1e6 / report[count]


def gigabytes(report: Report) -> float:
    return (report["bytes_down"] + report["bytes_up"]) / 1e9


CPU_PER_GB = Figure("CPU s/GB", lambda report: report["cpu_seconds"] / gigabytes(report), 3)
GB_PER_SECOND = Figure("GB/s", lambda report: gigabytes(report) / report["seconds"])
P50 = Figure("p50 µs", lambda report: report["p50_us"], 0)
P99 = Figure("p99 µs", lambda report: report["p99_us"], 0)
PER_CONNECTION = [
    Figure("CPU µs/connection", cpu_micros("connections"), 1),
    Figure("connections/s", per_second("connections"), 0),
]


def bulk(streams: int, flow: str) -> Scenario:
    title = f"{streams} bulk stream{'s' if streams > 1 else ''}, {flow}"
    arguments = ["--bulk", str(streams), "--flow", flow]
    return Scenario(f"bulk-{streams}-{flow}", title, arguments, [CPU_PER_GB, GB_PER_SECOND])


def trips(connections: int) -> Scenario:
    figures = [Figure("CPU µs/trip", cpu_micros("trips"), 2), Figure("trips/s", per_second("trips"), 0), P50, P99]
    title = f"512 B round trips, {connections} connection{'s' if connections > 1 else ''}"
    return Scenario(f"trips-{connections}", title, ["--trips", str(connections)], figures)


def idle(connections: int) -> Scenario:
    held = Figure("bytes/idle relay", lambda r: (r["rss_held"] - r["rss_before"]) / r["idle"], 0)
    before = Figure("MB before", lambda r: r["rss_before"] / 1e6, 1)
    after = Figure("MB after", lambda r: r["rss_after"] / 1e6, 1)
    ratio = Figure("after/before", lambda r: r["rss_after"] / r["rss_before"], 2)
    arguments = ["--idle", str(connections)]
    title = f"{connections} idle relays, resident memory"
    return Scenario(f"idle-{connections}", title, arguments, [held, before, after, ratio], connections, True)


def beside_idle(connections: int) -> Scenario:
    arguments = ["--short", "32", "--idle", str(connections)]
    title = f"connections, while {connections} idle ones are held"
    return Scenario("connections-beside-idle", title, arguments, PER_CONNECTION, connections + 200)


def scenarios(descriptors: int) -> tuple[list[Scenario], list[str]]:
    """Those that the descriptor limit allows, and what is left out."""
    held = 10_000 if descriptors >= descriptors_for(10_200) else 9_000
    wanted = [
        Scenario("connections", "connections: open, hello, short answer, close", ["--short", "32"], PER_CONNECTION),
        trips(1),
        trips(64),
        *(bulk(streams, flow) for flow in ("down", "up", "both") for streams in (1, 8, 64)),
        Scenario(
            "mixed",
            "4 connections with round trips beside 8 bulk streams down",
            ["--bulk", "8", "--trips", "4"],
            [P99, P50, Figure("trips/s", per_second("trips"), 0), GB_PER_SECOND],
        ),
        idle(2000),
        idle(9000),
        beside_idle(held),
    ]
    possible = [scenario for scenario in wanted if descriptors_for(scenario.open) <= descriptors]
    left_out = [scenario.name for scenario in wanted if scenario not in possible]
    return possible, left_out


def descriptors_for(connections: int) -> int:
    """What a proxy, or the load tool, must be able to open: two for each connection, and some."""
    return 2 * connections + 600


QUICK = ["connections", "trips-64", "bulk-8-down", "idle-2000"]
