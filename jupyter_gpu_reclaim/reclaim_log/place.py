"""Where the log is kept when nobody says so, and where this user's Jupyter says it is."""

from __future__ import annotations

from pathlib import Path

from jupyter_core.application import JupyterApp
from jupyter_core.paths import jupyter_data_dir
from traitlets.config import Config


def own_folder() -> Path:
    """Where the servers of this user keep what stands in for the database, and the key that hashes names."""
    return Path(jupyter_data_dir()) / "gpu_reclaim"


def default_db_url() -> str:
    """An SQLite file in Jupyter's data directory."""
    folder = Path(jupyter_data_dir())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        pass  # the log says what is wrong, whenever it is needed, and works once it is put right
    return default_db_path_url()


def default_db_path_url() -> str:
    """The same, and no folder is made."""
    return f"sqlite:///{Path(jupyter_data_dir()) / 'gpu_reclaim.sqlite'}"


def configured() -> Config:
    """The settings of `GpuReclaim` in this user's Jupyter configuration files, as the server reads them."""
    found = Config()
    for name in ("jupyter_server_config", "jupyter_gpu_reclaim_config"):
        app = JupyterApp(config_file_name=name)
        app.load_config_file()
        found.merge(app.config.GpuReclaim)
    return found


def configured_db_url() -> str:
    """Where the server of this user keeps the log."""
    return configured().get("db_url", "") or default_db_url()


def nothing_there(db_url: str) -> bool:
    """Whether it is an SQLite file that does not exist: opening it to read would make it."""
    path = db_url.removeprefix("sqlite:///")
    return path != db_url and not path.startswith("file:") and not Path(path).exists()
