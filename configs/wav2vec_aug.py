"""Wav2Vec-Aug pre-training: wav2vec 2.0 for little unlabelled speech (arXiv 2206.13654).

    python -m w2v_jax.pretrain --config=configs/wav2vec_aug.py:base --workdir=runs/aug \
        --config.data.train=train-100.tsv --config.data.valid=dev-other.tsv \
        --config.data.augment.noise_prob=0.25 --config.data.augment.noise_manifest=noise.tsv \
        --config.data.augment.reverb_prob=0.25 --config.data.augment.reverb_manifest=rooms.tsv

Argument: tiny or base, configs/wav2vec2.py's with the four changes of the paper; kinds of the parts
of the model after commas, block=transformer say.

    augmentation   of the unlabelled audio: pitch, lost bands and pieces; with recordings, as above,
                   noise and reverberation; data.augment.* (every *_prob=0 switches one off). The
                   targets are of the augmented wave; of the clean one with
                   --config.loss.targets=clean
    Conformer      blocks instead of the Transformer's; block=transformer
    heads          3 layers before the choice of a code, 2 in both projections; quantizer.depth=1,
                   quantizer.projection_depth=1
    light-weight   convolutions in place of the top two of the feature encoder;
                   frontend.lightweight=0

All of them off is configs/wav2vec2.py. What the paper changes is known to us, how is not: its text
was not at hand and no code is public. So the augmentations and their probabilities, the depths, the
number and the form of the light-weight convolutions, and whose wave the targets are of, are this
repository's choices; fairseq's quantizer_depth and quantizer_factor give the quantizer's shape.
Measured at small sizes alone (docs/lecture.md).
"""

from w2v_jax.configs import wav2vec2
from w2v_jax.errors import UserError

SIZES = ("tiny", "base")
# the changes, by dotted keys
AUGMENTATION = {
    "data.augment.pitch_prob": 0.5, "data.augment.band_prob": 0.25, "data.augment.drop_prob": 0.25,
}  # fmt: skip
PROJECTIONS = {"quantizer.projection_depth": 2}
CODES = {"quantizer.depth": 3}
LIGHTWEIGHT = {"model.frontend.lightweight": 2}


def get_config(argument: str = "base"):
    size, *kinds = argument.split(",")
    if size not in SIZES:
        raise UserError(f"configs/wav2vec_aug.py:{size} is unknown; choose {', '.join(SIZES)}")
    if not any(kind.startswith("block=") for kind in kinds):
        kinds.append("block=conformer")
    config = wav2vec2.get_config(",".join([size, *kinds]))
    changes = AUGMENTATION | PROJECTIONS
    if config.quantizer.kind == "gumbel":
        changes |= CODES
    if config.model.frontend.kind == "waveform":
        changes |= LIGHTWEIGHT
    config.update_from_flattened_dict(changes)
    return config
