"""Configs as frozen dataclasses that nest: from dicts and back, with errors that name the key."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import jax.numpy as jnp

from w2v_jax.errors import UserError, some
from w2v_jax.keys.check import complaint, shown


class ConfigError(UserError, ValueError):
    """A value of the configuration that cannot be used; the message names the key. Who reads a
    model from a file catches it as a ValueError and names the file."""


def free(default: Any) -> Any:
    """A field that decides neither the shape nor the meaning of a parameter: a model may be loaded
    under another value."""
    return dataclasses.field(default=default, metadata={"free": True})


def nested(union: Mapping[str, type], default: type) -> Any:
    """A field that holds one of the settings of `union`, {kind: class}."""
    return dataclasses.field(default_factory=default, metadata={"union": union})


class Settings:
    """What the frozen dataclasses of a config have in common: fields, whose ranges and meanings
    stand in keys/table.py.

    `kind` names the members of a union; it is a key of their dicts. `path` is where an instance
    stands in a config, for messages.
    """

    kind: ClassVar[str] = ""
    path: ClassVar[str] = "model"

    def __post_init__(self):
        if wrong := complaint(self, self.path):
            raise ConfigError(wrong)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], path: str = "") -> Self:
        """Raises ConfigError for unknown keys, naming those there are."""
        path = path or cls.path
        fields = {f.name: f for f in dataclasses.fields(cls) if not f.metadata.get("apart")}
        values = {k: v for k, v in dict(values).items() if k != "kind" or not cls.kind}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            keys = some(sorted(fields)) or "none"
            of = f" of the kind {cls.kind}" if cls.kind else ""
            raise ConfigError(
                f"there is no key {some(f'{path}.{key}' for key in unknown)}; the keys of "
                f"{path}{of}: {keys}"
                + "; kinds are chosen in the argument of a config, base,block=conformer say, not "
                "by a flag" * bool(cls.kind)
            )
        for key in values:
            union = fields[key].metadata.get("union")
            if union is not None:
                values[key] = member(union, values[key], f"{path}.{key}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        found = {"kind": self.kind} if self.kind else {}
        for field in dataclasses.fields(self):
            if not field.metadata.get("apart"):
                value = getattr(self, field.name)
                found[field.name] = value.to_dict() if isinstance(value, Settings) else value
        return found

    def architecture(self) -> dict[str, Any]:
        """The dotted keys that decide shapes and meaning of the parameters."""
        return dict(self._decisive(""))

    def changes(self, old: "Settings") -> dict[str, tuple[Any, Any]]:
        """{key in a config: (value of `old`, own value)} of what another model has otherwise; None
        for a key that one of them lacks."""
        there, here = old.architecture(), self.architecture()
        return {
            f"{self.path}.{key}": (there.get(key), here.get(key))
            for key in dict.fromkeys((*here, *there))
            if there.get(key) != here.get(key)
        }

    def _decisive(self, prefix: str) -> Iterator[tuple[str, Any]]:
        if self.kind:
            yield f"{prefix}kind", self.kind
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Settings) and not field.metadata.get("apart"):
                yield from value._decisive(f"{prefix}{field.name}.")
            elif not (field.metadata.get("free") or field.metadata.get("apart")):
                yield f"{prefix}{field.name}", value


def nearest_multiples(key: str, value: int, divisor: int) -> str:
    """The remedy where `divisor` does not divide the value of a key."""
    low = value // divisor * divisor
    return f"set --config.{key}={f'{low} or ' if low else ''}{low + divisor}, or another divisor"


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from dotted keys."""
    found: dict[str, Any] = {}
    for key, value in dotted.items():
        *parents, leaf = key.split(".")
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return found


def value_of(settings: Settings, key: str) -> Any:
    """The value of a dotted key; None where the settings have none of that name."""
    for part in key.split("."):
        settings = getattr(settings, part, None)
    return settings


def member(union: Mapping[str, type], value: Any, path: str) -> Settings:
    """The settings of a union from a dict with their kind, or from the kind alone."""
    if isinstance(value, Settings):
        return value
    if not isinstance(value, str) and not hasattr(value, "keys"):
        raise ConfigError(f"{path} is {shown(value)}; it must name a kind of {', '.join(union)}")
    values = {"kind": value} if isinstance(value, str) else dict(value)
    kind = values.get("kind", "")
    if kind not in union:
        raise ConfigError(f"{path}.kind is {shown(kind)}; it must be one of {', '.join(union)}")
    return union[kind].from_dict(values, path)


@dataclasses.dataclass(frozen=True)
class Execution(Settings):
    """How a model is computed; changes no number beyond rounding. config.execution"""

    path: ClassVar[str] = "execution"

    dtype: str = "float32"
    remat: str = "none"
    remat_features: bool = False
    # forms, see models/kernels
    layers: str = "auto"
    attention: str = "auto"
    positional_conv: str = "auto"
    depthwise_conv: str = "auto"
    first_conv: str = "auto"
    rows: str = "auto"
    ctc: str = "auto"

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)


@dataclasses.dataclass(frozen=True)
class ModelSettings(Settings):
    """Those of a whole model, with how it is computed apart from what it is."""

    execution: Execution = dataclasses.field(
        default=Execution(), kw_only=True, metadata={"apart": True}
    )

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], execution: Mapping[str, Any] | None = None
    ) -> Self:
        """Of config.model and config.execution. Raises ConfigError for unknown keys."""
        found = super().from_dict(values)
        return dataclasses.replace(found, execution=Execution.from_dict(execution or {}))

    @property
    def compute_dtype(self) -> jnp.dtype:
        return self.execution.compute_dtype
