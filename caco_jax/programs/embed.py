"""Writes features of images to a file: caco embed --workdir=... --out=...

It embeds all splits of the run's data set or of --source; labels are not needed. A .npz
file has the arrays features [N, F], names, labels (-1 without one), splits and
class_names; .parquet has the same as a table. Images that cannot be read are skipped
and listed beside the file. Finished parts are kept in FILE.parts until the end: rerun
the same command to resume.
"""

from caco_jax.programs.command import aside, print_json
from caco_jax.programs.evaluating import data_changes, load, named_images
from caco_jax.programs.flags import parser_of
from caco_jax.runs.embedding import embed_dataset
from caco_jax.runs.embedding_files import check_out
from caco_jax.runs.preemption import Stop


def main(stop: Stop | None = None) -> None:
    """Parses flags and runs.

    Args:
        stop: hears signals; None: nobody does.
    """
    flags = parser_of("embed").parse_args()
    check_out(flags.out, force=flags.force)
    run = load(flags)
    # Always streamed: images in memory have no names.
    data = named_images(run, **data_changes(flags), max_resident_bytes=0)
    found = embed_dataset(
        run, data, flags.out, kind=flags.features, force=flags.force, stop=stop
    )
    with aside(flags):
        print(
            f"{flags.out}: {found.rows:,} images of {data.name}, {found.features:,} "
            f"numbers each ({flags.features})"
        )
        if found.bad:
            print(f"{found.bad:,} cannot be read, listed in {found.bad_file}")
    result = {
        "file": flags.out,
        "source": data.name,
        "images": found.rows,
        "features": found.features,
        "kind": flags.features,
        "bad_images": found.bad,
    }
    print_json(flags, result)
