"""The report of `caco compile`: memory, time and traffic as JSON and as text."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from caco_jax.config.build import build_run
from caco_jax.config.sections import ExperimentConfig
from caco_jax.pod import collectives, hlo, work
from caco_jax.pod.collectives import Collective
from caco_jax.pod.compile import Compiled, compile_step, stand_in
from caco_jax.pod.floor import floor_of
from caco_jax.pod.parts import PARTS
from caco_jax.pod.roofline import ASSUMPTIONS, predict
from caco_jax.pod.topology import Slice
from caco_jax.pod.work import Work
from caco_jax.training.sharding import make_mesh

Report = dict[str, Any]
GIB, GIGA, MILLI = 2**30, 1e9, 1e-3


def make_report(
    config: ExperimentConfig, where: Slice, *, quick: bool = False
) -> Report:
    """Compiles a train step for a slice and reads what it needs there.

    Args:
        config: the run's configuration.
        where: the slice.
        quick: compile a few times faster, with less optimisation.

    Returns:
        Plain values. Bytes and operations are those of one chip in one step; "work"
        and "sent_bytes" are by part of the step.

    Raises:
        ConfigError: the configuration does not fit the slice, or itself.
    """
    report = describe(compile_step(config, where, quick=quick), config, where, quick)
    # The least is the network's own, however it is computed.
    encoder = dataclasses.replace(config.encoder, fold_batchnorm=False, remat=False)
    plain = dataclasses.replace(config, encoder=encoder)
    mesh = make_mesh(where.devices)
    least = floor_of(build_run(plain, mesh=mesh, data=stand_in(config.data)))
    return report | {"floor_bytes": dataclasses.asdict(least) | {"total": least.total}}


def describe(
    compiled: Compiled, config: ExperimentConfig, where: Slice, quick: bool = False
) -> Report:
    """The report of a compiled step, see `make_report`."""
    chip = where.chip._asdict()
    report: Report = {
        "topology": where.name,
        "chips": len(where.devices),
        "chip": {key: chip[key] for key in chip if key not in ("options", "shapes")},
        "compiler": where.devices[0].client.platform_version,
        "jax": jax.__version__,
        "method": config.method_name,
        "batch_size": config.training.batch_size,
        "memory_rows": memory_rows(config),
        "embedding_dim": config.embedding_dim,
        "dtype": config.encoder.dtype,
        "fits": compiled.text is not None
        and compiled.memory["total"] <= where.chip.hbm_bytes,
        "memory_bytes": dict(compiled.memory),
        "quick": quick,
        "compile_seconds": compiled.seconds,
    }
    if compiled.text is None:
        return report
    return report | read_program(compiled, where, config.training.batch_size)


def read_program(compiled: Compiled, where: Slice, batch_size: int) -> Report:
    """The work, the traffic and the predicted time of a compiled step."""
    assert compiled.text is not None
    program = hlo.parse(compiled.text)
    exchanged = collectives.find(program)
    done = work.count(program)
    total = sum(done.values(), start=Work())
    terms = predict(total, exchanged, where.chip, where.shape)
    return {
        "work": {
            name: dataclasses.asdict(value)
            for name, value in {**done, "total": total}.items()
        },
        "xla_cost": {name: compiled.cost[name] for name in ("flops", "bytes accessed")},
        "loops_of_unknown_length": collectives.unknown_loops(program),
        "sent_bytes": dict(collectives.sent_by_part(exchanged)),
        "messages": len({one.instruction for one in exchanged}),
        "collectives": _rows(exchanged),
        "seconds": {**terms._asdict(), "step": terms.step},
        "limited_by": terms.limit,
        "images_per_second": batch_size / terms.step,
        "assumptions": list(ASSUMPTIONS),
    }


def _rows(exchanged: Iterable[Collective]) -> list[dict[str, Any]]:
    """Collectives alike as one row, the largest traffic first."""
    rows: dict[tuple, dict[str, Any]] = {}
    for one in exchanged:
        like = (one.part, one.kind, one.dtype, one.dims, one.group)
        row = rows.setdefault(
            like,
            {
                "part": one.part,
                "kind": one.kind,
                "dtype": one.dtype,
                "shape": list(one.dims),
                "devices": one.group,
                "count": 0,
                "payload_bytes": 0,
                "sent_bytes": 0.0,
                "op_name": one.op_name,
            },
        )
        row["count"] += one.times
        row["payload_bytes"] += one.payload_bytes
        row["sent_bytes"] += one.sent_bytes
    return sorted(rows.values(), key=lambda row: -row["sent_bytes"])


def as_text(report: Mapping[str, Any]) -> str:
    """A report for people to read."""
    rows = report["memory_rows"]
    lines = [
        f"{report['method']} on {report['topology']}, {report['chips']} chips: batch "
        f"{report['batch_size']:,}, "
        + (f"memory {rows:,} x {report['embedding_dim']}, " if rows else "")
        + report["dtype"]
        + (", compiled quickly" if report["quick"] else ""),
        _memory_line(report),
    ]
    if "work" not in report:
        return "\n".join(lines)
    lines += ["", *_parts_table(report), "", _time_line(report)]
    if "floor_bytes" in report:
        lines.append(_floor_line(report))
    lines += ["assumed: " + report["assumptions"][0]]
    lines += [f"         {assumption}" for assumption in report["assumptions"][1:]]
    return "\n".join(lines)


def _memory_line(report: Mapping[str, Any]) -> str:
    memory = {use: size / GIB for use, size in report["memory_bytes"].items()}
    total = memory.pop("total")
    hbm = f"{report['chip']['hbm_bytes'] / GIB:.0f} GiB a chip"
    if not memory:
        needs = f": it needs {total:.2f} or more" if total else ""
        return f"does not fit in {hbm}{needs}"
    uses = ", ".join(f"{use} {size:.2f}" for use, size in memory.items())
    verdict = "fits" if report["fits"] else "does not fit"
    return f"{verdict}: {total:.2f} of {hbm} ({uses})"


def _parts_table(report: Mapping[str, Any]) -> list[str]:
    """One line for each part of a step: what a chip does for it."""
    head = ("a chip, a step", "TFLOP", "in passes", "HBM GB", "sent MB")
    table: list[tuple[str, ...]] = [head]
    for part in (*PARTS, "total"):
        done = report["work"][part]
        sent = report["sent_bytes"]
        bytes_sent = sum(sent.values()) if part == "total" else sent[part]
        figures = (done["flops"] / 1e12, done["pass_flops"] / 1e12)
        moved = (done["hbm_bytes"] / 1e9, bytes_sent / 1e6)
        cells = [f"{figure:.3f}" for figure in figures]
        table.append((part, *cells, *(f"{figure:.2f}" for figure in moved)))
    return _aligned(table)


def _time_line(report: Mapping[str, Any]) -> str:
    terms = {name: value / MILLI for name, value in report["seconds"].items()}
    return (
        f"a step takes {terms['step']:.1f} ms or more: the longer of arithmetic "
        f"{terms['arithmetic']:.1f} and HBM {terms['hbm']:.1f}, then interconnect "
        f"{terms['interconnect']:.1f} and latency {terms['latency']:.1f} "
        f"({report['messages']} messages); {report['limited_by']} limits it to "
        f"{report['images_per_second']:,.0f} images/s"
    )


def _floor_line(report: Mapping[str, Any]) -> str:
    """How much more a step moves than it has to."""
    least = {name: size / GIGA for name, size in report["floor_bytes"].items()}
    total = least.pop("total")
    uses = ", ".join(f"{name} {size:.2f}" for name, size in least.items())
    return (
        f"its {_moved(report) / GIGA:.2f} GB of HBM are {_ratio(report):.2f} times the "
        f"least of {total:.2f} ({uses})"
    )


def _moved(report: Mapping[str, Any]) -> float:
    return report["work"]["total"]["hbm_bytes"]


def _ratio(report: Mapping[str, Any]) -> float:
    """HBM traffic in multiples of the least."""
    return _moved(report) / report["floor_bytes"]["total"]


def curve_text(reports: Sequence[Mapping[str, Any]]) -> str:
    """Reports of one recipe on several slices, a line each, times in milliseconds."""
    head = ("slice", "chips", "batch", "GiB/chip", "arithmetic", "HBM")
    table: list[tuple[str, ...]] = [
        (
            *head,
            "x least",
            "network",
            "latency",
            "step ms",
            "images/s",
            "speed-up a chip",
        )
    ]
    first: float | None = None
    for report in reports:
        least = "" if "seconds" in report else ">= "
        memory = f"{least}{report['memory_bytes']['total'] / GIB:.2f}"
        place = (report["topology"], f"{report['chips']}", f"{report['batch_size']:,}")
        if "seconds" not in report:
            table.append((*place, memory, "does not fit", *[""] * 7))
            continue
        per_chip = report["images_per_second"] / report["chips"]
        first = per_chip if first is None else first
        names = ("arithmetic", "hbm", "interconnect", "latency", "step")
        cells = [f"{report['seconds'][name] / MILLI:.1f}" for name in names]
        cells.insert(2, f"{_ratio(report):.2f}")
        rate = f"{report['images_per_second']:,.0f}"
        table.append((*place, memory, *cells, rate, f"{per_chip / first:.2f}"))
    return "\n".join(_aligned(table))


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the rest to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *cells in table:
        right = (f"{c:>{w}}" for c, w in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([f"{name:<{widths[0]}}", *right]).rstrip())
    return lines


def memory_rows(config: ExperimentConfig) -> int | None:
    """How many rows the method's bank or queue has; None without one."""
    method = config.method(config.embedding_dim)
    if method.memory is None:
        return None
    return getattr(config.method.settings, method.row_sharded[method.memory])
