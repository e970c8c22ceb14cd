"""A CTC model that goes on from another one, its layer of letters included."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests import small
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints
from w2v_jax.tasks import make_task
from w2v_jax.training.sharding import make_mesh
from w2v_jax.training.state import first_state


def begun(checkpoint, **run):
    config = small.finetuning()
    config.seed = 1  # not that of the exported one
    config.run.update(init_from=checkpoint, **run)
    task = make_task(config)
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    return nn.meta.unbox(jax.device_get(task.begin(first_state(task, mesh)).params))


def test_with_init_head_all_arrays_are_the_models(checkpoint):
    theirs = checkpoints.load(checkpoint)[0]["params"]
    ours = begun(checkpoint, init_head=True)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    anew = begun(checkpoint)
    jax.tree.map(np.testing.assert_array_equal, anew["encoder"], theirs["encoder"])
    heads = [{k: v for k, v in x.items() if k != "encoder"} for x in (anew, theirs)]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), *heads)
    assert not all(jax.tree.leaves(same))


def test_what_does_not_go_together_is_named(checkpoint):
    config = small.finetuning()
    config.run.update(init_from=checkpoint, init_head=True)
    config.letters = "abc"
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    task = make_task(config)
    with pytest.raises(UserError, match=r"writes another alphabet, ETAONI.*set --config.letters="):
        task.begin(first_state(task, mesh))
    config.reinit_layers = 1
    with pytest.raises(UserError, match=r"--config.reinit_layers=1 and --config.run.init_head"):
        make_task(config)
    config.reinit_layers, config.run.init_from = 0, ""
    with pytest.raises(UserError, match=r"init_head=True needs a model: set --config.run.init_"):
        make_task(config)
