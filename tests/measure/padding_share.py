"""Prints padding and lost audio for lengths like LibriSpeech's, with the values of the configs.

    python -m tests.measure.padding_share

LibriSpeech itself is not at hand: the lengths are drawn from quantiles published in icefall's
egs/librispeech/ASR/local/display_manifest_statistics.py, straight lines between them. Those of the
training sets are over three copies at speeds 0.9, 1.0 and 1.1, which widens them by a little: the
mean of 12.3 s is that of LibriSpeech.
"""

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.configs import common
from w2v_jax.corpora.statistics import best_crops, crop_plan, pad_plan
from w2v_jax.data.plan import bucket_edges

PERCENT = (0, 0.1, 0.5, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100)
# utterances, seconds at PERCENT
TRAIN = {
    "train-clean-100": (28_539, (1.3, 1.9, 2.2, 2.5, 4.2, 6.4, 11.4, 13.8, 15.3, 16.7, 17.3, 18.1,
                                 18.4, 18.8, 27.2)),
    "train-clean-360": (104_014, (1.0, 1.8, 2.2, 2.5, 4.2, 6.2, 11.2, 13.7, 15.3, 16.6, 17.3, 18.1,
                                  18.4, 18.8, 33.0)),
    "train-other-500": (148_688, (0.8, 1.7, 2.1, 2.3, 3.5, 5.0, 9.8, 13.4, 15.1, 16.5, 17.2, 18.1,
                                  18.4, 18.9, 31.0)),
}  # fmt: skip


def librispeech_like() -> np.ndarray:
    """int64 [281241], samples: one length for every training utterance of LibriSpeech."""
    seconds = [
        np.interp((np.arange(count) + 0.5) / count * 100, PERCENT, quantiles)
        for count, quantiles in TRAIN.values()
    ]
    return np.rint(np.concatenate(seconds) * SAMPLE_RATE).astype(np.int64)


def _seconds(samples) -> str:
    return " ".join(f"{value / SAMPLE_RATE:g}" for value in samples)


def main() -> None:
    lengths = librispeech_like()
    hours = lengths.sum() / SAMPLE_RATE / 3600
    print(f"{len(lengths)} utterances, {hours:.0f} h, mean {lengths.mean() / SAMPLE_RATE:.2f} s")
    data = common.pretraining("base").data
    crops = [round(seconds * SAMPLE_RATE) for seconds in data.crop_seconds]
    plans = {f"{len(crops)} of the config": crops}
    plans |= {f"best {n}": best_crops(lengths, n, max(crops)) for n in (5, 6, 7, 8, 10, 12)}
    print("\npre-training: no padding")
    for name, crops in plans.items():
        plan = crop_plan(lengths, crops)
        lost = plan.beyond + plan.short
        print(f"  {name:15} lost in a pass {lost:6.2%} ({plan.short:.2%} too short): "
              f"{_seconds(plan.crops)}")  # fmt: skip
    data = common.finetuning("base").data
    fits = lengths[lengths <= data.max_seconds * SAMPLE_RATE]
    print(f"\nfine-tuning up to {data.max_seconds:g} s: nothing is cropped")
    for count in sorted({data.num_buckets, 8, 10, 12, 14, 16}):
        plan = pad_plan(fits, bucket_edges(fits, count))
        mark = " (config)" if count == data.num_buckets else ""
        print(f"  {count:2} buckets{mark:9} padding {plan.padding:6.2%}: {_seconds(plan.edges)}")


if __name__ == "__main__":
    main()
