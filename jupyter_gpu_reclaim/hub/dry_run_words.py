"""What a dry run says of itself: what it does not know."""

NOT_MODELLED = (
    "The log has no cells; samples of what was held, kept by the minute for two days, say when a notebook was idle. A "
    "rest comes out too short by up to two minutes, and a cell too short for a sample, taken every ten seconds, does "
    "not end one.",
    "Before the samples begin, a notebook is taken to be in use from a restore until it had been idle for as long as "
    "the rules in force ask, or to the end where it was not reclaimed again. Rests shorter than that are not seen: "
    "rules that reclaim sooner may bring more GiB-h and more waits than are counted here. A notebook counts from the "
    "last use before its first reclaim, from its first restore, or from when a sample first shows it.",
    "Not in it: notebooks that no sample shows and that were neither reclaimed nor restored, kernels on several GPUs, "
    "what others did on the GPUs, pins, reclaims by hand, early restores, background work, and alarms.",
    "Users' own tighter settings are not known here: everybody is taken to have the defaults within the rules. The "
    "rules in force, overrides included, are taken to have held all the time, and groups to be as last heard of; of "
    "whom nothing was heard lately only the name is known, and of kernels that are gone no kernelspec.",
    "Users with different settings are replayed as if each group of equals had the GPU to itself, so that waits of one "
    "for the other's room are not counted. Host memory is taken to suffice, and contexts to need no room.",
    "A move takes as long as was published for one card (4 GB/s out, 7 GB/s in, after 0.05 s), not as measured here.",
)
NOTHING = "The log has no reclaim, no restore and no use of this time that could be replayed."
MAY_BE_MORE = "There may have been more of both: rests too short for the rules in force are not in the log."
MORE_BEFORE = (
    "There may have been more of both: rests too short for the rules in force are known from "
    "{:%Y-%m-%d %H:%M} UTC on."
)
