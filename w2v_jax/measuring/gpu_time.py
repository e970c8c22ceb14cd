"""How long an update takes on a GPU, predicted kernel by kernel from its compiled program.

A kernel takes the longest of: its bytes at a bandwidth, its products at the rate of the tensor
cores, its instructions and its threads at their rates; and its launch. gpu_rates.py has the rates.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from w2v_jax.measuring import gpu_rates as rates
from w2v_jax.measuring.collectives import KINDS
from w2v_jax.measuring.gpu_cards import CARDS, Card
from w2v_jax.measuring.gpu_program import FREE, Array, Computation, Op, Program, Work, ints

MOVED = "stacking, copies"
# what the path of an instruction matches -> part of the model, the first that does
PARTS = (
    (r"feature_encoder/(?:\w+\.)?(?:conv_0|_first)", "feature encoder, first convolution"),
    (r"feature_encoder/conv_\d", "feature encoder, other convolutions"),
    (r"feature_encoder", "feature encoder, norms and activations"),
    (r"positions/", "positions"),
    (r"attention/(?:query|key|value|output|position)/", "attention projections"),
    (r"attention/", "attention"),
    (r"feed_forward\w*/(?:inner|outer)/", "feed-forward"),
    (r"feed_forward\w*/(?!Dropout)", "feed-forward activations"),
    (r"block/(?:.*/)?Dropout", "dropout of the blocks"),
    (r"block/\w*norm", "norms of the blocks"),
    (r"block/convolution/", "convolution modules"),
    (r"block/adapter/", "adapters"),
    (r"layers|context/(?:.*while/body|(?:broadcast\w*|while\w*)?$)", MOVED),
    (r"feature_|Dropout|mask|encoder", "around the blocks"),
    (r"jvp|vmap", "loss and head"),
    (r"", "optimizer"),
)
_COLLECTIVES = {f"{kind}{end}" for kind in KINDS for end in ("", "-start")}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Equal runs of one kernel."""

    name: str
    kind: str
    part: str
    way: str  # "forward", "backward" or "" for neither
    count: float  # per update, on average
    seconds: float  # of one run
    bytes: float
    flops: float  # of products


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    seconds: float
    forward: float  # seconds of it
    backward: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Of one update on one device, without what collectives take."""

    seconds: float
    between: float  # of them between kernels: loops and conditionals
    kernels: float
    bytes: float  # that the kernels move to and from the memory
    flops: float  # in products, with what remat computes again
    parts: list[Part]  # the longest first


def predict(program: Program, card: Card, layerdrop: float = 0.0) -> Prediction:
    """layerdrop: the share of updates in which a block is skipped."""
    timing = Timing(program, card, layerdrop)
    found, sums = timing.kernels, collections.defaultdict(collections.Counter)
    for kernel in found:
        seconds = kernel.count * kernel.seconds
        sums[kernel.part].update({"": seconds, kernel.way or "neither": seconds})
    parts = [Part(name, s[""], s["forward"], s["backward"]) for name, s in sums.items()]
    if timing.between:
        parts.append(Part("between kernels", timing.between, 0.0, 0.0))
    return Prediction(
        sum(part.seconds for part in parts), timing.between, sum(k.count for k in found),
        sum(k.count * k.bytes for k in found), sum(k.count * k.flops for k in found),
        sorted(parts, key=lambda part: -part.seconds),
    )  # fmt: skip


class Timing:
    """The kernels of a program and their times on a card."""

    def __init__(self, program: Program, card: Card, layerdrop: float = 0.0):
        reference = CARDS[rates.REFERENCE]
        self._computations, entry = program
        self._layerdrop = layerdrop
        # how the card compares with the one whose rates we know
        self._memory = card.bandwidth / reference.bandwidth
        self._tensor = card.flops / reference.flops
        self._cores = card.speed / reference.speed
        self.kernels, self.between = self._walk(entry, "")

    def _walk(self, name: str, inherited: str) -> tuple[list[Kernel], float]:
        """The kernels of a computation, and the seconds between them."""
        ops = self._computations[name]
        arrays = {name: op.out for name, op in ops.items()}
        kernels, between = [], 0.0
        for op in ops.values():
            source = op.source or inherited
            if op.code == "while":
                turns = int(op.attribute(r'"known_trip_count":\{"n":"(\d+)"') or 1)
                inside = [(turns, self._walk(op.calls[0], source))]
                between += turns * rates.TURN_OF_LOOP
            elif op.code == "conditional":
                inside = self._branches(op, source)
                between += rates.CONDITIONAL
            elif op.code in ("call", "async-start"):
                inside = [(1, self._walk(op.calls[0], source))]
            else:
                inside = []
                if not (op.code in FREE | _COLLECTIVES or op.code.endswith(("-done", "-update"))):
                    kernels.append(self._kernel(op, arrays, source))
            for times, (found, seconds) in inside:
                kernels += [dataclasses.replace(k, count=k.count * times) for k in found]
                between += times * seconds
        return kernels, between

    def _branches(self, op: Op, source: str) -> list[tuple[float, tuple[list[Kernel], float]]]:
        """Of LayerDrop the block, as often as it is kept, and what stands for it; of all else, like
        the updates in which some weights are frozen, the longest."""
        found = [self._walk(name, source) for name in op.calls]
        longest = max(found, key=lambda branch: sum(k.count * k.seconds for k in branch[0]))
        drop = self._layerdrop if re.search(r"\blayers\b", source) else 0.0
        return [(1 - drop if branch is longest else drop, branch) for branch in found]

    def _kernel(self, op: Op, arrays: Mapping[str, list[Array]], source: str) -> Kernel:
        body = self._computations[op.calls[0]] if op.code == "fusion" else {}
        work = Work(op, arrays, body)
        if not op.source:
            inner = collections.Counter(o.source for o in body.values() if o.source)
            source = inner.most_common(1)[0][0] if inner else source
        product = next((o for o in body.values() if o.code == "dot"), None)
        flops = 0.0
        if product:
            within = {name: o.out for name, o in body.items()}
            kind, (seconds, flops) = "product", self._product(product, within, work.bytes)
        elif "cublas" in op.target:
            kind, (seconds, flops) = "product", self._product(op, arrays, work.bytes)
        elif "cudnn$conv" in op.target:
            kind, (seconds, flops) = "convolution", self._convolution(op, arrays, work.bytes)
        elif ours := next((name for name in rates.ATTENTION if f"/{name}/" in source), None):
            kind, (seconds, flops) = "kernel", self._attention(ours, work)
        elif ours := next((name for name in rates.KERNELS if f"/{name}/" in source), None):
            kind, seconds = "kernel", work.bytes / rates.KERNELS[ours] / self._memory
        else:
            kind, seconds = self._own(op, work, body)
        part = next(part for pattern, part in PARTS if re.search(pattern, source))
        moves = kind in ("copy", "slice") and part not in ("optimizer", "loss and head")
        if moves or not source or op.name.startswith("loop_broadcast"):
            part = MOVED
        way = "backward" if "transpose(" in source else "forward" if "jvp" in source else ""
        return Kernel(op.name, kind, part, way, 1, seconds + rates.LAUNCH, work.bytes, flops)

    def _own(self, op: Op, work: Work, body: Computation) -> tuple[str, float]:
        """Kind and seconds of a kernel that XLA or Triton writes, a copy, a Fourier transform."""
        codes, moved = {o.code for o in body.values()}, work.bytes / self._memory
        if op.code in ("fft", "sort", "custom-call"):
            kind = "kernel" if op.code == "custom-call" else op.code
            return kind, moved / (rates.FFT if op.code == "fft" else rates.TRITON)
        if "dynamic_slice_fusion" in op.attributes or op.code.startswith("copy"):
            turned = op.code.startswith("copy") and work.read[0].order != op.out[0].order
            odd = max(array.bytes for array in work.written) % 4096
            return "copy", moved / (rates.TURN if turned else rates.COPY4 if odd else rates.COPY16)
        if '"__triton"' in op.attributes:
            return "triton", moved / rates.TRITON
        out, largest = (_most(arrays) for arrays in (work.written, work.read))
        kind, rate, threads = "loop", rates.LOOP, out / 4
        if "kind=kInput" in op.attributes or op.code == "reduce":
            rate = rates.COLUMNS if work.columns else rates.ROWS
            kind, threads = "reduction", largest / 16
            if "scatter" in codes:
                kind, rate, threads = "scatter", rates.ROWS, largest
            elif "transpose" in op.name and "reduce" not in codes:
                kind, rate, threads = "transpose", rates.TURN, out / 16
        elif codes & {"dynamic-update-slice", "dynamic-slice"}:
            kind = "slice"
        issued = max(threads / rates.THREADS, work.instructions / rates.WORK)
        return kind, max(moved / rate, issued / self._cores)

    def _attention(self, name: str, work: Work) -> tuple[float, float]:
        """Of one of our kernels: seconds and operations."""
        rows, frames, heads, width = next(a.shape for a in work.read if len(a.shape) == 4)
        times, known = rates.ATTENTION[name]
        rate = known[min(known, key=lambda w: abs(w - width))] * self._tensor
        flops = float(times * rows * frames**2 * heads * width)
        return max(flops / rate, work.bytes / rates.TRITON / self._memory), flops

    def _convolution(
        self, op: Op, arrays: Mapping[str, list[Array]], moved: float
    ) -> tuple[float, float]:
        which = op.target.partition("cudnn$conv")[2]
        first, second = (arrays[name][0] for name in op.operands[:2])
        y, kernel = op.out[0], second
        if which.startswith("Backward"):
            y, kernel = (first, second) if which == "BackwardInput" else (second, op.out[0])
        channels = y.shape[op.attribute(r"dim_labels=(\w+)_").index("f")]
        flops = 2.0 * y.elements * kernel.elements / channels
        grouped = int(op.attribute(r"feature_group_count=(\d+)") or 1) > 1
        bandwidth = rates.COLUMNS
        if not grouped and min(kernel.shape) == 1:
            filters = which == "BackwardFilter"
            bandwidth = rates.ONE_CHANNEL_FILTER if filters else rates.ONE_CHANNEL
        arithmetic = flops / rates.CONVOLUTION[which][grouped] / self._tensor
        return max(arithmetic, moved / bandwidth / self._memory) + rates.LAUNCH_CONVOLUTION, flops

    def _product(
        self, op: Op, arrays: Mapping[str, list[Array]], moved: float
    ) -> tuple[float, float]:
        left, out = arrays[op.operands[0]][0], op.out[0]
        axes = op.attribute(r'lhs_contracting_dim\w+"?[:=][\[{]([^\]}]*)').replace('"', "")
        depth = math.prod(left.shape[i] for i in ints(axes)) * (4 if out.type[0] == "c" else 1)
        flops, three = 2.0 * out.elements * depth, [out, *(arrays[n][0] for n in op.operands[:2])]
        odd = any(len(a.shape) > 2 and a.order and a.shape[a.order[0]] % 8 for a in three)
        rate = rates.PRODUCT if left.type in ("bf16", "f16") else rates.PRODUCT32
        slow = _most(three) / rates.RAGGED / self._memory if odd else 0.0
        bytes_ = moved / rates.COLUMNS / self._memory
        return max(flops / rate / self._tensor, bytes_, slow) + rates.LAUNCH_PRODUCT, flops


def _most(arrays: Sequence[Array]) -> int:
    """Elements of the largest."""
    return max((array.elements for array in arrays), default=0)
