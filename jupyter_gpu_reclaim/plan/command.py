"""`jupyter gpu-reclaim plan`: from its words to what is shown and written."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict

from jupyter_gpu_reclaim.core.model import Policy
from jupyter_gpu_reclaim.plan import log_export, philly, render, study, trace, words
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.generator import Habits, generate
from jupyter_gpu_reclaim.plan.sizing import Ask, Target
from jupyter_gpu_reclaim.plan.trace import SECOND, Trace

POINTS = 9
"""Numbers of GPUs in the chart."""


def run(show: study.Show, arguments: Namespace) -> None:
    """Show the plan and write the files asked for. Raises `words.Misread`, `trace.BadTrace`, `OSError`."""
    _check(arguments)
    machine = _machine(arguments)
    asked = _asks(arguments, machine)
    traces = _traces(arguments, machine)
    answers = []
    for name, ask in asked:
        answers.append(study.answer(name, ask, traces, arguments.gpus))
        for line in render.lines(answers[-1]):
            show(line)
    variations = []
    if arguments.sensitivity:
        show(f"{asked[0][0]}, one assumption changed:")
        seeds = range(1, arguments.seeds + 1)
        variations = study.sensitivity(asked[0][1], arguments.users, arguments.days, seeds, show)
    for caveat in render.CAVEATS:
        show(caveat)
    if arguments.json is None and arguments.html is None:
        return
    drawn = study.curves(traces[0], asked[0][1], _numbers(answers[0])) if arguments.html else []
    basis = _basis(arguments, machine)
    if arguments.json is not None:
        arguments.json.write_text(render.as_json(answers, variations, drawn, basis), encoding="utf-8")
    if arguments.html is not None:
        arguments.html.write_text(render.as_html(answers, variations, drawn, basis), encoding="utf-8")


def _check(arguments: Namespace) -> None:
    for name, least, most in (
        ("users", 1, 10**6),
        ("days", 1, 366),
        ("seeds", 1, 10),
        ("quantile", 0.0, 1.0),
    ):
        if not least <= getattr(arguments, name) <= most:
            raise words.Misread(f"--{name} is between {least} and {most}")
    if arguments.gpus is not None and arguments.gpus < 1:
        raise words.Misread("--gpus is 1 or more")
    if arguments.sensitivity and arguments.traces:
        raise words.Misread(
            "--sensitivity changes the habits of a made-up team, and a recorded one has its own"
        )


def _machine(arguments: Namespace) -> Machine:
    machine = Machine(
        gpu_bytes=words.size(arguments.gpu_memory),
        host_bytes=words.size(arguments.host_memory),
        context_bytes=words.size(arguments.context_memory),
        offload_speed=float(words.size(arguments.offload_speed)),
        onload_speed=float(words.size(arguments.onload_speed)),
    )
    if not (machine.gpu_bytes and machine.offload_speed and machine.onload_speed):
        raise words.Misread("--gpu-memory and both speeds must be more than 0")
    return machine


def _asks(arguments: Namespace, machine: Machine) -> list[tuple[str, Ask]]:
    ask = Ask(
        policy=Policy(),
        machine=machine,
        target=Target(quantile=arguments.quantile, seconds=words.span(arguments.wait).total_seconds()),
        cull_after=round(words.span(arguments.cull_after).total_seconds() * SECOND),
    )
    for name, value in words.settings(arguments.set):
        ask = words.with_setting(ask, name, value)
    set_so = ", ".join(arguments.set) or "default settings"
    if arguments.sweep is None:
        return [(set_so, ask)]
    ((name, values),) = words.settings([arguments.sweep])
    return [(f"{name}={value}", words.with_setting(ask, name, value)) for value in values.split(",")]


def _traces(arguments: Namespace, machine: Machine) -> list[Trace]:
    if not arguments.traces:
        seeds = range(1, arguments.seeds + 1)
        return [generate(arguments.users, arguments.days, machine.gpu_bytes, seed) for seed in seeds]
    read = {"cells": trace.read, "log": log_export.read, "philly": philly.read}[arguments.format_of_traces]
    traces = [read(path) for path in arguments.traces]
    for path, one in zip(arguments.traces, traces, strict=True):
        if not one.cells:
            raise trace.BadTrace(f"{path}: there is not one cell in it")
        _check_that_it_fits(str(path), one, machine)
    return traces


def _check_that_it_fits(name: str, one: Trace, machine: Machine) -> None:
    room = machine.gpu_bytes - machine.context_bytes
    for kernel in one.kernels:
        if max(kernel.held, default=0) > room:
            raise trace.BadTrace(
                f"{name}: kernel {kernel.kernel_id} holds more than a GPU has: see --gpu-memory"
            )


def _numbers(answer: study.Answer) -> Sequence[int]:
    """Numbers of GPUs for the chart: from the limit to well beyond what most rules need."""
    sizes = answer.found[0]
    known = [number for number in (sizes.product, *sizes.baselines) if number is not None]
    low, high = max(1, min(known, default=1) - 1), max(known, default=2)
    return sorted({low + round((high - low) * step / (POINTS - 1)) for step in range(POINTS)} | set(known))


def _basis(arguments: Namespace, machine: Machine) -> dict[str, str]:
    rests = {f"machine: {name}": f"{value:g}" for name, value in asdict(machine).items()}
    if arguments.traces:
        return rests | {"traces": ", ".join(path.name for path in arguments.traces)}
    rests |= {"users": str(arguments.users), "days": str(arguments.days), "seeds": f"1 to {arguments.seeds}"}
    return rests | {name: f"{value:g}: {source}" for name, value, source in Habits().explained()}
