"""`jupyter gpu-reclaim doctor`: looks at everything, judges it, shows it. It never changes anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from jupyter_gpu_reclaim import __version__
from jupyter_gpu_reclaim.agent.host_limits import available_host_bytes
from jupyter_gpu_reclaim.doctor import (
    jupyter_checks,
    look_at_jupyter,
    look_at_kernels,
    look_at_machine,
    machine_checks,
)
from jupyter_gpu_reclaim.doctor.facts import Facts
from jupyter_gpu_reclaim.doctor.findings import Finding, Level
from jupyter_gpu_reclaim.reclaim_log import readiness
from jupyter_gpu_reclaim.reclaim_log.place import default_db_path_url

CHECKS: tuple[Callable[[Facts], Iterable[Finding]], ...] = (
    machine_checks.platform,
    jupyter_checks.server,
    jupyter_checks.lab,
    machine_checks.gpus,
    machine_checks.processes,
    jupyter_checks.kernels,
    machine_checks.host_memory,
    machine_checks.database,
    machine_checks.node,
    jupyter_checks.cullers,
    jupyter_checks.hub,
    machine_checks.simulation,
)
MARKS = {Level.OK: "  ok", Level.WARN: "WARN", Level.FAIL: "FAIL"}


def run(show: Callable[[str], None], json_path: Path | None) -> int:
    """Shows every finding, or writes them as JSON ("-": to be read instead). 0: nothing fails; 1: something does."""
    findings = examined(look())
    if json_path == Path("-"):
        show(as_json(findings))
    else:
        for line in lines(findings):
            show(line)
        if json_path is not None:
            json_path.write_text(as_json(findings) + "\n")
    return int(any(finding.level is Level.FAIL for finding in findings))


def look() -> Facts:
    """Everything that can be found out here, within a minute."""
    config, problem = look_at_jupyter.configuration()
    policy, policy_problem = look_at_jupyter.settings(config)
    db_url = policy.db_url or default_db_path_url()
    node_dir, node_problem = look_at_machine.node(policy.node_dir)
    hub_url, hub_problem = look_at_jupyter.hub()
    return Facts(
        version=__version__,
        platform=sys.platform,
        server=look_at_jupyter.server(config, problem),
        lab=look_at_jupyter.lab(),
        kernels=look_at_kernels.kernels(),
        startup_off_in=look_at_jupyter.startup_off_in(),
        gpu=look_at_machine.gpu(),
        own_pid_namespace=look_at_machine.own_pid_namespace(),
        host_available_bytes=available_host_bytes(),
        host_reserve_bytes=policy.host_reserve_bytes,
        db_url=readiness.shown(db_url),
        db_problem=readiness.problem(db_url),
        node_dir=node_dir,
        node_problem=node_problem,
        cullers=look_at_jupyter.cullers(config, policy.idle_after_seconds),
        hub_url=hub_url,
        hub_problem=hub_problem,
        compiler=look_at_machine.compiler(),
        policy_problem=policy_problem,
    )


def examined(facts: Facts) -> tuple[Finding, ...]:
    """Every check's findings, in the order in which they are best cured."""
    return tuple(finding for check in CHECKS for finding in check(facts))


def lines(findings: Sequence[Finding]) -> Iterable[str]:
    """For people: one line a finding, one more with what to do, and a last one that sums up."""
    for finding in findings:
        yield f"{MARKS[finding.level]}  {finding.check}: {finding.message}"
        if finding.fix:
            yield f"      → {finding.fix}"
    counts = [sum(finding.level is level for finding in findings) for level in Level]
    yield "{} ok, {} to look at, {} to cure. Nothing was changed.".format(*counts)


def as_json(findings: Sequence[Finding]) -> str:
    """For scripts."""
    healthy = not any(finding.level is Level.FAIL for finding in findings)
    body = {"version": __version__, "healthy": healthy, "findings": [asdict(f) for f in findings]}
    return json.dumps(body, indent=2, ensure_ascii=False)
