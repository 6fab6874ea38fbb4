"""The agents' socket: who may speak for a kernel, and that nobody who connects can harm the server."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from agent_peer import DEADLINE_SECONDS, WELCOME, Peer, agent_of, listening

from jupyter_gpu_reclaim.agent import protocol
from jupyter_gpu_reclaim.core.model import Phase
from jupyter_gpu_reclaim.server.agent_link import AgentLink, LinkLost

LONG = timedelta(seconds=DEADLINE_SECONDS)
STATUS = {
    "phase": "reclaimed",
    "phase_since_at": 1_700_000_000.5,
    "waiting": 2,
    "last_active_at": 1_700_000_000,
    "background_work": [],
    "gpus": {"GPU-1": {"name": "A", "index": 0, "allocated_bytes": 5, "reserved_bytes": 8}},
    "mechanism": "torch_offload",
    "host_bytes": 8,
    "needed_bytes": {"GPU-1": 8},
}


async def still_serves(links) -> None:
    """A fresh agent is welcomed and its status taken in."""
    peer, link = await agent_of(links, "still-there")
    peer.say("status", **STATUS)
    reply = asyncio.create_task(link.ask("look", LONG))
    asked = await peer.hear()
    peer.say("reply", re=asked["id"], answer="yes")
    assert (await reply)["answer"] == "yes"
    assert link.status.phase is Phase.RECLAIMED


async def test_an_agent_is_welcomed_with_the_settings_it_needs(tmp_path: Path) -> None:
    """A hello with the right secret from the kernel's own process is answered with the configured welcome."""
    async with listening(tmp_path) as (links, changes):
        secret = links.invite("k", os.getpid)
        peer = await Peer.connect(links)
        peer.hello("k", secret, phase="reclaimed")
        assert await peer.hear() == {"op": "welcome", "version": protocol.VERSION, **WELCOME}
        assert links.link("k").pid == os.getpid()
        assert links.link("k").status.phase is Phase.RECLAIMED
        assert not links.link("k").reported
        assert changes.seen == ["k", "k"]  # invited, then welcomed


async def test_a_status_is_kept_and_wakes_only_when_it_matters(tmp_path: Path) -> None:
    """Each status replaces the last; only a change of phase, waiting or running is reported as a change."""
    async with listening(tmp_path) as (links, changes):
        peer, link = await agent_of(links, "k")
        peer.say("status", **STATUS)
        await changes.until(lambda: link.status.waiting == 2)
        assert (link.status.phase, link.status.needed_bytes) == (Phase.RECLAIMED, {"GPU-1": 8})
        assert link.status.phase_since.timestamp() == 1_700_000_000.5
        heard = len(changes.seen)
        peer.say("status", **{**STATUS, "host_bytes": 9})
        peer.say("restore_unwanted")
        await changes.until(lambda: link.status.waiting == 0)
        assert link.status.host_bytes == 9
        assert len(changes.seen) == heard + 1
        peer.say("restore_wanted", cells=3, trigger="execute")
        await changes.until(lambda: link.status.waiting == 3)
        peer.say("status", **{**STATUS, "phase": "restoring"})
        peer.say("progress", done_bytes=4, total_bytes=8)
        peer.say("restore_unwanted")
        await changes.until(lambda: link.status.waiting == 0)
        assert link.progress == (4, 8)


async def test_wishes_for_room_and_for_a_place_are_kept_and_wake(tmp_path: Path) -> None:
    """Each wish is known with its instant and wakes once; said again it wakes nobody; its end wakes once more."""
    async with listening(tmp_path) as (links, changes):
        peer, link = await agent_of(links, "k")
        peer.say("status", phase="resident")
        await changes.until(lambda: link.reported)
        heard = len(changes.seen)
        peer.say("room_wanted", gpus={"GPU-1": 2 << 20})
        await changes.until(lambda: link.status.room_wanted == {"GPU-1": 2 << 20})
        since = link.status.room_wanted_at
        assert since is not None
        peer.say("room_wanted", gpus={"GPU-1": 2 << 20})
        peer.say("ping")
        assert (await peer.hear())["op"] == "pong"
        assert link.status.room_wanted_at == since
        peer.say("room_wanted", gpus={})
        await changes.until(lambda: link.status.room_wanted == {})
        assert link.status.room_wanted_at is None
        assert len(changes.seen) == heard + 2
        at = 1_700_000_000
        wishes = {"room_wanted": {"GPU-1": 5}, "room_wanted_at": at}
        another_cell = at + 1  # which nobody has told to go ahead
        for place_wanted_at in (at, at, another_cell):
            peer.say("status", phase="resident", **wishes, place_wanted_at=place_wanted_at)
        await changes.until(lambda: link.status.place_wanted_at == datetime.fromtimestamp(another_cell, UTC))
        assert link.status.room_wanted_at == datetime.fromtimestamp(at, UTC)
        assert len(changes.seen) == heard + 4


async def test_a_wrong_secret_is_turned_away(tmp_path: Path) -> None:
    """Without the secret of that very kernel nobody speaks for it, and the agent that does keeps its place."""
    async with listening(tmp_path) as (links, _):
        _, link = await agent_of(links, "k")
        others = links.invite("other", os.getpid)
        for kernel_id, secret in (("k", "wrong"), ("k", others), ("k", ""), ("k", "ä"), ("nobody", others)):
            peer = await Peer.connect(links)
            peer.hello(kernel_id, secret)
            refusal = await peer.hear()
            assert refusal["op"] == "rejected"
            assert "secret" in refusal["message"]
            assert await peer.hear() == {}
        assert links.link("k") is link


async def test_a_process_outside_the_kernel_is_turned_away(tmp_path: Path) -> None:
    """Even with the secret, a process that is not in the kernel's process tree does not speak for it."""
    async with listening(tmp_path) as (links, _):
        child = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE)
        secret = links.invite("k", lambda: child.pid)
        peer = await Peer.connect(links)
        peer.hello("k", secret, pid=child.pid)
        assert "process tree" in (await peer.hear())["message"]
        assert links.link("k") is None
        assert "process tree" in links.turned_away("k")
        child.kill()
        await child.wait()


async def test_a_child_of_the_launched_process_may_speak(tmp_path: Path) -> None:
    """A kernel behind a shell wrapper that does not exec is a child of the launched process, and is welcome."""
    async with listening(tmp_path) as (links, _):
        _, link = await agent_of(links, "k", root_pid=os.getppid())
        assert link.pid == os.getpid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
async def test_another_user_cannot_connect(tmp_path: Path) -> None:
    """The socket's mode keeps other users out, and were it open, the uid behind the connection is refused."""
    speak = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode() + b'\\n'); print(s.makefile().readline())"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        async with listening(Path(folder)) as (links, _):
            assert stat.S_IMODE(links.path.stat().st_mode) == 0o600
            secret = links.invite("k", os.getpid)
            hello = {"op": "hello", "version": 1, "kernel_id": "k", "secret": secret, "phase": "resident"}
            answers = []
            for mode in (0o600, 0o666):
                links.path.chmod(mode)
                process = await asyncio.create_subprocess_exec(
                    "/usr/bin/env", "python3", "-c", speak, str(links.path), json.dumps(hello),
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, user=65534, cwd="/",
                )  # fmt: skip
                out, err = await process.communicate()
                answers.append(out.decode() + err.decode())
            assert "PermissionError" in answers[0]
            assert "another user" in answers[1]
            assert links.link("k") is None


async def test_another_version_is_turned_away(tmp_path: Path) -> None:
    """An agent of another protocol version is told so, and the kernel's status can say why it is unmanaged."""
    async with listening(tmp_path) as (links, _):
        secret = links.invite("k", os.getpid)
        peer = await Peer.connect(links)
        peer.hello("k", secret, version=99)
        assert "version 99" in (await peer.hear())["message"]
        assert "version 99" in links.turned_away("k")


async def test_a_second_hello_replaces_the_first(tmp_path: Path) -> None:
    """After a reconnect the newer connection speaks; the older is closed and its end changes nothing."""
    async with listening(tmp_path) as (links, _):
        secret = links.invite("k", os.getpid)
        first, second = await Peer.connect(links), await Peer.connect(links)
        first.hello("k", secret)
        await first.hear()
        second.hello("k", secret)
        await second.hear()
        await first.gone()
        second.say("status", **STATUS)
        link = links.link("k")
        second.say("reply", re=1)
        asked = asyncio.create_task(link.ask("look", LONG))
        request = await second.hear()
        second.say("reply", re=request["id"])
        await asked
        assert links.link("k") is link


async def test_a_restart_makes_the_old_secret_worthless(tmp_path: Path) -> None:
    """A new invitation closes the old process's connection, and its secret opens nothing any more."""
    async with listening(tmp_path) as (links, _):
        old_secret = links.invite("k", os.getpid)
        peer = await Peer.connect(links)
        peer.hello("k", old_secret)
        await peer.hear()
        assert links.invite("k", os.getpid) != old_secret
        await peer.gone()
        assert links.link("k") is None
        again = await Peer.connect(links)
        again.hello("k", old_secret)
        assert (await again.hear())["op"] == "rejected"


GARBAGE = [
    b"\x00\xff\xfe not json\n",
    b"[1, 2]\n",
    b'{"no": "op"}\n',
    b'{"op": "status", "phase": "gone"}\n',
    b'{"op": "status", "phase": "resident", "gpus": {"GPU-1": 5}}\n',
    b'{"op": "status", "phase": "resident", "host_bytes": -1}\n',
    b'{"op": "status", "phase": "resident", "last_active_at": 1e300}\n',
    b'{"op": "status", "phase": "resident", "last_active_at": NaN}\n',
    b'{"op": "status", "phase": "resident", "last_active_at": Infinity}\n',
    b'{"op": "status", "phase": ["resident"]}\n',
    b'{"op": "progress", "done_bytes": true, "total_bytes": 1}\n',
    b'{"op": "reply", "re": {}}\n',
    b'{"op": "x", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    b'{"op": "status", "phase": "resident", "waiting": ' + b"9" * 5000 + b"}\n",
    b"x" * (protocol.MAX_LINE_BYTES + 10) + b"\n",
    b"x" * (3 * protocol.MAX_LINE_BYTES),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda line: repr(line[:60]))
async def test_garbage_costs_the_connection_and_nothing_else(tmp_path: Path, garbage: bytes) -> None:
    """Lines that are not the protocol, before or after the hello, close that connection; the server goes on."""
    async with listening(tmp_path) as (links, _):
        stranger = await Peer.connect(links)
        stranger.writer.write(garbage)
        await stranger.gone()
        agent, link = await agent_of(links, "k")
        agent.writer.write(garbage)
        await agent.gone()
        assert links.link("k") is None
        assert link.status.host_bytes == 0
        await still_serves(links)


async def test_unknown_words_are_passed_over(tmp_path: Path) -> None:
    """A message or key that a newer agent may send is no reason to lose it."""
    async with listening(tmp_path) as (links, changes):
        peer, link = await agent_of(links, "k")
        peer.say("song", of="the future")
        peer.say("reply", re=12345)
        peer.say("status", **STATUS, mood="fine")
        await changes.until(lambda: link.status.host_bytes == 8)
        assert links.link("k") is link


async def test_a_request_ends_with_the_connection(tmp_path: Path) -> None:
    """A question whose agent goes away ends at once with `LinkLost`, and so does one asked afterwards."""
    async with listening(tmp_path) as (links, changes):
        peer, link = await agent_of(links, "k")
        asked = asyncio.create_task(link.ask("suspend", LONG))
        assert (await peer.hear())["op"] == "suspend"
        await peer.leave()
        with pytest.raises(LinkLost):
            await asked
        await changes.until(lambda: links.link("k") is None)
        with pytest.raises(LinkLost):
            await link.ask("suspend", LONG)


async def test_a_silent_agent_is_given_up_on(tmp_path: Path) -> None:
    """A question has its limit; a late answer to it is passed over and the link stays good."""
    async with listening(tmp_path) as (links, _):
        peer, link = await agent_of(links, "k")
        with pytest.raises(TimeoutError):
            await link.ask("suspend", timedelta(milliseconds=1))
        late = await peer.hear()
        peer.say("reply", re=late["id"], outcome="done")
        asked = asyncio.create_task(link.ask("look", LONG))
        request = await peer.hear()
        peer.say("reply", re=request["id"], outcome="fine")
        assert (await asked)["outcome"] == "fine"


def flood(link: AgentLink) -> None:
    """Far more than the server keeps for a peer."""
    for _ in range(1000):
        link.tell("end_wait", message="x" * 100_000)


async def test_a_peer_that_reads_nothing_is_dropped(tmp_path: Path) -> None:
    """What is sent to a stopped process does not pile up in the server without end."""
    async with listening(tmp_path) as (links, _):
        peer, link = await agent_of(links, "k")
        peer.writer.transport.pause_reading()
        with pytest.raises(LinkLost):
            flood(link)
        await still_serves(links)


async def test_a_flood_of_lines_leaves_room_for_others(tmp_path: Path) -> None:
    """While one agent sends thousands of lines at once, another is served in between."""
    async with listening(tmp_path) as (links, changes):
        noisy, link = await agent_of(links, "noisy")
        for number in range(5000):
            noisy.say("progress", done_bytes=number, total_bytes=5000)
        await still_serves(links)
        noisy.say("restore_wanted", cells=1)
        await changes.until(lambda: link.status.waiting == 1)


async def test_stop_ends_every_connection_and_takes_the_socket_away(tmp_path: Path) -> None:
    """After stop() peers see the end of the line and the file is gone; a second stop() changes nothing."""
    async with listening(tmp_path) as (links, _):
        silent = await Peer.connect(links)
        peer, _ = await agent_of(links, "k")
        path = links.path
        await links.stop()
        await peer.gone()
        await silent.gone()
        assert not path.exists()
        assert links.link("k") is None
