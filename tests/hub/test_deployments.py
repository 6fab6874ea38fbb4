"""What docs/operators.md gives for deployments other than the one that tests start: held to what these read."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from jupyterhub.app import JupyterHub
from real_hub import snippets
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from jupyter_gpu_reclaim.config import PolicyTraits
from jupyter_gpu_reclaim.hub.app import GpuReclaimHub
from jupyter_gpu_reclaim.hub.policies import book_from

HERE = Path(__file__).parent


def config_of(text: str, folder: Path, before: str = "") -> Config:
    """What a configuration says that a main one loads after itself, as The Littlest JupyterHub does."""
    (folder / "more.py").write_text(text)
    (folder / "main.py").write_text(f"c = get_config()\n{before}\nload_subconfig('more.py')\n")
    return PyFileConfigLoader("main.py", path=str(folder)).load_config()


def rights(hub: Any) -> dict[str, Any]:
    """Who may what, by a Hub's settings."""
    roles = {role["name"]: set(role["scopes"]) for role in hub["load_roles"]}
    (service,) = [one for one in hub["services"] if one["name"] == "gpu-reclaim"]
    asked = {key: service[key] for key in ("oauth_client_allowed_scopes", "oauth_no_confirm")}
    return {"roles": roles, "custom_scopes": hub["custom_scopes"], **asked}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The configuration that tests start a real Hub with."""
    return config_of(snippets("The service", "python")[0], tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """What the chart is given, the machine's directory included."""
    whole, _, storage = map(yaml.safe_load, snippets("Zero to JupyterHub", "yaml"))
    return {**whole, "singleuser": {**whole["singleuser"], **storage}}


def made(text: str, folder: Path) -> GpuReclaimHub:
    """The service as its configuration has it."""
    return GpuReclaimHub(config=config_of(text, folder))


def test_the_littlest_jupyterhub(tmp_path: Path, plain: Config) -> None:
    """Its own services stay, ours has the rights that the plain Hub's has, and its configuration is one of ours."""
    hub_text, service_text = snippets("The Littlest JupyterHub", "python")
    config = config_of(hub_text, tmp_path, "c.JupyterHub.services = [{'name': 'cull-idle', 'command': ['x']}]")
    hub = JupyterHub(config=config)
    assert [one["name"] for one in hub.services] == ["cull-idle", "gpu-reclaim"]
    assert rights(config.JupyterHub) == rights(plain.JupyterHub)
    assert config.Spawner.server_token_scopes == plain.Spawner.server_token_scopes
    url = hub.services[1]["url"]
    told = config.Spawner.environment.to_dict()["update"]
    assert told == {"JUPYTER_GPU_RECLAIM_HUB_URL": f"{url}/services/gpu-reclaim/"}
    service = made(service_text, tmp_path)
    assert service.db_url.startswith("sqlite:////")
    assert service.policy_file.startswith("/opt/tljh/config/")


def test_the_charts_values_are_of_its_schema(values: dict[str, Any]) -> None:
    """Each key is one that the chart has, with the type that it wants."""
    schema = yaml.safe_load((HERE / "zero_to_jupyterhub_schema.yaml").read_text())
    jsonschema.Draft7Validator(schema).validate(values)
    misspelt = {**values, "singleuser": {**values["singleuser"], "extraEnvironment": {}}}
    assert not jsonschema.Draft7Validator(schema).is_valid(misspelt)


def test_the_charts_service_has_the_plain_ones_rights(values: dict[str, Any], plain: Config) -> None:
    """Custom scopes, roles and tokens are those of the Hub that tests start."""
    hub = values["hub"]
    as_lists = {
        "services": [{"name": name, **one} for name, one in hub["services"].items()],
        "load_roles": [{"name": name, **one} for name, one in hub["loadRoles"].items()],
        **hub["config"]["JupyterHub"],
    }
    assert rights(as_lists) == rights(plain.JupyterHub)
    assert hub["config"]["KubeSpawner"]["server_token_scopes"] == plain.Spawner.server_token_scopes


def test_the_charts_service_is_let_through_to(values: dict[str, Any], tmp_path: Path) -> None:
    """It listens where the Hub, the cluster's service and every network policy say; its policies are good ones."""
    hub, user = values["hub"], values["singleuser"]
    url = hub["services"]["gpu-reclaim"]["url"]
    files = {one["mountPath"]: one for one in hub["extraFiles"].values()}
    (config,) = [word for word in hub["services"]["gpu-reclaim"]["command"] if word.startswith("--config=")]
    service = made(files[config.removeprefix("--config=")]["stringData"], tmp_path)
    port = urlsplit(url).port
    assert urlsplit(service.url).port == port
    assert [one["targetPort"] for one in hub["service"]["extraPorts"]] == [port]
    assert {"port": port} in hub["networkPolicy"]["ingress"][0]["ports"]
    for out in (user["networkPolicy"], values["proxy"]["chp"]["networkPolicy"]):
        assert [rule["ports"] for rule in out["egress"]] == [[{"port": port}]]
    assert user["extraEnv"]["JUPYTER_GPU_RECLAIM_HUB_URL"] == f"{url}/services/gpu-reclaim/"
    assert service.db_url.startswith("postgresql+psycopg://")
    assert len(book_from(yaml.safe_dump(files[service.policy_file]["data"]), "policies.yaml").rules) == 2


def test_each_waits_longer_than_the_one_before(values: dict[str, Any]) -> None:
    """Reclaims come before Jupyter's culler, and that before the Hub's; our settings there exist."""
    (own,) = [one["data"] for one in values["singleuser"]["extraFiles"].values()]
    assert own["GpuReclaim"].keys() <= PolicyTraits.class_traits(config=True).keys()
    idle, kernel = own["GpuReclaim"]["idle_after_seconds"], own["MappingKernelManager"]["cull_idle_timeout"]
    assert idle < kernel < values["cull"]["timeout"]
