"""Speech encoders as Flax Linen modules; they know no loss.

Shape letters used in every comment and docstring of this package:

    B batch    S samples (16 kHz)    T frames (50 Hz)    D width       H heads      F feed-forward
    C channels of the feature encoder    G code groups   V codes per group    Q width of a code
    M masked frames    N negatives    L letters

`length` (int32 [B]) is the one truth about padding: samples at the input, frames after the
feature encoder. `None` means that every row is full, and then no mask is ever built.
"""
