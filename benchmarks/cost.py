"""What a survey costs on a cluster that is not here: from unit costs measured here, and what is assumed."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Assumed", "Measured", "cost_lines"]


@dataclass(frozen=True)
class Assumed:
    """What is taken for granted of survey and cluster; every field is printed with the table."""

    spectra: int = 50_000_000
    """DESI's, over all its releases"""
    spectra_a_file: int = 500
    """a petal; files are the units of work, or 64 MB of smaller ones"""
    cores_a_node: int = 128
    """each as fast as one here"""
    cores_kept_busy: float = 0.8
    """share: cores of a full node are slower, as they share memory and power"""
    bandwidth_a_node: float = 2e9
    """bytes/s a node reads from shared storage"""
    bandwidth_in_all: float = 100e9
    """bytes/s that storage gives to one user, however many nodes ask"""
    start: float = 120.0
    """seconds until workers are up and have the model"""
    price_a_core_hour: float = 0.04
    """US dollars"""


@dataclass(frozen=True)
class Measured:
    """Unit costs measured here.

    Attributes
    ----------
    core_seconds : float
        A spectrum, all that one core does for it, from file to catalogue.
    n_bytes : float
        A spectrum in its file, all of which is taken to be read.
    overhead : float
        Seconds the scheduler is busy for a unit of work.
    """

    core_seconds: float
    n_bytes: float
    overhead: float


_UNIT_BYTES = 64 << 20


def cost_lines(
    measured: Measured, nodes: tuple[int, ...] = (1, 16, 256), assumed: Assumed | None = None
) -> list[str]:
    """Return a table in Markdown, a row for each number of nodes, and all that it is made of.

    Reading, computing and scheduling overlap, so that the longest of the three decides; then comes the last
    unit, for which all others wait.
    """
    given = assumed or Assumed()
    unit = max(given.spectra_a_file, _UNIT_BYTES / measured.n_bytes)
    lines = [
        "| nodes | computing | reading | scheduling | in all | node-hours | cost |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in nodes:
        computing = given.spectra * measured.core_seconds / (n * given.cores_a_node * given.cores_kept_busy)
        bandwidth = min(n * given.bandwidth_a_node, given.bandwidth_in_all)
        reading = given.spectra * measured.n_bytes / bandwidth
        scheduling = given.spectra / unit * measured.overhead
        last = unit * measured.core_seconds / given.cores_kept_busy
        whole = given.start + max(computing, reading, scheduling) + last
        hours = n * whole / 3600
        cost = hours * given.cores_a_node * given.price_a_core_hour
        times = " | ".join(f"{seconds:,.0f} s" for seconds in (computing, reading, scheduling, whole))
        lines.append(f"| {n} | {times} | {hours:,.1f} | {cost:,.0f} $ |")
    lines += [
        "",
        f"Measured here: {1e6 * measured.core_seconds:.0f} us of a core and {measured.n_bytes / 1e3:.0f} kB "
        f"of files a spectrum; {1e3 * measured.overhead:.2f} ms of the scheduler a unit. Assumed: "
        + ", ".join(
            f"{each.name.replace('_', ' ')} {getattr(given, each.name):,.12g}" for each in fields(given)
        )
        + " (what each means: `benchmarks/cost.py`).",
    ]
    return lines
