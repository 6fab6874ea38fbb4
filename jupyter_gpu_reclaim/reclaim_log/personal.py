"""Names of people and notebooks, as the log is to keep them."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.core.model import Transition

MODES = ("plain", "hashed", "omitted")


class PersonalData:
    """plain: as they are. hashed: a name always gives the same word, which only the key can make. omitted: none."""

    def __init__(self, mode: str = "plain", key: bytes = b"") -> None:
        if mode not in MODES or (mode == "hashed" and not key):
            raise ValueError(f"no such way to keep personal data: {mode}, or no key for it")
        self._mode = mode
        self._key = key

    @classmethod
    def kept(cls, mode: str, key_file: Path) -> PersonalData:
        """With the key in `key_file`, which is made, for its owner alone, where it lacks. Raises OSError."""
        return cls(mode, _key_in(key_file) if mode == "hashed" else b"")

    def disguised(self, row: Transition) -> Transition:
        """The row as it is to be kept. What `detail` says in words stays."""
        if self._mode == "plain":
            return row
        return replace(
            row, owner=self.word(row.owner), label=self.word(row.label), actor=self.word(row.actor)
        )

    def disguised_filters(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Filters that find what was disguised. Where names are left out, one for a name finds nothing."""
        names = {name for name in ("owner", "label") if filters.get(name) is not None}
        found = {name: self._filter(value) if name in names else value for name, value in filters.items()}
        if found.get("whose") is not None:
            found["whose"] = self.word(found["whose"])
        return found

    def word(self, name: str) -> str:
        """What stands for a name; "" for none."""
        if self._mode == "plain" or not name:
            return name
        if self._mode == "omitted":
            return ""
        digest = hmac.digest(self._key, name.encode("utf-8", "backslashreplace"), "sha256")
        return f"#{digest.hex()[:16]}"

    def _filter(self, name: str) -> str:
        if self._mode == "plain" or (self._mode == "hashed" and name.startswith("#")):
            return name  # one that is a word already was copied from a listing
        return self.word(name) or "(omitted)"


def _key_in(path: Path) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with open(file, "wb") as new:
            new.write(os.urandom(32))
    key = path.read_bytes()
    if len(key) < 32:
        raise OSError(f"the key in {path} is cut short; remove it, and names will be hashed anew")
    return key
