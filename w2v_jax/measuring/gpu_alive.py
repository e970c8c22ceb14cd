"""What lies in the memory of a GPU when a program needs most of it, from its schedule.

XLA's own report of live ranges leaves out what conditionals give, which is all that the blocks keep
for the backward pass.
"""

import collections
import re
from typing import NamedTuple

from w2v_jax.measuring.gpu_program import Array, Op, Program

_OUTER = r"cond|branch_\d+_fun|closed_call|while|body|checkpoint|rematted_computation"


class Buffer(NamedTuple):
    array: Array
    source: str


def alive(program: Program, most: int = 5) -> list[str]:
    """Of equal arrays their number and what made them, the most bytes first; without arguments of
    the program, which are its state and its batch."""
    sums, counts = collections.Counter(), collections.Counter()
    for array, source in _peak(program, program.entry)[1]:
        what = f"{array} of {place(source)}"
        sums[what] += array.bytes
        counts[what] += 1
    found = sums.most_common(most)
    return [f"{size / 2**30:.2f} GiB in {counts[what]} x {what}" for what, size in found]


def place(source: str) -> str:
    """The end of the path of an instruction, without what only JAX calls so."""
    inner = [
        part
        for part in source.split("/")[:-1]
        if re.fullmatch(r"[\w.]+", part) and not re.fullmatch(_OUTER, part)
    ]
    way = " (backward)" if "transpose(" in source else ""
    return "/".join(inner[-2:]) + way if inner else source or "what is summed"


def _peak(program: Program, name: str) -> tuple[float, list[Buffer]]:
    """The bytes that a computation needs at most beside its arguments, and the buffers then."""
    ops = list(program.computations[name].values())
    buffers, held = _buffers(program, ops)
    last = {b: i for i, op in enumerate(ops) for operand in op.operands for b in held[operand]}
    last.update((b, len(ops)) for b in held[ops[-1].name])
    ends = collections.defaultdict(list)
    now, size, best = {}, 0.0, (0.0, [])
    for i, op in enumerate(ops):
        new = [b for b in held[op.name] if b not in now and buffers[b] is not None and b[0] == i]
        inside = (0.0, [])
        if op.code in ("while", "conditional", "call", "async-start"):
            inside = max((_peak(program, called) for called in op.calls), key=lambda x: x[0])
        for b in new:
            now[b] = buffers[b]
            ends[last.get(b, i)].append(b)
        made = sum(buffers[b].array.bytes for b in new)
        size += made
        # what a branch gives lies where it was made there
        needed = size + max(inside[0] - made, 0.0)
        if needed > best[0]:
            outer = [x for b, x in now.items() if not inside[1] or b not in new]
            best = needed, outer + inside[1]
        for b in ends.pop(i, []):
            size -= now.pop(b).array.bytes
    return best


def _buffers(
    program: Program, ops: list[Op]
) -> tuple[dict[tuple[int, int], Buffer | None], dict[str, list[tuple[int, int]]]]:
    """{(instruction, which of its results): buffer, None for arguments} and what every
    instruction's results lie in."""
    buffers, held = {}, {}
    for i, op in enumerate(ops):
        inputs = [b for name in op.operands for b in held[name]]
        if op.code == "get-tuple-element":
            index = int(op.attribute(r"index=(\d+)"))
            held[op.name] = inputs[index : index + 1]
        elif op.code in ("tuple", "bitcast", "while", "opt-barrier") or op.code.endswith("-done"):
            held[op.name] = inputs
        else:
            held[op.name] = [(i, k) for k in range(len(op.out))]
            known = op.code not in ("parameter", "constant")
            made = zip(held[op.name], op.out, _sources(program, op), strict=True)
            for key, array, source in made:
                buffers[key] = Buffer(array, source) if known else None
    return buffers, held


def _sources(program: Program, op: Op) -> list[str]:
    """What made every result: of a conditional, what made it in the branch of the most work."""
    if op.code != "conditional":
        return [op.source] * len(op.out)
    branch = max((program.computations[name] for name in op.calls), key=len)
    root = next(inner for inner in branch.values() if inner.root)
    made = [branch[name] for name in root.operands] if root.code == "tuple" else []
    if len(made) != len(op.out):
        return [op.source] * len(op.out)
    found = []
    for inner in made:
        while inner.code in ("bitcast", "get-tuple-element", "copy"):
            inner = branch[inner.operands[0]]
        found.append(inner.source or op.source)
    return found
