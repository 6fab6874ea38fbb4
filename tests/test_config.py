"""The settings make the policy, and say what is wrong with a value."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta

import pytest
from traitlets import TraitError
from traitlets.config import Config, Configurable

from jupyter_gpu_reclaim.config import PolicyTraits
from jupyter_gpu_reclaim.core.model import OF_RULES, Policy


class GpuReclaim(PolicyTraits, Configurable):
    """The mixin as the server extension uses it."""


def test_the_defaults_are_the_policys():
    """Nothing set, the policy is the one the core knows, so no default is written twice."""
    assert GpuReclaim().to_policy() == Policy()


def test_every_setting_reaches_the_policy_under_its_own_name():
    """A figure set for each trait arrives in the field of that name; none is renamed or forgotten on its way."""
    config, expected = Config(), {}
    config.GpuReclaim.spill_dir = "/disk"  # without it nothing may be spilled
    for i, field in enumerate(fields(Policy), start=3):
        if field.name in OF_RULES:
            continue
        value = getattr(Policy(), field.name)
        if field.name == "mode":
            config.GpuReclaim.mode = expected["mode"] = "dry_run"
        elif field.name == "max_moving_share":
            config.GpuReclaim.max_moving_share = expected[field.name] = 0.25
        elif field.name == "priorities":
            config.GpuReclaim.priorities = expected[field.name] = {"demo/*": -1}
        elif isinstance(value, timedelta):
            config.GpuReclaim[f"{field.name}_seconds"] = i + 0.5
            expected[field.name] = timedelta(seconds=i + 0.5)
        else:
            config.GpuReclaim[field.name] = expected[field.name] = i
    assert GpuReclaim(config=config).to_policy() == Policy(**expected)


def test_without_a_folder_nothing_is_spilled():
    """The default is no disk at all, whatever its limit says."""
    assert GpuReclaim(spill_limit_bytes=7).to_policy().spill_limit_bytes == 0


@pytest.mark.parametrize(("verify", "episodes"), [("always", None), ("never", 0), (3, 3)])
def test_what_is_verified_is_a_number_of_reclaims(verify, episodes):
    """Always is all of them, never is none, and a number is itself."""
    assert GpuReclaim(verify=verify).verify_episodes == episodes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "dry-run"),
        ("idle_after_seconds", -1),
        ("idle_after_seconds", float("nan")),
        ("idle_after_seconds", float("inf")),
        ("idle_after_seconds", "20 min"),
        ("headroom_bytes", -1),
        ("headroom_bytes", 1.5),
        ("headroom_bytes", "2GiB"),
        ("max_in_flight", 0),
        ("tick_seconds", 0),
        ("harmless_modules", [1]),
        ("verify", "sometimes"),
        ("verify", 0),
        ("max_moving_share", 1.5),
        ("max_running_per_gpu", -1),
        ("priorities", {"demo/*": "low"}),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(name, value):
    """The error names the setting, and nothing runs with a figure nobody meant."""
    with pytest.raises(TraitError, match=name):
        GpuReclaim(**{name: value})


def test_every_setting_can_be_configured_and_explains_itself():
    """Each has a help text that tells its unit where it has one, and the meaning of 0 or of nothing."""
    traits = PolicyTraits.class_own_traits(config=True)
    assert {
        "db_url",
        "tick_seconds",
        "sample_seconds",
        "orphan_seconds",
        "host_buffer_seconds",
        "harmless_modules",
    } < set(traits)
    for name, trait in traits.items():
        assert trait.help.endswith("."), name
        assert "efault" in trait.help, name
        if name.endswith("_seconds"):
            assert "econds" in trait.help, name
        if name.endswith("_bytes"):
            assert "ytes" in trait.help, name
        if name.endswith(("_seconds", "_bytes")):
            assert "0:" in trait.help or "0, the default:" in trait.help or "At least" in trait.help, name
