"""The one loop: observe → decide → record intent → act → record outcome."""

from jupyter_gpu_reclaim.reconciler.alarms import UnknownAlarm
from jupyter_gpu_reclaim.reconciler.loop import Reconciler
from jupyter_gpu_reclaim.reconciler.status import Status
from jupyter_gpu_reclaim.reconciler.wishes import InvalidPin, NotObserved, UnknownKernel

__all__ = ["InvalidPin", "NotObserved", "Reconciler", "Status", "UnknownAlarm", "UnknownKernel"]
