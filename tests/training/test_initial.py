"""Starting from the arrays of another model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.training.test_checkpoint import mesh_of
from w2v_jax.errors import UserError
from w2v_jax.training.initial import take_over


def test_what_does_not_fit_is_refused_unless_partial(caplog):
    sharding = NamedSharding(mesh_of(8), PartitionSpec("fsdp"))
    shapes = {"same": (8,), "other": (8, 2), "new": (8,)}
    current = {k: jax.device_put(np.zeros(s, np.float32), sharding) for k, s in shapes.items()}
    current = {"encoder": current, "scale": jnp.float32(0)}
    given = {"same": np.ones(8), "other": np.ones((8, 3)), "old": np.ones(4)}
    given = {"encoder": given, "scale": np.float32(1)}
    with pytest.raises(UserError) as error:
        take_over(current, given, "some/model")
    for words in (
        "the model has, some/model lacks 1 arrays:\n  encoder/new",
        "some/model has, the model lacks 1 arrays:\n  encoder/old",
        "encoder/other (8, 3) there, (8, 2) here", "--config.run.partial_init=True",
    ):  # fmt: skip
        assert words in str(error.value)
    taken = take_over(current, given, "some/model", partial=True)
    assert "encoder/new" in caplog.text
    assert "encoder/old" in caplog.text
    assert jax.tree.map(lambda x: float(x.sum()), taken) == {
        "encoder": {"same": 8.0, "other": 0.0, "new": 0.0}, "scale": 1.0,
    }  # fmt: skip
    assert taken["encoder"]["same"].sharding == sharding
    assert taken["encoder"]["same"].dtype == np.float32

    many = {f"layer{i:02}": jnp.zeros(1) for i in range(30)}
    with pytest.raises(UserError, match=r"layer09\n  and 20 more"):
        take_over({"same": jnp.zeros(1), **many}, {"same": jnp.ones(1)}, "x")
    with pytest.raises(UserError, match="no array"):
        take_over({"a": jnp.zeros(1)}, {"b": jnp.zeros(1)}, "x", partial=True)
