"""The table of all keys of a config: what its values may be, and what they mean.

The defaults stand in configs/ and in the dataclasses of the models; their ranges and meanings stand
here alone. docs/keys.md is made of this table (python -m w2v_jax.keys).
"""

from typing import NamedTuple

from w2v_jax.keys.ranges import (
    PROBABILITY,
    SHARE,
    Flag,
    Range,
    Several,
    Text,
    above,
    choice,
    number,
    whole,
)


class Key(NamedTuple):
    """A row. only: the key exists where another one has this value, KEY=VALUE, or one of these,
    KEY=VALUE|VALUE."""

    range: Range
    meaning: str
    unit: str = ""
    only: str = ""


TEXT, FLAG = Text(), Flag()
STEPS = 2**31 - 1  # the step is an int32
COUNT = whole(1, STEPS)  # of updates
WIDTH = whole(1, 65_536)
AT_ONCE = above(0.0, 1e6)  # seconds of a batch: 278 h
ACTIVATION = choice("gelu", "gelu_tanh", "relu", "swish")
WARMED, TRI_STAGE = "optim.schedule=linear|inverse_sqrt", "optim.schedule=tri_stage"
WAVEFORM, LOGMEL = "model.frontend.kind=waveform", "model.frontend.kind=logmel"
UNITS = "model.frontend.kind=units"
TRANSFORMER, CONFORMER = "model.block.kind=transformer", "model.block.kind=conformer"
CONV, SHAW = "model.positions.kind=conv", "model.positions.kind=shaw"
CONVS, STACK = f"{CONV}|conv_stack", "model.positions.kind=conv_stack"
STRIDED = "model.output.kind=strided|attentive"
GUMBEL = "quantizer.kind=gumbel"
HUBERT = "kind=hubert"
PREDICTED = "predictor.kind=mlp|transformer"
RATES = Several(number(0.25, 4.0), 2, 2, "(0.8,1.25)")
SPAN_PROB = "expected share of {} in spans, overlaps counted twice; 0: none are masked"
SPAN_LEAST = "spans of every utterance, at least"

# groups whose keys have defaults of their own: a config may leave keys of them out
DEFAULTED = ("model", "execution", "quantizer", "random_quantizer", "prediction", "predictor")

KEYS = {
    # the training
    "kind": Key(
        TEXT,
        "kind of training: wav2vec2, best_rq, hubert, discrete_bert, c_siam, data2vec, ctc, "
        "slim_ipl, language",
    ),
    "seed": Key(whole(0, 2**32 - 1), "of everything that is drawn: a run is a function of it"),
    "num_steps": Key(COUNT, "length of the training", "updates"),
    "ema_decay": Key(
        SHARE,
        "of an average of the weights, which is evaluated and exported; 0: none",
    ),
    "letters": Key(TEXT, "the alphabet; empty: English, as in the published models"),
    "language": Key(
        TEXT,
        "of the texts, tr say: whether I and ı, İ and i are pairs; empty: where the letters have "
        "both",
    ),
    "reinit_layers": Key(
        whole(0, 1_000), "top blocks that start from random weights (arXiv 2107.04734)", "blocks"
    ),
    "final_dropout": Key(SHARE, "of the context, before the layer of letters"),
    "freeze_steps": Key(whole(0, STEPS), "during which the encoder does not move", "updates"),
    "unit": Key(choice("letters", "words"), "what a language model predicts"),
    "num_words": Key(
        whole(1, 10_000_000), "of a model of words: the most frequent of the training text", "words"
    ),
    # model
    "model.width": Key(WIDTH, "of the context network", "channels"),
    "model.num_layers": Key(whole(1, 1_000), "blocks"),
    "model.num_heads": Key(whole(1, 65_536), "of the attention"),
    "model.feed_forward": Key(whole(1, 1_048_576), "hidden width of the feed-forwards", "channels"),
    "model.feature_norm": Key(FLAG, "layer norm of the features before their projection"),
    "model.norm_order": Key(
        choice("post", "pre", "none"),
        "layer norm after or before every sub-layer of a transformer block; of conformers, whose "
        "blocks have their own, before the first block or after the last; none: of conformers, "
        "neither",
    ),
    "model.norm_eps": Key(number(1e-12, 1.0), "of the layer norms"),
    "model.activation": Key(ACTIVATION, "in the feed-forwards, and in the convolution modules"),
    "model.dropout": Key(SHARE, "of what every sub-layer adds, and of the first block's input"),
    "model.attention_dropout": Key(SHARE, "of the attention's weights"),
    "model.activation_dropout": Key(SHARE, "inside the feed-forwards"),
    "model.dropout_input": Key(SHARE, "of the projected features, before the mask"),
    "model.layerdrop": Key(SHARE, "probability that a block is left out of an update"),
    "model.padding_leaks": Key(
        FLAG,
        "group norm, batch norm and depthwise convolution see the padding, as the published "
        "checkpoints were trained; False: padding never changes a valid output",
    ),
    "model.max_tokens": Key(
        whole(2, 65_536), "longer sentences are cut: of later positions nothing is learnt", "tokens"
    ),
    "model.frontend.kind": Key(
        choice("waveform", "logmel", "units"), "how samples become frames"
    ),
    "model.frontend.conv_layers": Key(
        Several(Several(whole(1, 65_536), 3, 3), 1, 32, "((512,10,5),(512,3,2))"),
        "(channels, kernel, stride) of every convolution",
        only=WAVEFORM,
    ),
    "model.frontend.bias": Key(FLAG, "whether the convolutions have one", only=WAVEFORM),
    "model.frontend.norm": Key(
        choice("group", "layer"),
        "group: in the first convolution, every channel over time; layer: in every one",
        only=WAVEFORM,
    ),
    "model.frontend.lightweight": Key(
        whole(0, 32),
        "so many of them, from the top, are light-weight: few kernels over time, shared by the "
        "channels, then a linear layer over these",
        "layers",
        only=WAVEFORM,
    ),
    "model.frontend.activation": Key(ACTIVATION, "after every convolution", only=WAVEFORM),
    "model.frontend.normalize": Key(
        FLAG, "waveforms to zero mean and unit variance per utterance", only=WAVEFORM
    ),
    "model.frontend.normalize_eps": Key(
        number(1e-12, 1.0), "added to that variance; transformers: 1e-7", only=WAVEFORM
    ),
    "model.frontend.smoothing": Key(
        PROBABILITY, "how much the kernels start as averages over time", only=WAVEFORM
    ),
    "model.frontend.grad_mult": Key(
        number(0.0, 1e3), "scales the gradient into the front end; 0 freezes it", only=WAVEFORM
    ),
    "model.frontend.frame_rule": Key(
        choice("convolution", "samples"),
        "which frames of a padded row count; samples: all whose share of the row, cut into as many "
        "parts as there are frames, holds a sample (fairseq's HuBERT; depends on the longest row)",
        only=WAVEFORM,
    ),
    "model.frontend.preset": Key(
        choice("google", "kaldi", "seamless", "whisper"),
        "whose log-mel spectrum (w2v_jax/audio/logmel.py); seamless: w2v-BERT 2.0",
        only=LOGMEL,
    ),
    "model.frontend.mels": Key(whole(1, 256), "of the spectrum", "bins", only=LOGMEL),
    "model.frontend.normalization": Key(
        choice("none", "utterance", "global"),
        "every bin to zero mean and unit variance: of its utterance, or of a corpus",
        only=LOGMEL,
    ),
    "model.frontend.statistics": Key(
        TEXT,
        "of normalization=global: what python -m w2v_jax.mel_statistics wrote, or a model that was "
        "trained with it; read when a training starts",
        only=LOGMEL,
    ),
    "model.frontend.mean": Key(
        Several(number(-1e6, 1e6), 0, 256), "of every bin, read from that file", only=LOGMEL
    ),
    "model.frontend.std": Key(Several(above(0.0, 1e6), 0, 256), "likewise", only=LOGMEL),
    "model.frontend.subsampling": Key(
        choice("conv", "stack"),
        "conv: two convolutions over time and frequency, a frame per 40 ms; stack: frames side by "
        "side",
        only=LOGMEL,
    ),
    "model.frontend.channels": Key(WIDTH, "of these convolutions", "channels", only=LOGMEL),
    "model.frontend.projection": Key(
        WIDTH, "of the linear layer after them", "channels", only=LOGMEL
    ),
    "model.frontend.stack": Key(
        whole(1, 16), "of subsampling=stack: how many, 10 ms each", "frames", only=LOGMEL
    ),
    "model.frontend.tokenizer": Key(
        choice("kmeans", "random"),
        "what makes the tokens, 50 per second; kmeans: centroids of MFCC; random: BEST-RQ's random "
        "projection and codebook, of the spectrum",
        only=UNITS,
    ),
    "model.frontend.classes": Key(
        whole(2, 65_536), "tokens that there are: centroids, or random codes", only=UNITS
    ),
    "model.frontend.width": Key(WIDTH, "of the embeddings", "channels", only=UNITS),
    "model.frontend.centroids": Key(
        TEXT,
        "of tokenizer=kmeans: what python -m w2v_jax.units learn --features=mfcc wrote, or a model "
        "that was trained with it; read when a training starts; empty: those of run.init_from",
        only=UNITS,
    ),
    "model.frontend.digest": Key(TEXT, "of these centroids, read from there", only=UNITS),
    "model.block.kind": Key(choice("transformer", "conformer"), "the blocks"),
    "model.block.adapter_dim": Key(
        whole(0, 65_536),
        "bottleneck of an adapter at the end of a block (MMS); 0: none",
        only=TRANSFORMER,
    ),
    "model.block.feed_forwards": Key(
        whole(1, 2), "2: before attention and convolution and after; 1: after", only=CONFORMER
    ),
    "model.block.residual": Key(
        above(0.0, 1.0),
        "share of a feed-forward that is added; 0.5: half-steps, 1: full steps",
        only=CONFORMER,
    ),
    "model.block.order": Key(
        choice("attention_first", "convolution_first", "parallel"),
        "of attention and convolution; parallel: both of the same input, and added",
        only=CONFORMER,
    ),
    "model.block.convolution": Key(
        choice("depthwise", "lightweight", "none"),
        "of the convolution module; lightweight: a kernel per head of the attention, its taps add "
        "up to 1; none: no such module, and its other keys mean nothing",
        only=CONFORMER,
    ),
    "model.block.causal_convolution": Key(
        FLAG, "whether it sees earlier frames alone; the attention sees all", only=CONFORMER
    ),
    "model.block.kernel": Key(
        whole(1, 4_096),
        "of the convolution module; an even one sees one frame more of the future",
        "frames",
        only=CONFORMER,
    ),
    "model.block.bias": Key(FLAG, "whether its convolutions have one", only=CONFORMER),
    "model.block.norm": Key(
        choice("batch", "layer", "group"), "inside the convolution module", only=CONFORMER
    ),
    "model.block.dropout": Key(SHARE, "at the end of the convolution module", only=CONFORMER),
    "model.positions.kind": Key(
        choice("conv", "conv_stack", "relative", "shaw", "rotary", "sinusoidal", "none"),
        "what says where a frame stands; relative, shaw and rotary need conformer blocks",
    ),
    "model.positions.layers": Key(
        whole(1, 64), "convolutions, each with a norm of its frames", "layers", only=STACK
    ),
    "model.positions.kernel": Key(
        whole(1, 4_096), "of the convolution over time", "frames", only=CONVS
    ),
    "model.positions.groups": Key(whole(1, 65_536), "of its channels", only=CONVS),
    "model.positions.norm": Key(
        choice("weight", "batch"),
        "weight: of the kernel; batch: batch norm of the input",
        only=CONV,
    ),
    "model.positions.activation": Key(ACTIVATION, "after that convolution", only=CONVS),
    "model.positions.left": Key(
        whole(0, 65_536),
        "distances of earlier frames that have a vector each; those beyond share the last",
        "frames",
        only=SHAW,
    ),
    "model.positions.right": Key(whole(0, 65_536), "likewise of later frames", "frames", only=SHAW),
    "model.output.kind": Key(
        choice("plain", "strided", "attentive"),
        "strided: convolutions on top, fewer frames (transformers' add_adapter); attentive: each "
        "with attention and a feed-forward (that of w2v-BERT)",
    ),
    "model.output.layers": Key(whole(1, 16), "convolutions on top", only=STRIDED),
    "model.output.width": Key(
        whole(0, 65_536),
        "of the output; 0: the model's, without a projection",
        "channels",
        only=STRIDED,
    ),
    "model.output.stride": Key(whole(1, 16), "of each of them", "frames", only=STRIDED),
    # execution
    "execution.dtype": Key(
        choice("float32", "bfloat16"), "of the computation; parameters stay float32"
    ),
    "execution.remat": Key(
        choice("none", "full", "dots"),
        "what the backward pass computes again in the blocks: all, or not products and attention",
    ),
    "execution.remat_features": Key(FLAG, "and norms and activations of the front end"),
    "execution.layers": Key(
        choice("auto", "scan", "unroll"),
        "scan: one compiled block in a loop; unroll: a block per layer; auto: what is best on the "
        "platform",
    ),
    "execution.attention": Key(
        choice("auto", "heads", "whole", "fused"),
        "whole, one head after the other, or a kernel of a GPU; auto: what is best on the platform",
    ),
    "execution.positional_conv": Key(choice("auto", "fft", "conv"), "likewise"),
    "execution.depthwise_conv": Key(choice("auto", "fused", "shifts", "conv"), "likewise"),
    "execution.rows": Key(
        choice("auto", "fused", "plain"),
        "likewise; fused: residual sum, dropout, norm and GELU of a frame in one kernel of a GPU",
    ),
    "execution.ctc": Key(
        choice("auto", "fused", "scan"), "the loss; fused: its recursions as kernels of a GPU"
    ),
    "execution.first_conv": Key(
        choice("auto", "folded", "conv"),
        "likewise; folded: a product with the norm in its kernel, where the norm is over time",
    ),
    # heads
    "quantizer.kind": Key(
        choice("gumbel", "linear"),
        "what the targets are; gumbel: codes; linear: projections of the features as they are",
    ),
    "quantizer.groups": Key(
        whole(1, 64), "codebooks, of each of which a code is chosen", only=GUMBEL
    ),
    "quantizer.codes": Key(whole(2, 65_536), "entries of a codebook", only=GUMBEL),
    "quantizer.width": Key(
        WIDTH, "of a quantized vector, all groups together", "channels", only=GUMBEL
    ),
    "quantizer.depth": Key(
        whole(1, 16), "linear layers before the choice of a code", "layers", only=GUMBEL
    ),
    "quantizer.factor": Key(
        whole(1, 64), "of the inner ones' width to that of a feature", only=GUMBEL
    ),
    "quantizer.projection": Key(WIDTH, "where context and target are compared", "channels"),
    "quantizer.projection_depth": Key(
        whole(1, 16), "of either's way there; the inner ones are as wide as their input", "layers"
    ),
    "quantizer.dropout": Key(SHARE, "of the features that the targets are made of"),
    "random_quantizer.codebooks": Key(
        whole(1, 64), "each gives every frame a label; the loss is the mean of theirs"
    ),
    "random_quantizer.codes": Key(whole(2, 65_536), "entries of a codebook"),
    "random_quantizer.width": Key(
        WIDTH, "where the projected frame and the entries are compared", "channels"
    ),
    "prediction.classes": Key(
        Several(whole(1, 1_000_000), 1, 64, "(504,)"),
        "of every set of labels: its units', or 4 more as in fairseq, whose first 4 rows are no "
        "clusters",
    ),
    "prediction.projection": Key(
        WIDTH, "where context and label embeddings are compared", "channels"
    ),
    "prediction.tied": Key(FLAG, "one projection for all sets of labels"),
    "prediction.label_rate": Key(above(0.0, 16_000.0), "of the labels", "per second"),
    "predictor.kind": Key(
        choice("mlp", "transformer", "none"),
        "what stands between the augmented branch and the targets",
    ),
    "predictor.layers": Key(
        whole(1, 16), "linear layers, or transformer blocks", "layers", only=PREDICTED
    ),
    "predictor.factor": Key(
        whole(1, 64), "of the inner linear layers' width to the model's", only="predictor.kind=mlp"
    ),
    # the augmented branch of c-siam
    "warp.enabled": Key(FLAG, "whether it hears another time than the target branch"),
    "warp.stretch": Key(
        RATES, "how much faster an utterance is heard, from and to; drawn log-uniformly"
    ),
    "warp.rate": Key(RATES, "and every piece of it besides, likewise"),
    "warp.knot_seconds": Key(above(0.0, 1e5), "length of such a piece", "s"),
    "warp.offset_seconds": Key(number(0.0, 1e5), "of the beginning is cut off, at most", "s"),
    # the teacher of data2vec
    "teacher.start": Key(
        SHARE, "decay of the average of the student's blocks that the teacher is, at first"
    ),
    "teacher.end": Key(SHARE, "and once teacher.steps are done"),
    "teacher.steps": Key(
        whole(0, STEPS), "in which it goes from the one to the other, linearly", "updates"
    ),
    "teacher.layers": Key(
        whole(1, 1_000), "of its top blocks' feed-forwards the targets are made", "blocks"
    ),
    # masks
    "masking.prob": Key(PROBABILITY, SPAN_PROB.format("the frames")),
    "masking.span": Key(whole(1, 65_536), "length of a span", "frames"),
    "masking.minimum": Key(whole(0, 1_000), SPAN_LEAST),
    "mel_masking.prob": Key(above(0.0, 1.0), "that a frame of the spectrum starts a span"),
    "mel_masking.span": Key(whole(1, 65_536), "length of a span", "frames of 10 ms"),
    "mel_masking.noise": Key(
        number(0.0, 1e3), "standard deviation of the normal noise in the place of masked frames"
    ),
    "time_masking.prob": Key(PROBABILITY, SPAN_PROB.format("the frames")),
    "time_masking.span": Key(whole(1, 65_536), "length of a span", "frames"),
    "time_masking.minimum": Key(whole(0, 1_000), SPAN_LEAST),
    "channel_masking.prob": Key(PROBABILITY, SPAN_PROB.format("the channels")),
    "channel_masking.span": Key(whole(1, 65_536), "width of a span", "channels"),
    "channel_masking.minimum": Key(whole(0, 1_000), SPAN_LEAST),
    "spec_augment.frequency_masks": Key(
        whole(0, 1_000), "bands of the spectrum that are hidden; 0: none", only=LOGMEL
    ),
    "spec_augment.frequency_width": Key(whole(0, 256), "of each, at most", "bins", only=LOGMEL),
    "spec_augment.time_masks": Key(
        whole(0, 1_000), "spans of it that are hidden; 0: none", only=LOGMEL
    ),
    "spec_augment.time_width": Key(
        whole(0, 65_536), "of each, at most", "frames of 10 ms", only=LOGMEL
    ),
    "spec_augment.time_share": Key(
        PROBABILITY, "and at most this share of the utterance", only=LOGMEL
    ),
    # the loss of wav2vec 2.0, and of HuBERT
    "loss.negatives": Key(
        whole(0, 100_000), "drawn for every masked frame from its own utterance", "frames"
    ),
    "loss.negatives_from": Key(
        choice("masked", "everywhere"), "from masked frames, or from any of the utterance"
    ),
    "loss.cross_negatives": Key(
        whole(0, 100_000),
        "so many more from the whole micro-batch; its rows, and with them the memory of all pairs "
        "of their masked frames, shrink with run.accumulation",
        "frames",
    ),
    "loss.temperature": Key(number(1e-3, 1e3), "by which cosines are divided"),
    "loss.ctc_weight": Key(
        number(0.0, 1e6),
        "of a letter's nats to those of a masked frame: CTC on data.labelled; 0: no such branch",
        only="kind=c_siam",
    ),
    "loss.targets": Key(
        choice("augmented", "clean"),
        "the wave that they are of; the context hears the one that data.augment made of it",
    ),
    "loss.diversity_weight": Key(
        number(0.0, 1e6), "of the term for an even use of the codes", only=GUMBEL
    ),
    "loss.penalty_weight": Key(number(0.0, 1e6), "of the mean square of the features"),
    "loss.masked_weight": Key(number(0.0, 1e6), "of the masked frames", only=HUBERT),
    "loss.unmasked_weight": Key(
        number(0.0, 1e6), "of the others; 0: nothing is asked of them", only=HUBERT
    ),
    "gumbel.start": Key(
        number(1e-3, 1e3), "temperature of the choice of codes at first", only=GUMBEL
    ),
    "gumbel.end": Key(number(1e-3, 1e3), "below which it does not fall", only=GUMBEL),
    "gumbel.decay": Key(above(0.0, 1.0), "factor that it falls by", "per update", only=GUMBEL),
    # data
    "data.train": Key(
        TEXT,
        "manifests or folders of shards, written by python -m w2v_jax.prepare: one, or several "
        "with commas or as a pattern, data.mix says how much is heard of each; of language "
        "models text files, plain or .gz, a sentence per line",
    ),
    "data.valid": Key(TEXT, "likewise, of the evaluation; empty: none"),
    "data.unlabelled": Key(
        TEXT,
        "manifests, likewise, of speech that the model labels itself; transcripts in them are not "
        "used",
    ),
    "data.labelled": Key(
        TEXT, "manifests, likewise, of speech with transcripts, for the CTC branch; empty: none"
    ),
    "data.units": Key(
        Several(Text("[A-Za-z0-9_-]+", "a name"), 1, 64, "('mfcc100',)"),
        "of the labels, each a set that python -m w2v_jax.units wrote beside all these manifests",
        only=HUBERT,
    ),
    "data.mix": Key(
        choice("none", "hours", "weights", "temperature"),
        "how much of every source is heard (w2v_jax/data/mixing.py)",
    ),
    "data.mix_weights": Key(
        Several(number(0.0, 1e9), 0, 10_000, "(3.0,1.0)"), "of data.mix=weights, one per source"
    ),
    "data.mix_alpha": Key(
        PROBABILITY, "of data.mix=temperature: n hours count n ** alpha; 0: all languages alike"
    ),
    "data.batch_seconds": Key(AT_ONCE, "audio per update, all devices together", "s"),
    "data.batch_tokens": Key(whole(2, 100_000_000), "per update, all devices together", "tokens"),
    "data.row_multiple": Key(whole(1, 65_536), "rows of a batch are a multiple of this", "rows"),
    "data.crop_seconds": Key(
        Several(above(0.0, 1e5), 1, 64, "(2.0,5.0)", rising=True),
        "lengths of the crops; an utterance gives the longest that it can fill, and every length "
        "is a shape to compile",
        "s",
    ),
    "data.concatenate_seconds": Key(
        number(0.0, 1e5),
        "short utterances of a speaker are joined until they are as long; with transcripts three "
        "times, besides being heard alone; 0: none",
        "s",
    ),
    "data.num_buckets": Key(whole(1, 1_000), "lengths of padded batches, each a shape to compile"),
    "data.min_seconds": Key(number(0.0, 1e5), "shorter utterances are left out", "s"),
    "data.max_seconds": Key(above(0.0, 1e5), "longer utterances are left out", "s"),
    "data.augment.speed_prob": Key(PROBABILITY, "that an utterance is played faster or slower"),
    "data.augment.speed_factors": Key(
        Several(number(0.5, 2.0), 1, 64, "(0.9,1.1)"), "by one of these"
    ),
    "data.augment.pitch_prob": Key(PROBABILITY, "that the pitch is shifted"),
    "data.augment.pitch_semitones": Key(number(0.0, 24.0), "up or down by at most", "semitones"),
    "data.augment.reverb_prob": Key(PROBABILITY, "that an utterance is heard in another room"),
    "data.augment.reverb_manifest": Key(TEXT, "manifest of the impulse responses for that"),
    "data.augment.noise_prob": Key(PROBABILITY, "that noise is added"),
    "data.augment.noise_manifest": Key(TEXT, "manifest of the noises"),
    "data.augment.noise_snr_db": Key(
        Several(number(-100.0, 100.0), 2, 2, "(5.0,20.0)", rising=True),
        "signal to noise ratio, from and to",
        "dB",
    ),
    "data.augment.gain_prob": Key(PROBABILITY, "that an utterance is made louder or softer"),
    "data.augment.gain_db": Key(
        Several(number(-100.0, 100.0), 2, 2, "(-6.0,6.0)", rising=True), "from and to", "dB"
    ),
    "data.augment.band_prob": Key(PROBABILITY, "that a band of frequencies is taken out"),
    "data.augment.band_share": Key(
        PROBABILITY, "it is at most this share of the mel scale up to 8 kHz"
    ),
    "data.augment.drop_prob": Key(PROBABILITY, "that pieces are silenced"),
    "data.augment.drop_count": Key(whole(1, 1_000), "so many", "pieces"),
    "data.augment.drop_seconds": Key(number(0.0, 1e3), "of at most so long each", "s"),
    # labels that a model makes itself
    "pseudo.start": Key(
        whole(0, STEPS), "on transcripts alone, before the cache is filled", "updates"
    ),
    "pseudo.ratio": Key(
        Several(whole(1, 10_000), 2, 2, "(1,4)"),
        "on transcripts and on the model's own labels, of every block of updates",
        "updates",
    ),
    "pseudo.cache": Key(
        whole(1, 1_000_000), "with labels that are kept; so many updates fill it", "batches"
    ),
    "pseudo.replace": Key(
        above(0.0, 1.0), "share of these updates after which a fresh batch takes the place"
    ),
    "pseudo.num_buckets": Key(
        whole(1, 1_000), "lengths of unlabelled batches, each three shapes to compile"
    ),
    # the CTC branch of c-siam
    "labelled.ratio": Key(
        above(0.0, 1.0), "share of the updates that a labelled batch accompanies"
    ),
    "labelled.batch_seconds": Key(AT_ONCE, "audio of such a batch, all devices together", "s"),
    "labelled.num_buckets": Key(
        whole(1, 1_000), "lengths of such batches, each a shape to compile beside every crop's"
    ),
    "labelled.max_seconds": Key(above(0.0, 1e5), "longer utterances are left out", "s"),
    # optimizer
    "optim.schedule": Key(
        choice("linear", "inverse_sqrt", "tri_stage"),
        "of the learning rate; linear: up to its peak, down to 0; inverse_sqrt: up, then with the "
        "root of the updates; tri_stage: up, constant, exponentially down",
    ),
    "optim.peak_lr": Key(above(0.0, 10.0), "the highest learning rate"),
    "optim.warmup_steps": Key(whole(0, STEPS), "until it is reached", "updates", only=WARMED),
    "optim.phases": Key(
        Several(number(0.0, 1_000.0), 3, 3, "(0.1,0.4,0.5)"),
        "shares of the updates in which it rises, stays and falls; together 1, or a fall above 1, "
        "of which the end is not reached",
        only=TRI_STAGE,
    ),
    "optim.kind": Key(
        choice("adam", "adafactor"),
        "adafactor: of the mean squares of a matrix its rows' and columns' means alone are kept",
    ),
    "optim.b1": Key(SHARE, "decay of the mean of the gradient; of adafactor: of its updates"),
    "optim.b2": Key(SHARE, "decay of the mean of the gradient's square"),
    "optim.eps": Key(
        number(1e-30, 1.0), "of adam: added to the root of that; of adafactor: to the square"
    ),
    "optim.weight_decay": Key(number(0.0, 10.0), "decoupled, of all parameters"),
    "optim.clip_norm": Key(number(0.0, 1e9), "of the whole gradient, at most; 0: any"),
    # what changes no number beyond rounding: where from, how much at once, how often, how long
    "run.init_from": Key(
        TEXT, "a checkpoint whose weights a new run begins with; empty: random weights"
    ),
    "run.partial_init": Key(FLAG, "take over what fits of a model of other shape"),
    "run.init_head": Key(
        FLAG, "take over the layer of letters too, of a model with the same alphabet",
        only="kind=ctc",
    ),
    "run.mesh.data": Key(
        whole(1, 1_000_000, other=-1),
        "parts that rows are cut into; -1: what the other axes leave",
        "devices",
    ),
    "run.mesh.fsdp": Key(
        whole(1, 1_000_000, other=-1), "parts that rows and the state are cut into", "devices"
    ),
    "run.mesh.tensor": Key(
        whole(1, 1_000_000, other=-1), "parts that every layer is cut into", "devices"
    ),
    "run.accumulation": Key(
        whole(1, 65_536),
        "micro-batches per update; dropout and LayerDrop are drawn for each, and negatives of "
        "other utterances come from it alone",
    ),
    "run.threads": Key(whole(0, 1_024), "that read data"),
    "run.workers": Key(
        whole(0, 1_024), "processes with that many threads each; 0: they are this process's"
    ),
    "run.cache_gigabytes": Key(number(0.0, 1e6), "decoded audio kept in memory", "GB"),
    "run.max_bad_share": Key(PROBABILITY, "of unreadable files before a run stops"),
    "run.log_steps": Key(COUNT, "between lines of the log", "updates"),
    "run.save_steps": Key(COUNT, "between checkpoints", "updates"),
    "run.eval_steps": Key(COUNT, "between evaluations", "updates"),
    "run.keep_last": Key(whole(1, STEPS), "newest checkpoints that are kept"),
    "run.keep_every": Key(
        whole(0, STEPS), "and besides them one every so many; 0: none", "updates"
    ),
    "run.keep_best": Key(whole(0, STEPS), "and so many of the best on data.valid"),
    "run.max_skipped": Key(
        whole(0, STEPS),
        "in a row with non-finite gradients before a run stops; 0: never",
        "updates",
    ),
    "run.hang_seconds": Key(
        number(0.0, 1e7), "without a finished update before stacks are dumped; 0: never", "s"
    ),
    "run.profile_steps": Key(
        Text("([0-9]+:[0-9]+)?", "FIRST:LAST, 100:105 say, or empty"),
        "updates of a trace, both included; empty: none",
    ),
    "run.dry_run": Key(FLAG, "read a batch, compile the step, say what it needs, and stop"),
}

# of configs/evaluate.py, and the flags of transcribe: how a text is searched for. Weights are those
# of natural logarithms
SEARCH = {
    "lm": Key(TEXT, "n-gram model: an ARPA file, plain or .gz, or a binary of KenLM"),
    "lexicon": Key(TEXT, "the only words that are found, one per line; empty: those of lm"),
    "any_word": Key(FLAG, "find other words too, which lm knows as <unk> (by the library python)"),
    "library": Key(
        choice("auto", "flashlight", "python"), "auto: flashlight where it is installed"
    ),
    "beam": Key(whole(1, 1_000_000), "hypotheses kept at every frame"),
    "threshold": Key(above(0.0, 1e9), "how much worse than the best one they may be", "nats"),
    "letters": Key(whole(0, 1_000_000), "tried at every frame, the likeliest; 0: all"),
    "lm_weight": Key(number(-1e3, 1e3), "of the n-gram model"),
    "word_score": Key(number(-1e3, 1e3), "added for every word", "nats"),
    "best": Key(whole(1, 1_000_000), "hypotheses of an utterance"),
    "transformer_lm": Key(
        TEXT,
        "language model, an export or a run of train_lm, that scores these again",
    ),
    "transformer_weight": Key(number(-1e3, 1e3), "of that model"),
    "transformer_word_score": Key(number(-1e3, 1e3), "added for every word beside it", "nats"),
    "ngram_weight": Key(number(-1e3, 1e3), "of lm beside it; the papers have 0"),
}
