"""`jupyter gpu-reclaim report`."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime

from jupyter_gpu_reclaim.log_config import REPORT_SETTINGS
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.place import configured
from jupyter_gpu_reclaim.reclaim_log.usage import UsageStore
from jupyter_gpu_reclaim.report import making, render, words

RENDER = {"table": render.as_table, "json": render.as_json, "html": render.as_html}


async def report(arguments: Namespace) -> str:
    """The report as text in the format asked for; what is not given as an option is as Jupyter is configured.

    Raises `Misread`, `NoLog`, `NoIntensity`, `LogUnavailable`.
    """
    url = words.db_url(arguments)
    given = {
        name: getattr(arguments, name) for name in REPORT_SETTINGS if getattr(arguments, name) is not None
    }
    assumptions = making.assumed({"currency": "EUR", **configured(), **given})
    since, until = words.instant(arguments.since), words.instant(arguments.until) or datetime.now(UTC)
    log = SqlReclaimLog(url)
    try:
        return RENDER[arguments.format](await making.make(UsageStore(log, ""), since, until, assumptions))
    except ValueError as error:
        raise words.Misread(str(error)) from error
    finally:
        await log.close()
