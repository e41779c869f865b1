"""A run's configuration beside the defaults of its method."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from caco_jax.config.sections import (
    ExperimentConfig,
    default_config,
    method_entry,
)
from caco_jax.optim.settings import OptimizerConfig
from caco_jax.schema import flatten


def setting_rows(configs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every key of some runs' configurations, in the order of the first.

    Args:
        configs: nested mappings as runs save them, by the run's name.

    Returns:
        A row a key: "key", "doc", "default" and "values", a text for each run, with
        None where it has no such key; "changed": which of them are not the default;
        "differs": whether runs disagree.
    """
    flat = [flatten(dict(config)) for config in configs.values()]
    names = [config["method"]["name"] for config in configs.values()]
    defaults = [
        flatten(json.loads(json.dumps(default_config(name).to_dict())))
        for name in names
    ]
    docs = {key: doc for name in names for key, doc in setting_docs(name).items()}
    return [
        _row(key, docs.get(key, ""), flat, defaults)
        for key in dict.fromkeys(key for values in flat for key in values)
    ]


def _row(
    key: str, doc: str, flat: list[dict[str, Any]], defaults: list[dict[str, Any]]
) -> dict[str, Any]:
    usual = [_text(run[key]) if key in run else None for run in defaults]
    # A key that came after a run was saved has its default there.
    values = [
        _text(run[key]) if key in run else default
        for run, default in zip(flat, usual, strict=True)
    ]
    return {
        "key": key,
        "doc": doc,
        "default": usual[0],
        "values": values,
        "changed": [
            None not in (value, default) and value != default
            for value, default in zip(values, usual, strict=True)
        ],
        "differs": len(set(values)) > 1,
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def setting_docs(method: str) -> dict[str, str]:
    """What each dotted key of a method's configuration means, in one line."""
    settings_class, _ = method_entry(method)
    sections = {
        "method": settings_class,
        **{
            key: OptimizerConfig
            for key in default_config(method)
            if key.endswith("optimizer")
        },
        **{
            field.name: type(field.default)
            for field in dataclasses.fields(ExperimentConfig)
            if dataclasses.is_dataclass(field.default)
        },
    }
    docs = {
        f"{name}.{field.name}": field.metadata["doc"]
        for name, section in sections.items()
        for field in dataclasses.fields(section)
    }
    own = {
        field.name: field.metadata["doc"]
        for field in dataclasses.fields(ExperimentConfig)
        if "doc" in field.metadata
    }
    return {**docs, **own, "method.name": "the method"}
