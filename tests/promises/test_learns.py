"""The tasks are learnt on real speech, from a few seconds of it."""

import dataclasses

import jax
import numpy as np

from tests import small
from w2v_jax.data.batches import iterate
from w2v_jax.data.corpus import Corpus, concatenated
from w2v_jax.data.loader import Loader, Track
from w2v_jax.data.plan import BatchPlan, crop_buckets, pad_buckets
from w2v_jax.data.sharing import Ragged
from w2v_jax.data.sources import open_sources
from w2v_jax.data.transcripts import transcribed
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.evaluation.scoring import score
from w2v_jax.tasks.ctc import CTC
from w2v_jax.tasks.hubert import Hubert
from w2v_jax.tasks.task import Data, Task
from w2v_jax.tasks.wav2vec2 import Wav2Vec2
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.metrics import Window
from w2v_jax.training.sharding import batch_sharding, make_mesh

WIDER = dict(width=64, feed_forward=128, norm_order="pre", **small.NO_DROPOUT)


def train(task: Task, rate, plan, loader, steps):
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    task.schedule = lambda step: rate
    state, step = small.build(task, mesh)
    history = []
    for _, (batch, _) in zip(
        range(steps), iterate(plan, loader, sharding=batch_sharding(mesh)), strict=False
    ):
        state, metrics = step(state, batch)
        window = Window()
        window.add(jax.device_get(metrics))
        history.append(window.means())
    return state, history


def test_contrastive_task(manifests):
    config = small.pretraining(**{**WIDER, "frontend__grad_mult": 1.0})
    config.quantizer.codes = 16
    config.masking.update(prob=0.4, span=5)
    config.loss.update(penalty_weight=0.0, negatives=100)
    corpus = concatenated(Corpus(open_sources(manifests["train"])), 32_000, seed=0)
    plan = BatchPlan(crop_buckets(corpus.lengths, [32_000], 128_000, 1), seed=0, num_steps=160)
    _, history = train(Wav2Vec2(config), 2e-3, plan, Loader(corpus, 0), 160)
    mean = lambda name, part: np.mean([line[name] for line in history[part]])  # noqa: E731
    last = slice(-20, None)
    assert mean("train/contrastive_bits", last) < 6.5, "chance is 6.66 bits"
    assert mean("train/accuracy", last) > 5 / 101
    assert mean("train/accuracy", last) > 1.5 * mean("train/accuracy", slice(0, 20))
    assert mean("train/code_perplexity", last) > 10


def loudness(source) -> list[np.ndarray]:
    """Of every 10 ms of every row which of eight classes its energy is in, equally frequent."""
    rows = []
    for row, size in enumerate(source.manifest.samples.tolist()):
        audio = source.audio(row, 0, size)[: size // 160 * 160].reshape(-1, 160)
        rows.append(np.log(np.square(audio.astype(np.float64)).mean(1) + 1))
    edges = np.quantile(np.concatenate(rows), np.arange(1, 8) / 8)
    return [np.digitize(row, edges) for row in rows]


def test_masked_prediction(manifests):
    """Below what the frequency of the labels gives, on masks that were not trained on."""
    (source,) = open_sources(manifests["train"])
    small.write_rows(manifests["train"], "loudness", loudness(source), classes=8, rate=100)
    config = small.hubert(**{**WIDER, "frontend__grad_mult": 1.0})
    config.data.units = ("loudness",)
    config.data.update(crop_seconds=(2.0,), concatenate_seconds=2.0)
    config.loss.penalty_weight = 0.0
    task, mesh = Hubert(config), make_mesh({"data": 1}, jax.devices()[:1])
    data = task.open(manifests["train"], mesh)
    plan = BatchPlan(data.buckets, seed=0, num_steps=120)
    state, _ = train(task, 2e-3, plan, data.loader, 120)
    buckets = [dataclasses.replace(bucket, items=bucket.items[:12]) for bucket in data.buckets]
    found = task.evaluation(Data(buckets, data.loader), mesh)(state.variables)
    assert found["valid/prediction_bits"] < np.log2(found["valid/label_perplexity"]) - 0.2
    assert found["valid/accuracy"] > 1.1 * found["valid/majority_accuracy"]
    assert found["valid/answer_perplexity"] > 2


def test_ctc_learns_a_few_utterances_by_heart(manifests):
    alphabet = Alphabet.english()
    (source,), labels = transcribed(open_sources(manifests["train"]), alphabet)
    short = np.argsort(source.manifest.samples)[200:204]
    source, labels = source.select(short), Ragged.of([labels[i] for i in short])
    config = small.finetuning(**WIDER)
    config.model.frontend.grad_mult = 1.0
    config.time_masking.update(prob=0.0, minimum=0)
    config.channel_masking.prob = 0.0
    corpus = Corpus(source, cache_bytes=10**7)
    size = int(-(-corpus.lengths.max() // 1600) * 1600)
    plan = BatchPlan(pad_buckets(corpus.lengths, [size], 4 * size, 1), seed=0, num_steps=250)
    task = CTC(config)
    loader = Loader(corpus, 0, crop=False, tracks={"labels": Track(labels, None)})
    state, history = train(task, 3e-3, plan, loader, 250)
    assert history[-1]["train/ctc_loss"] < 0.1 * history[0]["train/ctc_loss"]
    recognizer = Recognizer(task.encoder, alphabet)
    variables = state.variables
    texts = [
        recognizer.text(variables, corpus.audio(i, 0, int(corpus.lengths[i]))) for i in range(4)
    ]
    result = score([alphabet.decode(label) for label in labels], texts)
    assert result.cer < 10, texts
