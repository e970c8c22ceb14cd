"""c-siam as it is trained: what its branches hear, and that the target branch stands still."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.promises.contract import mesh_of
from w2v_jax.configs import c_siam
from w2v_jax.errors import UserError
from w2v_jax.measuring.flops import encoder_flops
from w2v_jax.models.catalogue import expected_shapes
from w2v_jax.models.heads.predictor import PREDICTORS, Predictor, predictor_of
from w2v_jax.tasks import make_task
from w2v_jax.training.state import abstract_state, first_state
from w2v_jax.training.task import Context

LOGMEL = "frontend=logmel"


def context(seed=0):
    return Context(jnp.int32(0), jax.random.key(seed), jax.random.key(seed))


def shape_of(tree):
    return jax.tree.map(lambda x: x.shape, tree)


def quiet(kinds="", **values):
    """A config without dropout."""
    return small.c_siam(kinds, **small.NO_DROPOUT | values)


def batch_of(rows=3, samples=16_000, seed=0):
    return {name: x[0] for name, x in small.noise_batch(rows, samples, seed=seed).items()}


def started(config):
    """(task, variables)."""
    task = make_task(config)
    return task, jax.device_get(first_state(task, mesh_of(1, 1, 1))).variables


def still(config):
    """The config without mask, warp and predictor: both branches are the same."""
    config.warp.enabled = False
    with config.unlocked():
        config.predictor = {"kind": "none"}
    return config


@pytest.fixture(scope="module")
def waveform():
    return started(quiet())


def test_equal_branches_agree(monkeypatch):
    """Without warp, mask, predictor and dropout every frame finds itself."""
    task, variables = started(still(quiet()))
    real = task.view

    def unmasked(batch, context):
        view = real(batch, context)
        return view._replace(time_mask=jnp.zeros_like(view.time_mask))

    monkeypatch.setattr(task, "view", unmasked)

    @jax.jit
    def both(variables):
        out, (view, targets) = task.forward(variables, batch_of(), context(), train=True)
        return out.prediction, targets, task.score(out.prediction, targets, view)

    prediction, targets, (loss, won, count) = both(variables)
    np.testing.assert_array_equal(prediction, targets)
    assert won == count > 50
    assert loss / count < np.log(11)


def test_the_target_branch_has_no_gradient(waveform):
    """Not through its parameters, and none at all where the prediction is held still."""
    task, variables = waveform
    batch = batch_of()

    def loss(variables):
        return task.loss(variables, batch, context())[0]

    @jax.jit
    def gradients(variables):
        out, (view, targets) = task.forward(variables, batch, context(), train=True)

        def of_targets(variables):
            moved = task.aligned(task.targets(variables, batch["audio"]), view)
            return task.score(out.prediction, moved, view)[0]

        def held(variables):
            out, _ = task.forward(variables, batch, context(), train=True)
            return task.score(out.prediction, targets, view)[0]

        return [jax.grad(f)(variables) for f in (of_targets, loss, held)]

    through, whole, expected = gradients(variables)
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(through))
    assert any((np.asarray(x) != 0).any() for x in jax.tree.leaves(whole))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), whole, expected
    )


def test_what_is_beyond_the_end_is_padding():
    """On a log-mel spectrum, where the edit knows no end: neither does what the warp leaves there
    reach a frame before it, nor is any beyond it asked for or chosen."""
    task, variables = started(quiet(LOGMEL))
    batch = batch_of(4, 32_000)
    view = task.view(batch, context())
    left = np.asarray(view.left)
    frames = task.encoder.frontend.frames(32_000)
    assert left.min() < frames - 5
    assert (np.asarray(view.index) < left[:, None])[np.asarray(view.valid)].all()
    chosen = np.take_along_axis(np.asarray(view.index)[:, None], np.asarray(view.negatives), 2)
    assert (chosen < left[:, None, None]).all()
    heard = task.heard(batch["audio"], view)

    @jax.jit
    def ask(noise):
        def edit(spectrum, frames):
            behind = jnp.arange(spectrum.shape[1])[None, :, None] >= 4 * view.left[:, None, None]
            return heard["edit"](spectrum, frames) + noise * behind

        return task.model().apply(variables, **heard | {"edit": edit})

    found, other = ask(0.0), ask(9.0)
    np.testing.assert_array_equal(found.length, left)
    for row, count in enumerate(left):
        a, b = found.prediction[row], other.prediction[row]
        np.testing.assert_allclose(a[:count], b[:count], atol=1e-5)


def transforms(task, batch):
    """Fourier transforms in the compiled loss and its gradient."""
    variables = abstract_state(task, mesh_of(1, 1, 1)).variables
    gradient = jax.grad(lambda v, batch: task.loss(v, batch, context())[0])
    return jax.jit(gradient).lower(variables, batch).compile().as_text().count(" fft(")


def test_a_spectrum_is_computed_once():
    """For both branches, unless they hear two views; the positions would have transforms too."""
    config = quiet(LOGMEL, positions="none", num_layers=1)
    batch = batch_of(2)
    assert transforms(make_task(config), batch) == 1
    config.data.augment.gain_prob = 0.5
    assert transforms(make_task(config), batch | {"clean": batch["audio"]}) == 2


def test_everything_follows_its_utterance(waveform):
    """Neither the other rows nor their order change what a row is asked."""
    task, _ = waveform
    batch = batch_of()
    turned = {key: x[::-1] for key, x in batch.items()}
    look = jax.jit(task.view)
    view, other = (look(x, context()) for x in (batch, turned))
    for name in ("left", "time_mask", "negatives"):
        np.testing.assert_array_equal(getattr(view, name), getattr(other, name)[::-1])
    np.testing.assert_array_equal(view.warp.rates, other.warp.rates[::-1])
    batch["id"] = np.array([0, -1, 2], np.int32)
    assert not look(batch, context()).valid[1].any()


def test_targets_are_of_the_clean_view(waveform, monkeypatch):
    task, variables = waveform
    heard = []
    monkeypatch.setattr(task, "targets", lambda _, audio: heard.append(audio) or audio)
    monkeypatch.setattr(task, "aligned", lambda targets, view: targets)

    def asked(batch):
        task.forward(variables, batch, context(), train=False)
        assert heard[-1] is batch.get("clean", batch["audio"])

    for batch in (batch_of(), batch_of() | {"clean": batch_of(seed=1)["audio"]}):
        jax.eval_shape(asked, batch)
    config = quiet()
    config.data.augment.noise_prob = 0.5
    config.data.augment.noise_manifest = "noises.tsv"
    assert make_task(config).views == ("audio", "clean")
    assert task.views == ("audio",)


def test_ranges_of_no_width_are_no_warp():
    config = quiet()
    config.warp.update(stretch=(1.0, 1.0), rate=(1.0, 1.0), offset_seconds=0.0)
    assert not make_task(config).warps
    view = make_task(config).view(batch_of(), context())
    assert view.warp is None
    assert view.left.tolist() == [49] * 3


def test_candidates_from_everywhere():
    config = quiet()
    config.loss.negatives_from = "everywhere"
    task = make_task(config)
    targets = np.random.default_rng(0).normal(size=(3, 49, 8)).astype(np.float32)

    @jax.jit
    def scored(targets):
        view = task.view(batch_of(), context())
        moved = task.aligned(targets, view)
        own = jnp.take_along_axis(moved, view.index[:, :, None], 1)
        return view, task.score(own, moved, view)

    view, (loss, won, count) = jax.device_get(scored(targets))
    assert view.usable.sum(1).tolist() == view.left.tolist()
    assert (view.negatives != view.index[:, :, None]).all()
    assert won == count
    assert loss / count < 0.2


@pytest.mark.parametrize("kind", PREDICTORS)
def test_predictors(kind):
    config = quiet()
    predictor = predictor_of({"kind": kind})
    encoder = make_task(config).encoder
    module = Predictor(encoder, predictor)
    x = np.random.default_rng(0).normal(size=(2, 7, 32)).astype(np.float32)
    mask = jnp.arange(7) < jnp.array([[7], [4]])
    out, variables = module.init_with_output(jax.random.key(0), x, mask)
    assert out.shape == x.shape
    leaves = jax.tree.leaves(variables)
    other = x.copy()
    other[1, 4:] = 7.0
    if kind == "mlp":
        assert sum(leaf.size for leaf in leaves) == 32 * 64 + 64 + 64 * 32 + 32
    if kind == "transformer":  # frames hear each other, but none beyond the end
        moved = module.apply(variables, other, mask)
        np.testing.assert_allclose(moved[1, :4], out[1, :4], atol=1e-6)
    if kind == "none":
        assert not leaves


def test_a_collapse_is_told(waveform):
    """Of an encoder that says the same whatever it hears; not of a new one."""
    task, variables = waveform
    scalars = {}
    norm = variables["params"]["encoder"]["context"]["layers"]["block"]["final_norm"]
    dead = jax.tree.map(lambda x: x, variables)
    dead["params"]["encoder"]["context"]["layers"]["block"]["final_norm"] = {
        "scale": norm["scale"] * 0, "bias": norm["bias"] + 1,
    }  # fmt: skip
    alarms = {alarm.name: alarm for alarm in task.alarms}
    metrics = jax.jit(lambda variables: task.loss(variables, batch_of(), context())[1].metrics)
    for name, found in {"new": variables, "dead": dead}.items():
        scalars[name] = {key: float(x / y) for key, (x, y) in metrics(found).items()}
    assert scalars["dead"]["train/target_std"] < 0.01
    assert alarms["collapse"].condition(1000, scalars["dead"])
    assert not alarms["collapse"].condition(1000, scalars["new"])
    assert not alarms["collapse"].condition(100, scalars["dead"])


def test_the_target_branch_costs_a_forward_pass(waveform):
    """Of the whole encoder, without what it shares with the other branch, and nothing backward."""
    for task in (waveform[0], make_task(quiet(LOGMEL))):
        forward, alone = task.forward_flops(32_000), encoder_flops(task.encoder, 32_000)
        target = sum(alone.values()) - alone.get("spectrum", 0)
        assert forward["target branch"] == target
        others = sum(forward.values()) - target
        without = 2 * forward.get("spectrum", 0) + forward["first convolution"]  # a gradient
        trained = task.training_flops(32_000) - target
        assert trained == pytest.approx(3 * others - without)


def test_alarms():
    small.check_alarms(make_task(c_siam.get_config("tiny")), {
        "train/contrastive_bits": 5.0, "train/target_std": 0.8,
    }, {
        "collapse": ("train/target_std", 0.05), "chance": ("train/contrastive_bits", 6.65),
    })  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("warp.offset_seconds", 0.6, r"offset_seconds=0\.6 may cut .*of the shortest crop, 1 s; "
                                     r"set --config\.warp\.offset_seconds=0\.25 or less"),
        ("warp.stretch", (1.2, 0.8), r"warp\.stretch=.* greater number to a smaller one; set "
                                     r"--config\.warp\.stretch='\(0\.8,1\.2\)'"),
        ("data.augment.speed_prob", 0.5, r"speed_prob=0\.5 moves what is said .* speed_prob=0"),
        ("loss.negatives", 0, r"--config\.loss\.negatives=0 leave nothing to tell a frame from"),
        ("loss.ctc_weight", 1.0, r"ctc_weight=1\.0 weighs .* --config\.data\.labelled to a manif"),
        ("data.labelled", "a.tsv", r"labelled=a\.tsv is not used with .*ctc_weight=0; set ctc_w"),
        ("labelled.ratio", 0.0, r"labelled\.ratio=0\.0 must be a number above 0"),
        ("warp.rate", (0.0, 1.0), r"warp\.rate='\(0\.0,1\.0\)' must be 2 values"),
    ],
)  # fmt: skip
def test_values_that_make_no_sense(key, value, words):
    config = small.c_siam()
    config.data.train = "train.tsv"
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=words):
        make_task(config)


def test_the_ctc_branch():
    """Letters weigh as masked frames do, on one micro-batch or two; padding changes nothing, and
    neither do rows that fill up."""
    config = quiet()
    config.loss.ctc_weight, config.data.labelled = 0.5, "labelled.tsv"
    task, variables = started(config)
    rows = small.labelled_batch(4, 32_000, lengths=[32_000, 20_000, 16_000, 32_000])
    labelled = {f"labelled_{name}": x[0] for name, x in rows.items()}
    batch = batch_of(4)

    @jax.jit
    def loss(batch):
        total, out = task.loss(variables, batch, context())
        return total, out.weight, out.metrics

    total, weight, metrics = loss(batch | labelled)
    nats, letters = metrics["train/ctc_loss_per_letter"]
    alone, _, _ = loss(batch)
    np.testing.assert_allclose(total, alone + 0.5 * nats, rtol=1e-6)
    assert weight == metrics["train/contrastive_bits"][1]
    assert letters == labelled["labelled_labels_length"].sum()
    halves = [{name: x[i : i + 2] for name, x in (batch | labelled).items()} for i in (0, 2)]
    np.testing.assert_allclose(sum(loss(half)[0] for half in halves), total, rtol=1e-5)
    spoiled = {name: x.copy() for name, x in labelled.items()}
    spoiled["labelled_audio"][1, 20_000:] = 1234
    np.testing.assert_allclose(loss(batch | spoiled)[0], total, rtol=1e-6)
    spoiled["labelled_id"][3] = -1
    assert loss(batch | spoiled)[2]["train/infeasible"][1] == 3
    assert shape_of(expected_shapes(task.described())["params"]) == shape_of(variables["params"])
    assert "alphabet" not in make_task(quiet()).described()
