"""The hub as docs/operators.md sets it up, with our service in it, for tests and for `make hub-demo`."""

from __future__ import annotations

from pathlib import Path

from real_hub import free_ports, snippet, snippets

from jupyter_gpu_reclaim.sim.build import cache_folder

BUILT_ONCE = {"XDG_CACHE_HOME": str(cache_folder().parents[1])}
"""For users' servers: the simulated GPU's libraries are built once, and not for each home."""


def as_documented(folder: Path, port: int, db_url: str, policies: str) -> str:
    """The hub's configuration as docs/operators.md has it, with this folder's files, free ports and that database."""
    (service_port,) = free_ports(1)
    places = {
        "/run/jupyter_gpu_reclaim": str(folder / "node"),
        "/etc/jupyterhub/gpu_reclaim_hub_config.py": str(folder / "gpu_reclaim_hub_config.py"),
        "/etc/jupyterhub/gpu_reclaim_policies.yaml": str(folder / "policies.yaml"),
        "http://127.0.0.1:8873": f"http://127.0.0.1:{service_port}",
        "http://127.0.0.1:8000/": f"http://127.0.0.1:{port}/",
        "postgresql+psycopg://gpu:password@127.0.0.1/gpu_reclaim": db_url,
    }
    texts = [snippet("Settings for everybody", "python"), *snippets("The service", "python")]
    for place, here in places.items():
        assert sum(text.count(place) for text in texts) == 1, place
        texts = [text.replace(place, here) for text in texts]
    settings, hub, service = texts
    (folder / "gpu_reclaim_hub_config.py").write_text(service)
    (folder / "policies.yaml").write_text(policies)
    (folder / "node").mkdir()
    (folder / "node").chmod(0o1777)
    return settings + hub
