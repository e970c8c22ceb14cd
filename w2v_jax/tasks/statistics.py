"""What a front end normalises by, from a file into the config of a training."""

from w2v_jax.audio import mel_statistics
from w2v_jax.errors import UserError
from w2v_jax.models.config import EncoderConfig


def with_statistics(config):
    """The config with the mean and std of the file that model.frontend.statistics names, instead of
    its name: what they are belongs to the model, where they were does not. Raises UserError for a
    file of another front end."""
    frontend = EncoderConfig.from_dict(config.model).frontend
    if frontend.kind != "logmel":
        return config
    path = frontend.statistics
    if not path:
        frontend.check_statistics()
        return config
    if frontend.normalization != "global":
        raise UserError(
            f"--config.model.frontend.statistics={path} is of normalization=global alone; set "
            "--config.model.frontend.normalization=global, or leave it empty"
        )
    found = mel_statistics.read(path, frontend.definition)
    config = config.copy_and_resolve_references()
    config.model.frontend.update(mean=found.mean, std=found.std, statistics="")
    return config
