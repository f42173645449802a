#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
#
# usage: kube_rollout.py <LINE
#
# Adds to a measurement of interop/kubernetes_rollout.sh, a line of JSON, what its events and intervals come to.
# Connections are counted by tenths of a second: those of the one in which something happened do not count as
# after it. The intervals are then joined to two seconds each.

import json
import sys
from collections import Counter

JOINED = 20


def after(cell, moment):
    """The intervals that began at that moment or later."""
    intervals = cell["intervals"]
    starts = [cell["began_ms"]] + [interval["at_ms"] for interval in intervals]
    return [interval for start, interval in zip(starts, intervals) if start >= moment]


def went_to(intervals, pods):
    return sum(n for interval in intervals for pod, n in interval["servers"].items() if pod in pods)


def joined(intervals):
    for first in range(0, len(intervals), JOINED):
        some = intervals[first : first + JOINED]
        servers = sum((Counter(interval["servers"]) for interval in some), Counter())
        yield {"at_ms": some[-1]["at_ms"], "servers": servers, "failed": some[-1]["failed"]}


cell = json.loads(sys.stdin.readline())
at = {name: {} for name in ("added", "told", "drained", "vanished")}
for event in cell["events"]:
    at[event["event"]][event["pod"]] = event["at_ms"]
# The pods of the update take the place of others; the last three are there in addition.
scaled = [pod for pod, when in at["added"].items() if when >= cell["scaled_ms"]]
# kube-proxy needs a moment; what it has done by then is there to stay.
settled = after(cell, max(at["added"].values()) + 3000)
everyone = sum(sum(interval["servers"].values()) for interval in settled)
result = cell.pop("result")
result |= {
    # To a pod after it was told to go, and after its weight was 0
    "to_told": sum(went_to(after(cell, when), [pod]) for pod, when in at["told"].items()),
    "to_drained": sum(went_to(after(cell, when), [pod]) for pod, when in at["drained"].items()),
    "drained_after_ms": max(at["drained"][pod] - at["told"][pod] for pod in at["told"]),
    "share": round(100 * went_to(settled, scaled) / everyone) if everyone else 0,
}
cell |= {"scaled": scaled, "intervals": list(joined(cell["intervals"])), "result": result}
print(json.dumps(cell, separators=(",", ":")))
