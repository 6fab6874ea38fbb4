#!/usr/bin/env bash
# The wheel in an environment with nothing but pip, and with neither node nor a compiler on the PATH: it installs, the
# server loads it, `jupyter lab` shows its sidebar in a browser, and the sdist gives the same wheel once more.
# Usage: tests/wheel.sh WHEEL SDIST BROWSER_PYTHON (the last has playwright and this checkout)
set -euo pipefail
wheel=$(realpath "$1")
sdist=$(realpath "$2")
browser_python=$(realpath --no-symlinks "$3")
tests=$(realpath "$(dirname "$0")")
everywhere=$PATH
folder=$(mktemp -d)
trap '/bin/rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
export PATH="$folder/venv/bin" HOME="$folder" JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_DATA_DIR="$folder/data"
for tool in node npm g++ c++; do
    if command -v "$tool"; then echo "$tool is in reach, so this shows nothing"; exit 1; fi
done
pip install --quiet "$wheel"
cd /
python - <<'PYTHON'
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

pip wheel --quiet --no-deps --wheel-dir "$folder/again" "$sdist"
python - "$wheel" "$folder"/again/*.whl <<'PYTHON'
import sys, zipfile

tree, sdist = ({entry.filename: entry.CRC for entry in zipfile.ZipFile(path).infolist()} for path in sys.argv[1:])
different = sorted(name for name in tree.keys() | sdist.keys() if tree.get(name) != sdist.get(name))
assert not different, f"the wheel of the sdist differs from the tree's in {different}"
print("the sdist gives the same wheel:", len(tree), "files")
PYTHON

pip install --quiet 'jupyterlab>=4.6,<5'
PATH="$everywhere" "$browser_python" "$tests/ui/installed_lab.py" "$folder/venv"
