"""`jupyter gpu-reclaim …`: each subcommand parses its words, makes one call and returns an exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

from jupyter_gpu_reclaim import __version__
from jupyter_gpu_reclaim.plan import words as plan_words


def show(line: str) -> None:
    """One line for the person, at once: steps take seconds and should be seen as they happen."""
    print(line, flush=True)


def demo(arguments: argparse.Namespace) -> int:
    """Two notebooks, one simulated GPU; 0 only if every promise held."""
    from jupyter_gpu_reclaim.demo import play
    from jupyter_gpu_reclaim.demo.jupyter_session import CellFailed, ServerFailed
    from jupyter_gpu_reclaim.sim.build import CannotBuild

    try:
        figures = play.run(show, arguments.json, arguments.folder)
    except (play.PromiseBroken, ServerFailed, CellFailed, CannotBuild, FileExistsError) as problem:
        print(f"\nThe demo did not hold: {problem}", file=sys.stderr)
        return 1
    show(
        "\nLosses, parameters, gradients, buffers and optimizer state equal the uninterrupted run, bit for bit."
    )
    show(f"Simulated GPU; everything else was real. {figures['took_seconds']} s in all.")
    return 0


def lab(arguments: argparse.Namespace) -> int:
    """JupyterLab on the simulated GPU, until it is closed; its exit code."""
    from jupyter_gpu_reclaim.demo import lab as demo_lab

    return demo_lab.run(show, arguments.folder, arguments.rest)


def bench(arguments: argparse.Namespace) -> int:
    """Measures, prints a table, and says for each figure whether its target holds; 0 if all were measured."""
    from jupyter_gpu_reclaim import bench as benches

    return benches.run(show, arguments.only, arguments.json, arguments.markdown, arguments.device)


def doctor(arguments: argparse.Namespace) -> int:
    """Looks at this machine and changes nothing; or moves bytes off its GPU and back, 0 only if every bit came back."""
    from jupyter_gpu_reclaim.doctor import examine, exercise

    if not arguments.exercise:
        return examine.run(show, arguments.json)
    if arguments.json == Path("-"):
        print("--exercise writes its figures to a file: --json FILE", file=sys.stderr)
        return exercise.IMPOSSIBLE
    return exercise.run(show, arguments.python, arguments.simulated, arguments.json)


def preload(arguments: argparse.Namespace) -> int:
    """Builds what lets allocations on CUDA wait for room, and shows how a kernelspec takes it up."""
    from jupyter_gpu_reclaim.gpu import cuda_malloc

    try:
        environment = cuda_malloc.build(arguments.folder)
    except cuda_malloc.CannotBuild as problem:
        print(f"Nothing was built: {problem}", file=sys.stderr)
        return 1
    show(json.dumps({"env": environment}, indent=2))
    return 0


def log(arguments: argparse.Namespace) -> int:
    """Shows the log of reclaims and restores."""
    import asyncio

    from jupyter_gpu_reclaim.ports import LogUnavailable
    from jupyter_gpu_reclaim.report import listing, words

    try:
        db_url, filters, queue = words.db_url(arguments), words.filters(arguments), words.queue(arguments)
        asyncio.run(
            listing.show_log(
                show, db_url, arguments.format, arguments.limit, arguments.follow, filters, queue
            )
        )
    except (words.NoLog, LogUnavailable, words.Misread) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass  # how following ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has what it wants
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Shows what a time brought, each figure with what it rests on."""
    import asyncio

    from jupyter_gpu_reclaim.ports import LogUnavailable
    from jupyter_gpu_reclaim.report import command, words
    from jupyter_gpu_reclaim.report.carbon import NoIntensity

    try:
        text = asyncio.run(command.report(arguments))
    except (words.Misread, words.NoLog, LogUnavailable, NoIntensity) as problem:
        print(problem, file=sys.stderr)
        return 1
    show(text)
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Says how many GPUs a team needs, by replaying its cells through the product's own decisions."""
    from jupyter_gpu_reclaim.plan import command, trace, words

    try:
        command.run(show, arguments)
    except (words.Misread, trace.BadTrace, OSError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line, one subparser a command."""
    top = argparse.ArgumentParser(prog="jupyter gpu-reclaim", description=__doc__.split(":")[0])
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "demo", help="play the whole way on the simulated GPU and check it bit for bit"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    command.add_argument(
        "--folder",
        type=Path,
        help="a new folder that keeps what the demo leaves, its log among it (default: none)",
    )
    command.set_defaults(call=demo)

    command = commands.add_parser(
        "lab", help="open JupyterLab on the simulated GPU with the demo's notebooks"
    )
    command.add_argument(
        "--folder",
        type=Path,
        default=Path("gpu-reclaim-lab"),
        help="where the notebooks go (default: %(default)s)",
    )
    command.add_argument("rest", nargs="*", metavar="-- OPTIONS", help="passed on to `jupyter lab`")
    command.set_defaults(call=lab)

    command = commands.add_parser("log", help="show what was reclaimed and restored, when and why")
    command.add_argument(
        "--format", choices=("table", "csv", "jsonl"), default="table", help="default: %(default)s"
    )
    command.add_argument("--db-url", help="where the log is (default: as Jupyter is configured)")
    command.add_argument(
        "--since", metavar="WHEN", help="7d (m, h, d, w) ago, or an instant such as 2026-03-01T09:00"
    )
    command.add_argument("--until", metavar="WHEN")
    for option in ("--user", "--notebook", "--kernel", "--gpu", "--mechanism", "--reason", "--outcome"):
        command.add_argument(option)
    command.add_argument("--event", action="append", help="may be given several times")
    command.add_argument(
        "--limit", type=int, metavar="N", help="only the newest N (default: 50 in a table, else all)"
    )
    command.add_argument("--follow", action="store_true", help="go on with new rows as they come")
    command.set_defaults(call=log)

    command = commands.add_parser("report", help="show what was won back, and what that rests on")
    command.add_argument(
        "--format", choices=("table", "json", "html"), default="table", help="default: %(default)s"
    )
    command.add_argument("--db-url", help="where the log is (default: as Jupyter is configured)")
    command.add_argument(
        "--since", metavar="WHEN", default="7d", help="default: %(default)s; see log --since"
    )
    command.add_argument("--until", metavar="WHEN")
    command.add_argument("--price-per-gpu-hour", type=float, metavar="PRICE")
    command.add_argument("--currency")
    command.add_argument("--country", help="three letters, such as FRA; needs the extra `carbon`")
    command.add_argument("--grid-grams-per-kwh", type=float, metavar="GRAMS")
    command.add_argument("--pue", type=float)
    command.add_argument("--context-watts", type=float, metavar="WATTS")
    command.set_defaults(call=report)

    command = commands.add_parser("plan", help="replay a team's cells: how many GPUs do they need")
    plan_words.add_to(command)
    command.set_defaults(call=plan)

    command = commands.add_parser("bench", help="measure what we cost, beside what we promise")
    command.add_argument(
        "--only", type=lambda text: text.split(","), default=None, metavar="GROUP,…", help="only these groups"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    command.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write them to FILE, as the documentation's table"
    )
    command.add_argument(
        "--device",
        default="simgpu",
        help="the torch device that the engine is measured on: simgpu (default) or cuda",
    )
    command.set_defaults(call=bench)

    command = commands.add_parser("doctor", help="say what keeps it from working here, and what to do")
    command.add_argument(
        "--exercise",
        action="store_true",
        help="fill the GPU (64 MiB up to 80 %% of what is free), move it to the host and back, compare every bit",
    )
    command.add_argument(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="the Python of your notebooks, whose torch is used (default: this one)",
    )
    command.add_argument("--simulated", action="store_true", help="on the simulated GPU, to see what it does")
    command.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=Path("-"),
        metavar="FILE",
        help="the findings as JSON, shown or in FILE; with --exercise every figure, in FILE",
    )
    command.set_defaults(call=doctor)

    command = commands.add_parser(
        "preload", help="build what lets cells on CUDA wait for room; prints the env for their kernel.json"
    )
    command.add_argument(
        "--folder",
        type=Path,
        default=Path(jupyter_data_dir()) / "gpu_reclaim",
        help="where the library goes; kernels must be able to read it (default: %(default)s)",
    )
    command.set_defaults(call=preload)
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = parser().parse_args(words)
    return arguments.call(arguments)


if __name__ == "__main__":
    sys.exit(main())
