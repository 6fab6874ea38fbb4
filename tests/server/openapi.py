"""`openapi.yaml` as a test uses it: which replies there may be, and whether one is as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker

import jupyter_gpu_reclaim.server

TEXT = (Path(jupyter_gpu_reclaim.server.__file__).parent / "openapi.yaml").read_text()
API: dict[str, Any] = yaml.safe_load(TEXT)


def check_reply(method: str, path: str, code: int, body: Any) -> None:
    """Raises unless the API has this reply to this call. `path` is the API's own, with {kernel_id}."""
    responses = API["paths"][path][method.lower()]["responses"]
    response = responses.get(str(code), responses["default"])
    if "$ref" in response:
        response = API["components"]["responses"][response["$ref"].rpartition("/")[2]]
    content = response.get("content")
    if content is None:
        assert body is None
        return
    assert str(code) in responses or code >= 400
    if isinstance(body, str) and set(content) != {"application/json"}:
        return  # a file or a page
    schema = {**content["application/json"]["schema"], "components": API["components"]}
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(body)
