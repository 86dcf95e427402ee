"""Turns the reports of all rounds into tables: medians, the range, ratios within a round."""

from statistics import median

from .candidates import PEERS
from .scenarios import Figure, Scenario

# (round, candidate) -> report, of one scenario
Results = dict[tuple[int, str], dict]


def table(scenario: Scenario, names: list[str], results: Results) -> str:
    first = scenario.figures[0]
    heads = ["", *(figure.head for figure in scenario.figures), "snigate ÷ it", "load core", "errors"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    rounds = sorted({number for number, _ in results})
    for name in names:
        reports = {number: results[number, name] for number in rounds if (number, name) in results}
        good = {number: report for number, report in reports.items() if "problem" not in report}
        if not good:
            continue
        errors = sum(report["errors"] for report in good.values()) + len(reports) - len(good)
        figures = [spread([figure.of(report) for report in good.values()], figure) for figure in scenario.figures]
        ratio = "" if name in ("snigate", "direct") else ratio_text(ratios(first, results, rounds, [name]))
        rows.append([name, *figures, ratio, busy(good.values()), str(int(errors))])
    best = ratios(first, results, rounds, [name for name in names if name in PEERS])
    lines = [f"### {scenario.title}", ""]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if best:
        lines += ["", f"{first.head}: snigate ÷ the best peer of each round: **{ratio_text(best)}**"]
    return "\n".join(lines) + "\n"


def ratios(figure: Figure, results: Results, rounds: list[int], peers: list[str]) -> list[float]:
    """snigate to the least of `peers`, one for each round where both have a figure."""
    found = []
    for number in rounds:
        ours = value(figure, results.get((number, "snigate")))
        theirs = [value(figure, results.get((number, peer))) for peer in peers]
        theirs = [each for each in theirs if each]
        if ours is not None and theirs:
            found.append(ours / min(theirs))
    return found


def value(figure: Figure, report: dict | None) -> float | None:
    return None if report is None or "problem" in report else figure.of(report)


def spread(values: list[float], figure: Figure) -> str:
    number = lambda value: f"{value:,.{figure.digits}f}"
    if len(values) == 1:
        return number(values[0])
    return f"{number(median(values))} ({number(min(values))}–{number(max(values))})"


def ratio_text(found: list[float]) -> str:
    if not found:
        return ""
    if len(found) == 1:
        return f"{found[0]:.2f}"
    return f"{median(found):.2f} ({min(found):.2f}–{max(found):.2f})"


def busy(reports) -> str:
    """How much of its core the load tool had: near 100 %, it is the tool that bounds the throughput."""
    shares = [report["load_cpu_seconds"] / report["seconds"] for report in reports if "seconds" in report]
    return f"{median(shares):.0%}" if shares else ""


def disturbance(reports: list[dict]) -> float:
    """The share of the machine's CPU time that was nobody's of the comparison, at its worst."""
    shares = [0.0]
    for report in reports:
        if "seconds" in report:
            ours = report["cpu_seconds"] + report["load_cpu_seconds"]
            shares.append((report["machine_cpu_seconds"] - ours) / report["seconds"])
    return max(shares)
