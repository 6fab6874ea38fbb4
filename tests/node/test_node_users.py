"""Servers of three users who do not trust each other, as real processes on one simulated GPU."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contract.pressure_board_contract import NOON
from user_process import UserProcess

from jupyter_gpu_reclaim.node import NodeBoard
from jupyter_gpu_reclaim.node.board import LEFT_ALONE_SECONDS
from jupyter_gpu_reclaim.node.locks import lock_name
from jupyter_gpu_reclaim.sim.board import Board, MiB

NEED = 60 * MiB  # of a GPU with room for one such restore, not two
RACES = 1000


@pytest.fixture
def gpu_board(open_folder: Path, simgpu_server: None) -> Iterator[Board]:
    """One GPU of 100 MiB, which processes of every user can see and use."""
    with Board.create(open_folder / "board", [("GPU", 100 * MiB)]) as board:
        board.path.chmod(0o666)
        yield board


# -- one gap, three restores ------------------------------------------------------------------------------------------


def contend(channel: Any, node_dir: Path, board_path: Path, locked: bool) -> None:
    """At each word, tries to restore into the gap as the reconciler does; tells whether it was admitted."""
    os.umask(0o077)  # as careful users have it
    node = NodeBoard(node_dir, lock_patience=60)

    async def restores(board: Board) -> None:
        (gpu,) = board.gpus()
        while channel.recv() == "race":
            async with node.claim([gpu.uuid]) if locked else nullcontext():
                admitted = board.gpus()[0].free_bytes >= NEED
                time.sleep(0.0005)  # between a look and the allocation there is always some time
                if admitted:
                    board.add_process(os.getpid(), NEED)
            channel.send((admitted, board.gpus()[0].used_bytes, node.problem))
            channel.recv()
            board.remove_process(os.getpid())
            channel.send("gone")

    with Board.attach(board_path) as board:
        asyncio.run(restores(board))


def race(processes: list[UserProcess]) -> list[tuple[bool, int, str | None]]:
    """One race; what became of each."""
    for process in processes:
        process.send("race")
    outcomes = [process.receive() for process in processes]
    for process in processes:
        process.send("end")
    assert [process.receive() for process in processes] == ["gone"] * 3
    return outcomes


def test_a_thousand_races_for_one_gap(users: tuple[int, int, int], node_dir: Path, gpu_board: Board) -> None:
    """In each race of three users' restores for room for one, exactly one is admitted, and never more than fits."""
    wins = [0, 0, 0]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(UserProcess(gpu_board, uid, contend, node_dir, gpu_board.path, True))
            for uid in users
        ]
        for _ in range(RACES):
            outcomes = race(processes)
            assert [used for _, used, _ in outcomes] == [NEED] * 3
            assert [problem for _, _, problem in outcomes] == [None] * 3
            winners = [number for number, (admitted, _, _) in enumerate(outcomes) if admitted]
            assert len(winners) == 1
            wins[winners[0]] += 1
    assert sum(wins) == RACES
    print(f"wins of the three users: {wins}")
    assert {path.name for path in node_dir.iterdir()} <= {lock_name(gpu_board.gpus()[0].uuid)}


def test_without_the_lock_the_races_are_lost(
    users: tuple[int, int, int], node_dir: Path, gpu_board: Board
) -> None:
    """The races are real: without the claim, some of a hundred admit more than the GPU holds."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(UserProcess(gpu_board, uid, contend, node_dir, gpu_board.path, False))
            for uid in users
        ]
        admitted = [sum(outcome[0] for outcome in race(processes)) for _ in range(100)]
    assert max(admitted) > 1


def alternate(channel: Any, node_dir: Path, gpus: list[str]) -> bool:
    """Claims both GPUs again and again, named in this order."""
    node = NodeBoard(node_dir, lock_patience=60)

    async def claims() -> bool:
        channel.recv()
        for _ in range(100):
            async with node.claim(gpus):
                inside = node_dir.parent / "inside"
                os.mkdir(inside)  # raises if the other is in there
                os.rmdir(inside)
        return node.problem is None

    return asyncio.run(claims())


def test_opposite_orders_of_several_gpus_never_wait_for_each_other(
    users: tuple[int, int, int], node_dir: Path, gpu_board: Board
) -> None:
    """Two users' servers that claim the same GPUs, named in opposite order, both get through, one at a time."""
    node_dir.parent.chmod(0o777)
    with (
        UserProcess(gpu_board, users[0], alternate, node_dir, ["GPU-1", "GPU-2", "GPU-3"]) as one,
        UserProcess(gpu_board, users[1], alternate, node_dir, ["GPU-3", "GPU-2", "GPU-1"]) as two,
    ):
        one.send("go")
        two.send("go")
        assert (one.receive(), two.receive()) == (True, True)


# -- kill -9 ----------------------------------------------------------------------------------------------------------


def keep(channel: Any, node_dir: Path) -> None:
    """Holds a GPU and tells it, until the end."""
    node = NodeBoard(node_dir, lock_patience=60)

    async def hold() -> None:
        async with node.claim(["GPU-1"]):
            node.publish({"GPU-1": 7}, NOON)
            channel.send("held")
            await asyncio.Event().wait()

    asyncio.run(hold())


async def test_a_server_killed_with_a_lock_leaves_it_free(
    users: tuple[int, int, int], node_dir: Path, gpu_board: Board
) -> None:
    """After kill -9 of the holder the lock is had at once, the holder's notice does not count, nothing is a problem."""
    node = NodeBoard(node_dir, lock_patience=0)  # no patience: a stale lock would show as a problem
    for uid in users:
        with UserProcess(gpu_board, uid, keep, node_dir) as holder:
            assert holder.receive() == "held"
            assert node.waiting_elsewhere() == {"GPU-1": 7}
            async with node.claim(["GPU-1"]):
                assert "has kept the lock" in node.problem
            holder.kill()
            assert node.waiting_elsewhere() == {}
            assert node.problem is None
            async with node.claim(["GPU-1"]):
                assert node.problem is None


def publish_for_ever(channel: Any, node_dir: Path) -> None:
    """Publishes, changes, withdraws, as fast as it can."""
    node = NodeBoard(node_dir)
    channel.send("here")
    while True:
        node.publish({"GPU-1": 1 << 40}, NOON)
        node.publish({"GPU-1": 1, "GPU-2": 2}, None)
        node.publish({}, None)


def test_a_server_killed_while_it_publishes(
    users: tuple[int, int, int], node_dir: Path, gpu_board: Board
) -> None:
    """Whenever kill -9 comes, nothing but whole notices is ever read, none after it, and its files go in the end."""
    node, chance, seen = NodeBoard(node_dir), random.Random(7), set()
    for number in range(30):
        with UserProcess(gpu_board, users[number % 3], publish_for_ever, node_dir) as writer:
            writer.receive()
            for _ in range(chance.randint(1, 200)):
                seen.add(tuple(sorted(node.waiting_elsewhere().items())))
            writer.kill()
        assert node.waiting_elsewhere() == {}
    assert seen <= {(), (("GPU-1", 1 << 40),), (("GPU-1", 1), ("GPU-2", 2))}
    assert len(seen) > 1
    for path in node_dir.iterdir():
        os.utime(path, (0, time.time() - LEFT_ALONE_SECONDS - 1))
    node.waiting_elsewhere()  # as root it may remove everybody's
    assert list(node_dir.iterdir()) == []


def publish_once(channel: Any, node_dir: Path) -> None:
    """Publishes at every word."""
    node = NodeBoard(node_dir)
    while channel.recv() == "publish":
        node.publish({"GPU-1": 5}, NOON)
        channel.send(node.problem)


def test_a_users_next_server_removes_what_its_last_one_left(
    users: tuple[int, int, int], node_dir: Path, gpu_board: Board
) -> None:
    """A dead server's notice counts for nobody; other users may not remove it, the same user's next server does."""
    with UserProcess(gpu_board, users[0], publish_once, node_dir) as writer:
        writer.send("publish")
        assert writer.receive() is None
        writer.kill()
    (left,) = node_dir.iterdir()
    os.utime(left, (0, time.time() - LEFT_ALONE_SECONDS - 1))
    with UserProcess(gpu_board, users[1], look, node_dir) as other:
        assert other.receive() == {}
    assert left.exists()
    with UserProcess(gpu_board, users[0], look, node_dir) as successor:
        assert successor.receive() == {}
    assert not left.exists()


def look(channel: Any, node_dir: Path) -> dict[str, int]:
    """What one look finds."""
    return dict(NodeBoard(node_dir).waiting_elsewhere())


# -- a hostile user ---------------------------------------------------------------------------------------------------


def tamper(channel: Any, node_dir: Path) -> list[str]:
    """Tries everything on files of other users; what worked."""
    worked, mine = [], node_dir / "mine"
    mine.touch()
    for path in sorted(set(node_dir.iterdir()) - {mine}):
        acts = {
            "remove": path.unlink,
            "rename": partial(path.rename, node_dir / "theirs"),
            "replace": partial(mine.replace, path),
            "write": partial(path.write_bytes, b"x"),
            "set its age": partial(os.utime, path, (0, 0)),
            "open its mode": partial(path.chmod, 0o666),
        }
        for name, act in acts.items():
            try:
                act()
                worked.append(f"{name} {path.name}")
            except PermissionError:
                pass
    return worked


def test_others_files_cannot_be_touched(
    users: tuple[int, int, int], node_dir: Path, gpu_board: Board
) -> None:
    """Another user can neither remove, rename, replace, write nor age a server's notice, nor its lock."""
    with UserProcess(gpu_board, users[0], keep, node_dir) as holder:
        holder.receive()
        with UserProcess(gpu_board, users[1], tamper, node_dir) as hostile:
            assert hostile.receive() == []
        assert len(list(node_dir.iterdir())) == 3  # a notice, a lock, and what the other user made
        assert NodeBoard(node_dir).waiting_elsewhere() == {"GPU-1": 7}


def unreadable_lock(channel: Any, node_dir: Path) -> None:
    """Makes the lock before anybody else, for nobody else to open."""
    os.close(os.open(node_dir / lock_name("GPU-1"), os.O_CREAT | os.O_RDWR, 0o600))


def claim_once(channel: Any, node_dir: Path) -> str | None:
    """One claim; what was the problem with it."""
    node = NodeBoard(node_dir, lock_patience=60)

    async def claim() -> str | None:
        async with node.claim(["GPU-1"]):
            return node.problem

    return asyncio.run(claim())


def test_a_lock_that_may_not_be_opened(users: tuple[int, int, int], node_dir: Path, gpu_board: Board) -> None:
    """Restores go ahead without a lock that a stranger keeps to himself, and the problem names the file."""
    with UserProcess(gpu_board, users[1], unreadable_lock, node_dir) as hostile:
        hostile.receive()
    with UserProcess(gpu_board, users[0], claim_once, node_dir) as server:
        problem = server.receive()
    assert str(node_dir / lock_name("GPU-1")) in problem
    assert "Permission denied" in problem


def test_a_directory_that_may_not_be_written(
    users: tuple[int, int, int], node_dir: Path, gpu_board: Board
) -> None:
    """Where a server may only read, it goes on alone and says so; nothing is raised."""
    node_dir.chmod(0o755)
    with UserProcess(gpu_board, users[0], publish_once, node_dir) as server:
        server.send("publish")
        assert "Permission denied" in server.receive()
    with UserProcess(gpu_board, users[0], claim_once, node_dir) as server:
        assert "Permission denied" in server.receive()


def test_a_server_that_is_stopped_presses_no_longer_than_its_notice_is_fresh(
    users: tuple[int, int, int], node_dir: Path, gpu_board: Board
) -> None:
    """A server that hangs still has its lock on its notice; the notice's age ends it, and renewing brings it back."""
    node = NodeBoard(node_dir)
    with UserProcess(gpu_board, users[0], publish_once, node_dir) as server:
        server.send("publish")
        server.receive()
        os.kill(server.pid, signal.SIGSTOP)
        (notice,) = node_dir.iterdir()
        assert node.waiting_elsewhere() == {"GPU-1": 5}
        os.utime(notice, (0, time.time() - 1000))
        assert node.waiting_elsewhere() == {}
        assert notice.exists()
        os.kill(server.pid, signal.SIGCONT)
        server.send("publish")
        server.receive()
        assert node.waiting_elsewhere() == {"GPU-1": 5}
