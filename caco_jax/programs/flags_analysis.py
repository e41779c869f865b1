"""Flags of the programs that analyse runs and theory; nothing here imports JAX."""

from caco_jax.programs.flag_groups import (
    add_json,
    add_local_workdir,
    add_seed,
    path_of,
)
from caco_jax.programs.parser import Parser


def alpha_gradients(parser: Parser) -> None:
    """Flags of the program `alpha_gradients`."""
    add_local_workdir(parser)
    add_json(parser)
    parser.add_argument(
        "--batch_size",
        type=int,
        default=100,
        help="Images in the batch (default: %(default)s).",
    )
    parser.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=[0.05, 0.1, 0.2, 0.5, 1.0],
        help="Temperatures of the pairwise importance α (default: %(default)s).",
    )
    parser.add_argument(
        "--x64", action="store_true", help="Compute in double precision."
    )
    parser.add_argument(
        "--player",
        choices=("bank", "none"),
        help="bank requires a run with a bank, none ignores the bank (default: use the "
        "bank if the run has one).",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=40,
        help="Steps of the game that the players play in turns (default: %(default)s).",
    )
    parser.add_argument(
        "--turns",
        type=int,
        nargs="+",
        default=[1, 5, 20],
        help="Numbers of gradient steps in one turn of a player (default: "
        "%(default)s).",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=0.02,
        help="Learning rate of the gradient steps (default: %(default)s).",
    )
    add_seed(parser, "the batch and the augmentation")


def bank_dynamics(parser: Parser) -> None:
    """Flags of the program `bank_dynamics`."""
    add_local_workdir(parser)
    add_json(parser)
    parser.add_argument(
        "--bandwidth",
        type=float,
        help="Bandwidth of the kernel density, in units of cosine similarity (default: "
        "the temperature of the bank).",
    )
    parser.add_argument(
        "--entries",
        type=int,
        default=4,
        help="Number of most used and of least used entries in the gallery (default: "
        "%(default)s).",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=10,
        help="Images in each row of the gallery (default: %(default)s).",
    )
    add_seed(parser, "the batches and the augmentation")


def deep_linear_pca(parser: Parser) -> None:
    """Flags of the program `deep_linear_pca`."""
    add_json(parser)
    parser.add_argument(
        "--out",
        type=path_of,
        default="runs/deep_linear_pca",
        help="Directory to write to (default: %(default)s).",
    )
    parser.add_argument(
        "--starts",
        type=int,
        default=128,
        help="Random initialisations of each network (default: %(default)s).",
    )
    parser.add_argument(
        "--depths",
        type=int,
        nargs="+",
        default=[1, 2, 3, 4, 5],
        help="Numbers of layers (default: %(default)s).",
    )
    parser.add_argument(
        "--widths",
        type=int,
        nargs="+",
        default=[4, 16],
        help="Units of the hidden layers (default: %(default)s).",
    )
    parser.add_argument(
        "--pairs",
        type=path_of,
        help="File .npz with your own views x1, x2 [N, d] and optional weights alpha "
        "[N, N], to test the theorem on (default: generated views).",
    )
    add_seed(parser, "the inputs and the initialisations")


def relu_fixed_points(parser: Parser) -> None:
    """Flags of the program `relu_fixed_points`."""
    add_json(parser)
    parser.add_argument(
        "--out",
        type=path_of,
        default="runs/relu_fixed_points",
        help="Directory to write to (default: %(default)s).",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=64,
        help="Number of networks that are trained together (default: %(default)s).",
    )
    parser.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        default=[5, 10, 20, 40],
        help="Numbers of hidden units (default: %(default)s).",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=5000,
        help="Training steps (default: %(default)s).",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=128,
        help="Samples in one step (default: %(default)s).",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.1,
        help="Temperature of InfoNCE (default: %(default)s).",
    )
    parser.add_argument(
        "--ascent_steps",
        type=int,
        default=2**15,
        help="Largest number of gradient ascent steps to a fixed point (default: "
        "%(default)s).",
    )
    add_seed(parser)
