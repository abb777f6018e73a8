"""Metrics of several processes in one answer to Prometheus.

The text format wants all samples of a metric in one group below its `# HELP` and `# TYPE`. Samples of different
processes differ by their label `instance_id`.
"""

from __future__ import annotations

from collections.abc import Iterable

HELP = "# HELP "


def merged(expositions: Iterable[str]) -> str:
    """The expositions in one. `# HELP` begins each metric, as prometheus-client writes them."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for exposition in expositions:
        name, known = "", False
        for line in exposition.splitlines():
            if line.startswith(HELP):
                name = line.removeprefix(HELP).partition(" ")[0]
                known = name in heads
                heads.setdefault(name, [])
                samples.setdefault(name, [])
            if line.startswith("#"):
                if not known:
                    heads[name].append(line)
            elif line:
                samples[name].append(line)
    return "".join(f"{line}\n" for name in heads for line in (*heads[name], *samples[name]))
