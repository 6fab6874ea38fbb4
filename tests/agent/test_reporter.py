"""How often the agent looks at its kernel: an idle one less and less, one in use on every beat."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import pytest

from jupyter_gpu_reclaim.agent.gate import Gate, Passage
from jupyter_gpu_reclaim.agent.reporter import LONGEST_REST_BEATS, Notes, Reporter
from jupyter_gpu_reclaim.agent.room import Wish

BEAT = 5.0


class Agent:
    """A gate and a reporter as the agent wires them, in a kernel without torch, with a server that hears everything."""

    def __init__(self) -> None:
        self.heard: list[dict] = []
        self.work: list[str] = []
        self.wakeups: queue.SimpleQueue = queue.SimpleQueue()
        self.gate = Gate(lambda: self.wakeups.put(None), lambda function: None)
        moves = SimpleNamespace(
            mechanism=None,
            unsupported=None,
            preparing=False,
            needed_bytes={},
            spilled_bytes=0,
            unmovable={},
            find_mechanism=lambda: None,
            tidy=lambda: None,
        )
        watch = SimpleNamespace(sample=lambda: None, snapshot=lambda: list(self.work))
        link = SimpleNamespace(
            up=True, down_seconds=lambda: 0.0, send=lambda told: not self.heard.append(told)
        )
        self.wishes: list[Wish] = []
        room = SimpleNamespace(wishes=lambda: list(self.wishes))
        self.reporter = Reporter(
            self.gate, moves, room, watch, link, Notes(), self.wakeups, lambda seconds: None
        )
        self.reporter.begin(BEAT, 5.0)
        self.wakeups.get_nowait()

    def rest(self) -> float:
        """Beats until the next look, as it stands after one look now."""
        self.reporter.beat()
        return (self.reporter.next_beat() - self.reporter._looked_at) / BEAT


@pytest.fixture
def agent() -> Agent:
    """A new one."""
    return Agent()


def test_an_idle_kernel_is_looked_at_less_and_less(agent: Agent) -> None:
    """While nothing is new the rest doubles up to its bound, and nothing is sent."""
    assert [agent.rest() for _ in range(8)] == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert LONGEST_REST_BEATS == 60
    assert [told["op"] for told in agent.heard] == ["status"]


def test_user_code_ends_the_rest(agent: Agent) -> None:
    """The first user code after a rest wakes the reporter, which then looks again on the next beat, and tells it."""
    while agent.rest() < LONGEST_REST_BEATS:
        pass
    passage = Passage("execute", counts_as_activity=True)
    assert agent.gate.try_enter(passage)
    agent.wakeups.get_nowait()
    assert agent.reporter.next_beat() - agent.reporter._looked_at == pytest.approx(BEAT)
    assert agent.rest() == pytest.approx(1)
    assert agent.heard[-1]["running_since_at"] == passage.since_at
    agent.gate.inside.discard(passage)
    agent.gate.left(passage)
    assert agent.rest() == pytest.approx(1)
    assert agent.heard[-1]["running_since_at"] is None


def test_background_work_is_looked_at_on_every_beat(agent: Agent) -> None:
    """A kernel with background work is never rested from: its end should be seen."""
    agent.work.append("thread 'x' runs train() of __main__")
    assert [agent.rest() for _ in range(4)] == pytest.approx([1, 1, 1, 1])


def test_who_comes_back_for_room_says_so(agent: Agent) -> None:
    """An allocation admitted too early, which asks for the same again before anybody saw it gone, is heard again."""
    agent.wishes = [Wish("GPU-1", 40, 0.0, 60.0)]
    agent.reporter.push(only_if_urgent=True)
    agent.reporter.push(only_if_urgent=True)
    agent.wishes = [Wish("GPU-1", 40, 1.0, 60.0)]
    agent.reporter.push(only_if_urgent=True)
    agent.wishes = []
    agent.reporter.push(only_if_urgent=True)
    wanted = [told["gpus"] for told in agent.heard if told["op"] == "room_wanted"]
    assert wanted == [{"GPU-1": 40}, {"GPU-1": 40}, {}]
