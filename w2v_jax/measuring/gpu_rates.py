"""How fast an H200 runs the kernels of an update, fitted to traces of BASE updates: 24 rows of
15.6 s, bfloat16 (docs/scaling.md says how well they fit). Other cards are scaled by their memory's
bandwidth, their multiprocessors and clock, or their tensor cores.
"""

REFERENCE = "h200"

# bytes per second: XLA's loops, reductions along rows and columns, transposes; Triton's kernels
LOOP, ROWS, COLUMNS, TURN, TRITON = 4.35e12, 4.1e12, 3.5e12, 2.7e12, 3.5e12
FFT = 2e12  # of cuFFT
COPY16, COPY4 = 3.9e12, 2.5e12  # a copy of a multiple of 4096 bytes, of any other size
# of a convolution of one channel, which cuDNN pads to eight: forward, and for the kernel's gradient
ONE_CHANNEL, ONE_CHANNEL_FILTER = 1.0e12, 1.5e12

THREADS = 213e9  # threads per second that start; XLA's loops give each 4 elements
WORK = 19e12  # instructions per second, weighed as below
# seconds of a kernel's launch, a conditional, a turn of a loop; more for a library's kernels
LAUNCH, CONDITIONAL, TURN_OF_LOOP = 1.9e-6, 25e-6, 8e-6
LAUNCH_CONVOLUTION, LAUNCH_PRODUCT = 6e-6, 3e-6

# operations per second of cuDNN: plain, grouped. With a bias or another input beside a grouped one
# cuDNN has only its slowest engine.
CONVOLUTION = {
    "Forward": (745e12, 130e12),
    "BackwardInput": (655e12, 130e12),
    "BackwardFilter": (735e12, 176e12),
    "BiasActivationForward": (745e12, 8.9e12),
}
PRODUCT, PRODUCT32 = 740e12, 45e12  # of bfloat16; of float32 and complex numbers
RAGGED = 0.6e12  # elements per second of the largest operand of products whose rows are odd

# Our kernels of attention, by the width of a head, with dropout, 779 frames: operations counted as
# so many times B T^2 H width -> operations per second
ATTENTION = {
    "attention_forward": (4, {64: 194e12, 80: 149e12}),
    "attention_gradient_of_keys": (8, {64: 270e12, 80: 200e12}),
    "attention_gradient_of_queries": (6, {64: 305e12, 80: 185e12}),
}
# our other kernels, bytes per second; one that is not named: TRITON
KERNELS = {
    "rows_forward": 3.6e12,  # 3.2 with a norm, 3.9 of GELU alone
    "rows_backward": 3.4e12,  # 2.6 and 3.9
    "first_conv_forward": 2.3e12,
    "first_conv_backward": 1.4e12,
}

# instructions of a thread per element, roughly; operations not named count one
WEIGHTS = {
    "erf": 22, "exponential": 6, "divide": 8, "log": 12, "log-plus-one": 14, "tanh": 14,
    "exponential-minus-one": 12, "logistic": 14, "power": 30, "cosine": 25, "sine": 25, "rsqrt": 4,
    "sqrt": 5, "remainder": 12, "gather": 6, "pad": 3, "concatenate": 3, "scatter": 8,
}  # fmt: skip
INTEGER_PRODUCT = 2
