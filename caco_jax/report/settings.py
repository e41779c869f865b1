"""Compares the configurations of runs with the defaults of their methods."""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any

from caco_jax.config.sections import (
    ExperimentConfig,
    default_config,
    method_entry,
)
from caco_jax.methods.registry import METHODS
from caco_jax.optim.settings import OptimizerConfig, optimizer_key
from caco_jax.runs.pretraining import BUILT_OF, OBJECTS, Pretraining
from caco_jax.schema import flatten


def setting_rows(configs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the settings table: every key of the runs' configurations.

    Args:
        configs: nested mappings as runs save them, by the run's name.

    Returns:
        A row a key: "key", "doc", "default" and "values", a text for each run, with
        None where it has no such key; "changed": which of them are not the default;
        "differs": whether runs disagree.
    """
    flat = [flatten(dict(config)) for config in configs.values()]
    known = [_known(config) for config in configs.values()]
    defaults = [flatten(json.loads(json.dumps(usual))) for usual, _ in known]
    docs = {key: doc for _, explained in known for key, doc in explained.items()}
    return [
        _row(key, docs.get(key, ""), flat, defaults)
        for key in dict.fromkeys(key for values in flat for key in values)
    ]


def _known(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The default settings of a run, nested, and their descriptions by dotted key.

    Of a run that was built of objects only some are known.
    """
    name = config["method"]["name"]
    if config.get(BUILT_OF) != OBJECTS:
        return default_config(name).to_dict(), setting_docs(name)
    ours = name in METHODS and METHODS[name][0].__name__ == config["method"].get(
        "class"
    )
    full = default_config(name if ours else next(iter(METHODS))).to_dict()
    usual = {key: full[key] for key in ("target", "training", "evaluation", "seed")}
    arguments = inspect.signature(Pretraining).parameters
    for name in usual["training"].keys() & arguments.keys():
        usual["training"][name] = arguments[name].default
    if ours:
        usual["method"] = full["method"]
        usual["optimizers"] = {
            player: full[optimizer_key(player)]
            for player, section in config["optimizers"].items()
            if isinstance(section, dict) and optimizer_key(player) in full
        }
    docs = setting_docs(full["method"]["name"])
    explained = {key: docs.get(key, "") for key in flatten(usual)}
    for player in usual.get("optimizers", {}):
        for field in dataclasses.fields(OptimizerConfig):
            explained[f"optimizers.{player}.{field.name}"] = field.metadata["doc"]
    return usual, explained


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
    """The description of each dotted key of a method's configuration."""
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
