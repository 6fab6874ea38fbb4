"""Which alarms stand, by the log alone, and which kernels are under one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jupyter_gpu_reclaim.core.alarms import laid_over, standing
from jupyter_gpu_reclaim.core.model import Event, Holding, Phase, Snapshot, Transition

NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)


def row(number: int, event: Event = Event.ALARM_RAISED, **more: object) -> Transition:
    """A row of the log, `number` minutes after nine."""
    facts = {
        "mechanism": "torch_offload",
        "framework": "torch 2.13.0",
        "driver": "580",
        "footprint": {"g0": 1},
    }
    return Transition(
        id=str(number),
        at=NOW + timedelta(minutes=number),
        kernel_id="a",
        event=event,
        phase=Phase.RESIDENT,
        **(facts | more),
    )


def ids(*rows: Transition) -> list[str]:
    """The alarms that these rows leave standing."""
    return [alarm.id for alarm in standing(rows)]


def test_an_alarm_stands_until_its_own_is_cleared() -> None:
    """Of several on one subject the first is told; clearing ends them, of that subject only; one may come anew."""
    other = row(2, framework="torch 2.14.0")
    cleared = row(4, Event.ALARM_CLEARED)
    assert ids(row(1), other, row(3)) == ["1", "2"]
    assert ids(cleared, row(3), other, row(1)) == ["2"]
    assert ids(row(1), cleared, row(5), row(6, Event.PINNED)) == ["5"]


@pytest.mark.parametrize(
    ("holding", "driver", "is_under"),
    [
        ({}, "580", True),
        ({}, "590", False),
        ({}, None, True),
        ({"framework": "torch 2.14.0"}, "580", False),
        ({"mechanism": "process_checkpoint"}, "580", False),
        ({"footprint": {"g1": 5}}, "580", False),
        ({"footprint": {"g1": 5, "g0": 5}}, "580", True),
    ],
)
def test_a_kernel_is_under_the_alarm_that_is_about_it(
    holding: dict, driver: str | None, is_under: bool
) -> None:
    """Mechanism, GPU, driver and framework must all be the alarm's; what is not known counts as the same."""
    facts = {"mechanism": "torch_offload", "framework": "torch 2.13.0", "footprint": {"g0": 5}}
    kernel = Holding(kernel_id="a", label="a.ipynb", **(facts | holding))
    seen = Snapshot(taken_at=NOW, gpus=(), holdings=(kernel,), host_available_bytes=None, driver=driver)
    [after] = laid_over(seen, standing([row(1)])).holdings
    assert (after.distrusted is not None) is is_under
