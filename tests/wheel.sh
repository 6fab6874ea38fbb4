#!/usr/bin/env bash
# The wheel in an environment with nothing but pip, and with neither node nor a compiler on the PATH: it installs, the
# server loads it, and what JupyterLab needs is laid where it looks. Usage: tests/wheel.sh WHEEL
set -euo pipefail
wheel=$(realpath "$1")
folder=$(mktemp -d)
trap '/bin/rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
export PATH="$folder/venv/bin" HOME="$folder" JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_DATA_DIR="$folder/data"
for tool in node npm g++ c++; do
    if command -v "$tool"; then echo "$tool is in reach, so this shows nothing"; exit 1; fi
done
pip install --quiet "$wheel"
cd /
python - "$folder" <<'PYTHON'
import json, pathlib, subprocess, sys
import importlib.metadata as metadata

import jupyter_gpu_reclaim

assert metadata.version("jupyter_gpu_reclaim") == jupyter_gpu_reclaim.__version__
package = pathlib.Path(jupyter_gpu_reclaim.__file__).parent
assert (package / "py.typed").exists()
lab = pathlib.Path(sys.prefix) / "share/jupyter/labextensions/jupyter-gpu-reclaim"
assert json.loads((lab / "package.json").read_text())["version"] == jupyter_gpu_reclaim.__version__
assert list((lab / "static").glob("remoteEntry.*.js"))
assert (lab / "static" / "third-party-licenses.json").exists()
listed = subprocess.run(["jupyter", "server", "extension", "list"], capture_output=True, text=True, check=True)
assert "jupyter_gpu_reclaim" in (said := listed.stdout + listed.stderr) and "OK" in said, said
told = subprocess.run(["jupyter", "gpu-reclaim", "doctor", "--json"], capture_output=True, text=True)
levels = {finding["check"]: finding["level"] for finding in json.loads(told.stdout)["findings"]}
assert levels["server"] == "ok" and levels["labextension"] == "ok" and levels["database"] == "ok", levels
print("python", sys.version.split()[0], levels)
PYTHON
