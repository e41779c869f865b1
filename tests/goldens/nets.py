"""ResNets with CaCo's projector (goldens README, section 15)."""

import ast
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.interop.torch_weights import from_torch, to_torch
from caco_jax.nets import BACKBONES, Encoder, caco_projector


def make_state_dict(case) -> dict[str, np.ndarray]:
    """The parameters that the case's seed stands for."""
    state = {}
    names = case["state_dict_names"].tolist()
    shapes = case["state_dict_shapes"].tolist()
    for name, shape in zip(names, map(ast.literal_eval, shapes), strict=True):
        rng = np.random.default_rng([int(case["seed"]), zlib.crc32(name.encode())])
        if name.endswith("num_batches_tracked"):
            state[name] = np.zeros(shape, np.int64)
        elif len(shape) >= 2:
            state[name] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("weight", "running_var")):
            state[name] = rng.uniform(0.5, 1.5, shape)
        else:
            state[name] = rng.standard_normal(shape) * 0.1
    return state


def _loss(projections):
    unit = projections / jnp.linalg.norm(projections, axis=1, keepdims=True)
    weights = jnp.arange(1, projections.shape[1] + 1, dtype=projections.dtype)
    return jnp.mean(jnp.square(unit) @ weights)


def resnet(case, dtype):
    encoder = Encoder(
        BACKBONES[str(case["arch"])](param_dtype=dtype),
        caco_projector(
            int(case["projector_hidden"]),
            int(case["projector_dim"]),
            param_dtype=dtype,
        ),
    )
    images = jnp.asarray(case["images"].transpose(0, 2, 3, 1), dtype)
    template = jax.eval_shape(
        functools.partial(encoder.init, train=False), jax.random.key(0), images
    )
    variables = jax.tree.map(jnp.asarray, from_torch(make_state_dict(case), template))

    @jax.jit
    def evaluate(variables):
        features = encoder.apply(variables, images, method="features")
        return features, encoder.apply(variables, images, train=False)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def train(params, stats):
        projections, new = encoder.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable="batch_stats",
        )
        return _loss(projections), (projections, new["batch_stats"])

    features, embeddings = evaluate(variables)
    (loss, (trained, stats)), gradients = train(
        variables["params"], variables["batch_stats"]
    )
    results = {
        "features_eval": features,
        "projection_eval": embeddings,
        "projection_train": trained,
        "train_loss": loss,
    }
    for name, array in to_torch({"params": gradients}).items():
        results[f"grad_norm/{name}"] = np.linalg.norm(array)
    for name, array in to_torch({"batch_stats": stats}).items():
        results[f"stats/{name}"] = array.reshape(-1)[:64]
    return results


CASES = {"resnet18": resnet, "resnet50": resnet}
