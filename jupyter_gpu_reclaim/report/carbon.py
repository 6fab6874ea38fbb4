"""Grams of CO2 per kWh by country, from the table that codecarbon ships: offline, with its year."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

TABLE = Path("data/private_infra/global_energy_mix.json")


class NoIntensity(Exception):
    """No figure for this country; the message says what to do. There is no average to fall back on."""


def intensity(country: str) -> tuple[float, str]:
    """Grams per kWh and where that comes from. `country`: ISO 3166 alpha-3, such as FRA. Raises `NoIntensity`."""
    found = find_spec("codecarbon")  # looked up, not imported: its table is all that is needed
    if found is None or found.origin is None:
        raise NoIntensity(
            "The table of countries is codecarbon's: pip install 'jupyter_gpu_reclaim[carbon]', or set "
            "grid_grams_per_kwh."
        )
    countries = json.loads((Path(found.origin).parent / TABLE).read_text("utf-8"))
    entry = countries.get(country.upper())
    if entry is None or entry.get("carbon_intensity") is None:
        raise NoIntensity(
            f"No carbon intensity is known for {country!r}. Give a country as three letters (FRA, DEU, USA), "
            "or set grid_grams_per_kwh."
        )
    return float(entry["carbon_intensity"]), f"{entry['country_name']} {entry['year']}, codecarbon's table"
