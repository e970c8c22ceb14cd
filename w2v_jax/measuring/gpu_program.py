"""The kernels of a program for GPUs, read from its text (optimized HLO): what each reads, writes
and computes."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from w2v_jax.measuring.gpu_rates import INTEGER_PRODUCT, WEIGHTS

# instructions that are no kernel, and cost nothing within one
FREE = {
    "parameter", "constant", "broadcast", "bitcast", "tuple", "get-tuple-element", "reshape",
    "iota", "transpose", "slice", "after-all", "opt-barrier", "bitcast-convert", "partition-id",
    "replica-id",
}  # fmt: skip
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*-> .*\{$")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)(.*)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([\d,]*))?")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|\w+_computations?)=\{?((?:%[\w.\-]+,? ?)+)")
_NAME = re.compile(r"%([\w.\-]+)")


def ints(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)


class Array(NamedTuple):
    type: str
    shape: tuple[int, ...]
    order: tuple[int, ...]  # the dimensions from the one that is contiguous

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        return self.elements * int((re.findall(r"\d+", self.type) or [8])[0]) / 8

    def __str__(self) -> str:
        return f"{self.type}[{','.join(map(str, self.shape))}]"


def total(arrays: Iterable[Array]) -> float:
    """Bytes of all."""
    return sum(array.bytes for array in arrays)


@dataclasses.dataclass(frozen=True)
class Op:
    """An instruction."""

    root: bool
    name: str
    out: list[Array]
    code: str
    operands: list[str]
    calls: list[str]  # computations
    attributes: str
    source: str  # the path of modules and functions that asked for it
    target: str  # of a custom call

    def attribute(self, pattern: str) -> str:
        """The group of the pattern, "" where the attributes have none such."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""


def _op(match: re.Match) -> Op:
    root, name, out, code, operands, attributes = match.groups()
    # the kernel itself, in binary, is most of the line
    attributes = re.sub(r'\bir = ".*?(?<!\\)"', "", attributes)
    source = re.search(r'op_name="([^"]*)"', attributes)
    target = re.search(r'custom_call_target="([^"]*)"', attributes)
    return Op(
        bool(root), name, [Array(t, ints(d), ints(o)) for t, d, o in _ARRAY.findall(out)], code,
        _NAME.findall(operands), _NAME.findall("".join(_CALLED.findall(attributes))), attributes,
        source[1] if source else "", target[1] if target else "",
    )  # fmt: skip


Computation = Mapping[str, Op]  # by name, in the order of the program


class Program(NamedTuple):
    computations: Mapping[str, Computation]
    entry: str  # the name of the one that is run


def parse(text: str) -> Program:
    found: dict[str, dict[str, Op]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = found[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif match := _LINE.match(line):
            op = _op(match)
            current[op.name] = op
    return Program(found, entry)


class Work:
    """What one kernel does: an instruction, with the body that it calls if it is fused."""

    def __init__(self, op: Op, arrays: Mapping[str, list[Array]], body: Computation):
        self.body = body
        self.instructions = 0.0
        self.columns = False  # whether it sums along other dimensions than the contiguous one
        self.read = [a for name in op.operands for a in arrays.get(name, [])]
        # what a library may use as scratch is a result of bytes
        self.written = [a for a in op.out if not (op.target and a.type in ("s8", "u8"))]
        if body:
            self._fused()

    @property
    def bytes(self) -> float:
        return total(self.read) + total(self.written)

    def _fused(self) -> None:
        users = collections.defaultdict(list)
        for op in self.body.values():
            for name in op.operands:
                users[name].append(op)
        asked, in_place = self._roots()
        self.read = [
            array for op in self.body.values() if op.code == "parameter" and op.name not in in_place
            for array in self._read_of(op, users)
        ]  # fmt: skip
        self._count(asked)

    def _roots(self) -> tuple[collections.Counter, set[str]]:
        """Sets what is written; the elements of every result, and parameters updated in place."""
        root = next(op for op in self.body.values() if op.root)
        results = [self.body[n] for n in root.operands] if root.code == "tuple" else [root]
        asked, in_place, self.written = collections.Counter(), set(), []
        for op in results:
            asked[op.name] = sum(array.elements for array in op.out)
            op = self._through(op)
            if op.code == "dynamic-update-slice":  # only the slice is written
                in_place.add(self._through(self.body[op.operands[0]]).name)
                op = self.body[op.operands[1]]
            self.written = self.written + op.out
        return asked, in_place

    def _through(self, op: Op) -> Op:
        while op.code in ("bitcast", "reshape", "copy"):
            op = self.body[op.operands[0]]
        return op

    def _read_of(self, op: Op, users: Mapping[str, list[Op]]) -> list[Array]:
        """What is read of a parameter: all of it, or slices."""
        found = []
        for user in users[op.name]:
            if user.code in ("dynamic-slice", "slice", "gather") and user.operands[0] == op.name:
                found += user.out
            elif user.code in ("bitcast", "reshape"):
                found += self._read_of(user, users)
            else:
                return op.out
        return found if total(found) < total(op.out) else op.out

    def _count(self, asked: collections.Counter) -> None:
        """Instructions: of every operation as often as there are elements that ask for it."""
        for op in reversed(list(self.body.values())):
            n = asked[op.name]
            if op.code in ("reduce", "dynamic-update-slice"):
                array = self.body[op.operands[op.code != "reduce"]].out[0]
                axes, n = ints(op.attribute(r"dimensions=\{([\d,]*)")), array.elements
                self.columns |= op.code == "reduce" and array.order[:1] not in [(a,) for a in axes]
            if n and op.code not in FREE:
                whole = op.code == "multiply" and op.out[0].type[0] in "us"
                self.instructions += n * (INTEGER_PRODUCT if whole else WEIGHTS.get(op.code, 1))
            for name in op.operands:
                of = self.body[name].out[0].elements
                limit = of if op.code in ("pad", "concatenate") else n
                asked[name] = max(asked[name], min(n, limit))
