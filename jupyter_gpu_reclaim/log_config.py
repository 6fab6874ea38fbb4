"""The settings of the log and the report, as traits: what is kept, under which names, and what a report assumes."""

from __future__ import annotations

from typing import Any

from traitlets import Enum, Float, HasTraits, Int, Unicode

REPORT_SETTINGS = ("price_per_gpu_hour", "currency", "country", "grid_grams_per_kwh", "pue", "context_watts")


class LogTraits(HasTraits):
    """Mixed into the server extension with the policy's."""

    keep_log_days = Float(
        400.0,
        min=0,
        max=36500,
        help="""Days after which the log's episodes are deleted, and samples with them; at least one day. 0: never. The
        default, 400, lets a year be compared with the one before.""",
    ).tag(config=True)

    keep_log_rows = Int(
        1_000_000,
        min=0,
        help="""Most rows that the log keeps: of more, the oldest episodes are deleted, but none of the last day. 0:
        without limit. The default, 1,000,000, takes about a gigabyte.""",
    ).tag(config=True)

    personal_data = Enum(
        ("plain", "hashed", "omitted"),
        default_value="plain",
        help="""How the log keeps the names of users and notebooks. "plain": as they are. "hashed": each as a word that
        stands for it, the same every time, made with a key in Jupyter's data directory. "omitted": not at all. It
        holds for rows from now on. The default is "plain", since the log is its user's own unless it is shared.""",
    ).tag(config=True)

    price_per_gpu_hour = Float(
        0.0,
        min=0,
        help="""What a GPU-hour costs, for the report. 0, the default: not said, and the report names no money.""",
    ).tag(config=True)

    currency = Unicode("EUR", help="""The money that `price_per_gpu_hour` is in. The default is EUR.""").tag(
        config=True
    )

    country = Unicode(
        "",
        help="""Where the electricity comes from, for the report's carbon: three letters such as FRA. Needs the extra
        `carbon`. "", the default: not said, and the report names no carbon.""",
    ).tag(config=True)

    grid_grams_per_kwh = Float(
        0.0,
        min=0,
        help="""Grams of CO2 for a kWh, instead of the table's for `country`. 0, the default: the table's.""",
    ).tag(config=True)

    pue = Float(
        1.0,
        min=1,
        help="""Power of the whole building for each watt of its machines (PUE), for the report's energy. The default,
        1, counts none of the building's own.""",
    ).tag(config=True)

    context_watts = Float(
        0.0,
        min=0,
        help="""Watts that a process's context costs a GPU that is idle otherwise, as measured on yours, for the
        report's energy. 0, the default: a published figure where there is one for your GPU.""",
    ).tag(config=True)

    def report_settings(self) -> dict[str, Any]:
        """What the report assumes, by name."""
        return {name: getattr(self, name) for name in REPORT_SETTINGS}
