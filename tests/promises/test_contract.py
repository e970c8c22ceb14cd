"""The task contract over every registered kind of training: a new one gets every promise by being
registered."""

import inspect

import numpy as np
import pytest

from tests import small
from tests.promises import contract
from tests.promises.contract import CHECKS, Case
from w2v_jax import mel_statistics
from w2v_jax.analysis.centroids import Centroids
from w2v_jax.audio import mel_statistics as files
from w2v_jax.audio.logmel import GOOGLE
from w2v_jax.audio.mfcc import digest
from w2v_jax.configs import common, wav2vec_aug, wav2vec_conformer
from w2v_jax.tasks import TASKS


@pytest.fixture(scope="session")
def data(manifests, tmp_path_factory):
    """What config.data.train and valid name, by what a task reads."""
    folder = tmp_path_factory.mktemp("texts")
    for split in ("train", "dev"):
        small.write_units(manifests[split])
    return {
        "manifest": {
            "train": manifests["train"], "valid": manifests["dev"], "unlabelled": manifests["dev"]
        },
        "text": {name: small.transcripts(folder, name) for name in ("train", "valid")},
    }


@pytest.fixture(scope="module")
def case(request, data):
    """Of a kind, for all of its checks."""
    return Case(small.recipe(request.param), data[TASKS[request.param].reads])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", TASKS, indirect=True)
def test_the_contract(case, check, tmp_path):
    needs = {"folder": tmp_path} if "folder" in inspect.signature(check).parameters else {}
    check(case, **needs)


@pytest.fixture(scope="session")
def statistics(manifests, tmp_path_factory):
    """The file of a corpus."""
    path = tmp_path_factory.mktemp("statistics") / "mel.json"
    rows = mel_statistics.rows_of(mel_statistics.open_sources(manifests["train"]), 20)
    spectra = mel_statistics.spectra_of(rows, GOOGLE, 2, mel_statistics.Counter())
    files.write(files.collect(spectra, GOOGLE), path)
    return str(path)


def some(*checks):
    """Of the contract: those that another front end or head could break, where all of them would
    take minutes."""
    return pytest.mark.parametrize("check", checks, ids=lambda check: check.__name__)


@some(contract.padding_changes_nothing, contract.exports_load)
def test_the_contract_on_a_log_mel_spectrum(check, data, statistics, tmp_path):
    """CTC with SpecAugment, of what a file of statistics normalises."""
    config = common.finetuning("tiny", {"frontend": "logmel"})
    config.freeze_steps = 0
    frontend = {"channels": 8, "projection": 24, "normalization": "global"}
    small.shrunk(config, {f"frontend__{key}": value for key, value in frontend.items()})
    config.model.frontend.statistics = statistics
    needs = {"folder": tmp_path} if "folder" in inspect.signature(check).parameters else {}
    check(Case(config, data["manifest"]), **needs)


def test_devices_change_nothing_for_other_conformer_blocks(data):
    """Those of w2v-BERT, with what can stand on top of them and a lightweight convolution."""
    block = dict(
        kind="conformer", causal_convolution=True, norm="layer", bias=True,
        convolution="lightweight",
    )  # fmt: skip
    config = small.finetuning(
        block=block, positions=dict(kind="shaw", left=6, right=2), norm_order="none",
        output=dict(kind="attentive", layers=1, width=24),
    )  # fmt: skip
    contract.devices_change_nothing(Case(config, data["manifest"]))


def test_the_contract_with_centroids_of_a_file(data, tmp_path):
    """Discrete BERT, whose run and export have them."""
    rng = np.random.default_rng(0)
    file, mfcc = str(tmp_path / "centroids.npz"), {"extractor": "mfcc", "digest": digest()}
    Centroids(rng.normal(size=(8, 39)).astype("float32"), "", "mfcc", 100.0, 0.0, mfcc).write(file)
    config = small.discrete_bert(frontend__tokenizer="kmeans", frontend__centroids=file)
    contract.exports_load(Case(config, data["manifest"]), tmp_path)


def test_padding_changes_nothing_of_tokens(data):
    """CTC on a front end of units."""
    config = common.finetuning("tiny", {"frontend": "units"})
    config.freeze_steps = 0
    small.shrunk(config, {"frontend__tokenizer": "random", "frontend__width": 32})
    contract.padding_changes_nothing(Case(config, data["manifest"]))


@some(contract.padding_changes_nothing, contract.exports_load)
def test_the_contract_without_codes(check, data, tmp_path):
    """wav2vec-Conformer: linear targets on a log-mel spectrum. With a layer norm in its blocks: a
    batch norm sees all rows of a micro-batch."""
    config = wav2vec_conformer.get_config("tiny")
    config.loss.negatives = 10
    config.quantizer.projection = 16
    changes = {"frontend__channels": 8, "frontend__projection": 24, "block__norm": "layer"}
    small.shrunk(config, changes)
    config.data.crop_seconds = (1.28, 2.56)
    needs = {"folder": tmp_path} if "folder" in inspect.signature(check).parameters else {}
    check(Case(config, data["manifest"]), **needs)


@some(contract.padding_changes_nothing)
def test_the_contract_with_every_switch(check, data, tmp_path):
    """Wav2Vec-Aug with targets of the clean wave, which is a view of its own."""
    config = wav2vec_aug.get_config("tiny")
    config.loss.update(negatives=10, targets="clean")
    config.quantizer.update(groups=2, codes=8, width=16, projection=16)
    small.shrunk(config, {"block__norm": "layer"})
    needs = {"folder": tmp_path} if "folder" in inspect.signature(check).parameters else {}
    check(Case(config, data["manifest"]), **needs)


def test_resume_with_labelled_batches(data, tmp_path):
    """c-siam with its CTC branch."""
    config = small.c_siam()
    config.loss.ctc_weight = 1.0
    config.labelled.update(batch_seconds=8.0, num_buckets=1, max_seconds=3.0)
    data = data["manifest"] | {"labelled": data["manifest"]["train"]}
    contract.resume_is_bit_exact(Case(config, data), tmp_path)
