"""The file in which rows wait: nothing acknowledged is lost, and what is dropped is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_gpu_reclaim.reclaim_log.disk_queue import HALF_BYTES, DiskQueue


def contents(queue: DiskQueue) -> list[bytes]:
    """Everything that waits, oldest first."""
    return queue.oldest(10**9)[0]


def numbered(*numbers: int) -> list[bytes]:
    """A row of 100 bytes for each number."""
    return [b"%100d" % number for number in numbers]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "data" / "queue"


def test_what_waits_outlives_the_server(folder: Path) -> None:
    """Rows put in by several calls are there for the next server, in their order, and in a file of their owner's."""
    first = DiskQueue(folder)
    first.put(numbered(1, 2))
    first.put(numbered(3))
    first.close()
    again = DiskQueue(folder)
    again.open()
    assert contents(again) == numbered(1, 2, 3)
    assert again.newest() == numbered(3, 2, 1)
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]
    again.close()


def test_the_room_is_claimed_beforehand(folder: Path) -> None:
    """The file has its full size on the disk before the first row, and keeps it: a full disk changes nothing."""
    queue = DiskQueue(folder)
    queue.open()
    before = (folder / "queue-0").stat()
    assert before.st_size == 2 * HALF_BYTES <= before.st_blocks * 512
    queue.put(numbered(*range(1000)))
    after = (folder / "queue-0").stat()
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    queue.close()


@pytest.mark.parametrize("damage", [b"", b"\0" * 40, b"garbage" * 6])
def test_a_row_cut_short_by_a_crash(folder: Path, damage: bytes) -> None:
    """A last record that is not whole is passed over, the rows before it are there, and new ones follow them."""
    queue = DiskQueue(folder)
    queue.put(numbered(1, 2, 3))
    end = queue._half_bytes * queue._active + queue._end
    queue.close()
    with open(folder / "queue-0", "r+b") as file:
        file.seek(end - 50)
        file.write(damage or b"x")
    again = DiskQueue(folder)
    again.open()
    assert contents(again) == numbered(1, 2)
    again.put(numbered(4))
    again.close()
    last = DiskQueue(folder)
    last.open()
    assert contents(last) == numbered(1, 2, 4)
    last.close()


def test_without_room_the_oldest_are_dropped_and_counted(folder: Path) -> None:
    """The newest rows stay, in order; those given up are counted, also by the next server, until somebody is told."""
    queue = DiskQueue(folder, half_bytes=1000)
    for number in range(30):
        queue.put(numbered(number))
    kept = contents(queue)
    assert kept == numbered(*range(30 - len(kept), 30))
    assert 8 <= len(kept) < 30
    assert queue.dropped == 30 - len(kept)
    queue.close()
    again = DiskQueue(folder, half_bytes=1000)
    again.open()
    assert (contents(again), again.dropped) == (kept, 30 - len(kept))
    again.told(again.dropped)
    _, last = again.oldest(10**9)
    again.taken(last)
    again.close()
    third = DiskQueue(folder, half_bytes=1000)
    third.open()
    assert (contents(third), third.dropped) == ([], 0)
    third.close()
    with pytest.raises(ValueError, match="does not fit"):
        third.put([b"x" * 1000])


def test_what_was_taken_out_is_not_given_again(folder: Path) -> None:
    """Once all are taken none comes back; while some are left, a crash may give all of them again, in order."""
    queue = DiskQueue(folder)
    queue.put(numbered(1, 2, 3))
    some, number = queue.oldest(2)
    queue.taken(number)
    assert (some, contents(queue)) == (numbered(1, 2), numbered(3))
    queue.taken(queue.oldest(9)[1])
    queue.put(numbered(4))
    queue.close()
    again = DiskQueue(folder)
    again.open()
    assert contents(again) == numbered(4)
    again.close()


def test_servers_do_not_share_a_file_and_inherit_from_the_dead(folder: Path) -> None:
    """Two servers at a time have a file each; what one leaves, the next to start takes over, once, and removes."""
    one, other = DiskQueue(folder), DiskQueue(folder)
    one.put(numbered(1))
    other.put(numbered(2))
    other.close()
    one.close()
    heir, latecomer = DiskQueue(folder), DiskQueue(folder)
    heir.open()
    latecomer.open()
    assert contents(heir) == numbered(1, 2)
    assert contents(latecomer) == []
    heir.close()
    latecomer.close()
    last = DiskQueue(folder)
    last.open()
    assert contents(last) == numbered(1, 2)
    assert [path.name for path in folder.iterdir()] == ["queue-0"]
    last.close()


def test_a_link_in_its_place_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """A symbolic link where the file should be is an error, and what it leads to stays as it is."""
    folder.mkdir(parents=True)
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (folder / "queue-0").symlink_to(target)
    with pytest.raises(OSError, match="queue-0"):
        DiskQueue(folder).open()
    assert target.read_bytes() == b"precious"


WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from jupyter_gpu_reclaim.reclaim_log.disk_queue import DiskQueue

queue = DiskQueue(Path(sys.argv[1]))
for number in itertools.count():
    queue.put([b"%100d" % number])
    print(number, flush=True)
"""


def test_killed_at_any_moment(folder: Path) -> None:
    """Whatever was acknowledged before kill -9 is there afterwards, in order and without a gap."""
    for run in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(folder)], stdout=subprocess.PIPE)
        for _ in range(20 + 7 * run):
            writer.stdout.readline()
        writer.kill()
        acknowledged = writer.communicate()[0].split()
        queue = DiskQueue(folder)
        queue.open()
        found = [int(content) for content in contents(queue)]
        assert found == list(range(len(found)))
        assert len(found) > (int(acknowledged[-1]) if acknowledged else 19 + 7 * run)
        queue.taken(queue.oldest(10**9)[1])
        queue.close()
        assert os.listdir(folder) == ["queue-0"]
