"""The settings of `jupyter gpu-reclaim lab`, for a machine with little memory; JupyterLab opens the guided notebook."""

from jupyter_gpu_reclaim.demo.lab import GUIDED, SETTINGS

c = get_config()  # noqa: F821
for name, value in SETTINGS.items():
    section, trait = name.split(".")
    setattr(c[section], trait, value)
c.GpuReclaim.host_reserve_bytes = 64 << 20
c.LabApp.default_url = f"/lab/tree/{GUIDED}"
