"""What a compiled program sends between devices, read from its text (optimized HLO)."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Mapping

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_COLLECTIVE = re.compile(rf"^(.*?) ({'|'.join(KINDS)})(-start)?\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_PIECE = re.compile(r'channel_id=\d+(?=.*chain_id=")')
_ASYNC_END = re.compile(r" async-(?:update|done)\(")
_ARRAY = re.compile(r"\b(pred|bf16|token|[a-z]+(\d+)\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind, for one device and one run of the program."""

    count: int = 0
    payload: int = 0  # bytes of the whole arrays: what is summed, gathered or scattered
    sent: float = 0.0  # bytes that a device sends, with ring algorithms

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.count + other.count, self.payload + other.payload, self.sent + other.sent
        )

    def times(self, trips: int) -> "Traffic":
        return Traffic(self.count * trips, self.payload * trips, self.sent * trips)


def collectives(text: str) -> dict[str, Traffic]:
    """Traffic by kind, those of KINDS that occur. Collectives in a loop count as often as it turns.

    text: `compiled.as_text()`, or a dump by XLA. The start of an asynchronous one counts, its end
    does not. Both branches of a conditional count. A loop whose number of turns the program does
    not tell counts once.
    """
    computations, entry = _computations(text)
    devices = re.search(r"num_partitions=(\d+)", text)
    devices = int(devices[1]) if devices else 1
    found: dict[str, Traffic] = defaultdict(Traffic)
    begun = set()

    def walk(name: str, trips: int) -> None:
        for line in computations.get(name, ()):
            loop = _WHILE.search(line)
            if loop:
                condition, body = loop.groups()
                walk(body, trips * _turns(line, computations.get(condition, ())))
                continue
            match = _COLLECTIVE.match(line)
            if match:
                # TPUs run a collective beside other work in pieces: all carry its channel
                piece = _PIECE.search(line)
                if piece and piece[0] in begun:
                    continue
                begun.add(piece and piece[0])
                kind, traffic = _traffic(match, devices)
                if kind == "all-reduce" and "all-reduce-scatter" in name:  # so written on TPUs
                    kind = "reduce-scatter"
                    traffic = dataclasses.replace(traffic, sent=traffic.sent / 2)
                found[kind] += traffic.times(trips)
            elif not _ASYNC_END.search(line):
                called = _CALLED.findall(line)
                for branches in _BRANCHES.findall(line):
                    called += re.findall(r"[\w.\-]+", branches)
                for other in called:
                    walk(other, trips)

    walk(entry, 1)
    return {kind: found[kind] for kind in KINDS if found[kind].sent}


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """{name: instructions} and the name of the computation that is run."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            lines = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif _NAME.match(line):
            lines.append(line)
    return computations, entry


def _turns(line: str, condition: list[str]) -> int:
    """How often a loop turns: as XLA noted it, or the bound in `counter < bound`."""
    known = _TRIPS.search(line)
    if known:
        return int(known[1])
    root = next((x for x in condition if x.lstrip().startswith("ROOT ")), "")
    compared = re.search(r"compare\(.*direction=LT", root)
    bounds = [re.search(r"= [su]32\[\]\S* constant\((\d+)\)", x) for x in condition]
    bounds = [int(bound[1]) for bound in bounds if bound]
    return bounds[0] if compared and len(bounds) == 1 else 1


def _traffic(match: re.Match, devices: int) -> tuple[str, Traffic]:
    """The kind and traffic of one collective from its result type and its devices.

    A ring over n devices sends (n - 1)/n of the array, and an all-reduce twice that: it scatters
    and gathers.
    """
    result, kind, start, rest = match.groups()
    size = sum(_bytes(*array) for array in _ARRAY.findall(result.split(" = ", 1)[1]))
    n = _group_size(rest, devices)
    if kind == "collective-permute":
        size = size // 2 if start else size  # the result of a start is (argument, result)
        return kind, Traffic(1, size, float(size))
    if n == 1:
        return kind, Traffic()
    if kind == "all-gather" and start:
        size = size * n // (n + 1)
    if kind == "reduce-scatter":
        size = size * n // (n + 1) if start else size * n
    share = (n - 1) / n * (2 if kind == "all-reduce" else 1)
    return kind, Traffic(1, size, size * share)


def _bytes(dtype: str, bits: str, dims: str) -> int:
    count = math.prod(int(dim) for dim in dims.split(",") if dim)
    width = {"pred": 8, "token": 0, "bf16": 16}.get(dtype) or int(bits or 0)
    return count * width // 8


def _group_size(attributes: str, devices: int) -> int:
    """Devices that take part together: from replica_groups in any of XLA's three ways to write."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if listed:
        return listed[1].count(",") + 1
    tiled = re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes)
    if tiled:
        return int(tiled[1])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    if named:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices


def sent(traffic: Mapping[str, Traffic]) -> float:
    """Bytes that a device sends, all kinds together."""
    return sum(kind.sent for kind in traffic.values())
