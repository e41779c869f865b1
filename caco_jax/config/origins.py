"""Sources of the settings of a recipe: a paper, released code, or our own choice.

``SOURCES`` in a recipe file maps each source to the keys that it states. A key may end
in ``*``. ``VARIANT/KEY`` is a key as that variant sets it.
"""

import fnmatch
import pathlib
import runpy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from caco_jax.config.parts import build_views
from caco_jax.config.recipe import load_recipe, recipes
from caco_jax.config.sections import default_config, experiment_config
from caco_jax.methods.adversarial import grey_levels
from caco_jax.schema import ConfigError, flatten

Sources = Mapping[str, Sequence[str]]
_EPSILON = "adversarial.epsilon"


class Origin(NamedTuple):
    """A setting that is not the library's default.

    Attributes:
        key: dotted.
        value: of the recipe.
        default: of the library; None where it has no such key.
        source: a paper, a file of released code, or "ours".
    """

    key: str
    value: Any
    default: Any
    source: str


def origins(recipe: str) -> list[Origin]:
    """Every setting of a recipe that is not the library's default, with its source.

    Args:
        recipe: a name or a file, with or without variants, see `load_recipe`; changes
            of the variant ``smoke`` are left out.

    Raises:
        ConfigError: there is no such recipe, its file has no ``SOURCES``, or a setting
            has no source, or two.
    """
    recipe = recipe.removesuffix(":smoke")
    config = load_recipe(recipe)
    values = flatten(config.to_dict())
    defaults = flatten(default_config(config.method.name).to_dict())
    name, _, variants = recipe.partition(":")
    file = runpy.run_path(str(recipes().get(name, pathlib.Path(name))))
    if "SOURCES" not in file:
        raise ConfigError(f"{recipe}: expected SOURCES in its file, found none")
    table: Mapping[str, Mapping[str, Any]] = file.get("VARIANTS", {})
    setters = [variant for variant in variants.split(":") if variant in table]
    return [
        Origin(key, value, defaults.get(key), _source(recipe, key, owner, file))
        for key, value in values.items()
        if value != defaults.get(key)
        for owner in [next((v for v in setters[::-1] if key in table[v]), None)]
    ]


def strength(recipe: str) -> tuple[float, ...]:
    """CLAE's perturbation of each channel in grey levels of 255; () without CLAE.

    Raises:
        ConfigError: there is no such recipe.
    """
    config = experiment_config(load_recipe(recipe))
    if not config.adversarial.epsilon:
        return ()
    return grey_levels(config.adversarial.epsilon, build_views(config.data).std)


def _source(recipe: str, key: str, owner: str | None, file: dict[str, Any]) -> str:
    """The source of a key; values set by a variant may have another source."""
    patterns = list(_patterns(file["SOURCES"]))
    found = [s for v, p, s in patterns if v == owner and fnmatch.fnmatch(key, p)]
    if owner is not None and not found:
        found = [s for v, p, s in patterns if v is None and fnmatch.fnmatch(key, p)]
    if len(found) != 1:
        raise ConfigError(
            f"{recipe}: {key}: expected one source in SOURCES, got {len(found)}"
            + (f" ({'; '.join(found)})" if found else "")
        )
    return found[0]


def _patterns(sources: Sources) -> Iterator[tuple[str | None, str, str]]:
    """(variant or None, pattern, source) of each key."""
    for source, keys in sources.items():
        for key in keys:
            variant, slash, pattern = key.rpartition("/")
            yield (variant if slash else None), pattern, source
