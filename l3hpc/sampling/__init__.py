"""A small, relevant and diverse subset: exact k-DPP, relative loudness, time frames, selection."""

from typing import TYPE_CHECKING

from l3hpc import _lazy

if TYPE_CHECKING:
    from l3hpc.arrays.features import FeatureRows as FeatureRows
    from l3hpc.sampling.kdpp import KDPP as KDPP
    from l3hpc.sampling.selection import Selection as Selection
    from l3hpc.sampling.selection import relative_loudness as relative_loudness
    from l3hpc.sampling.selection import select as select
    from l3hpc.sampling.selection import time_frames as time_frames
    from l3hpc.sampling.sensors import choose_sensors as choose_sensors

__all__ = ["FeatureRows", "KDPP", "Selection", "choose_sensors", "relative_loudness",
           "select", "time_frames"]
__getattr__, __dir__ = _lazy.attach(__name__, {
    "FeatureRows": "l3hpc.arrays.features",
    "KDPP": "l3hpc.sampling.kdpp",
    "Selection": "l3hpc.sampling.selection",
    "choose_sensors": "l3hpc.sampling.sensors",
    "relative_loudness": "l3hpc.sampling.selection",
    "select": "l3hpc.sampling.selection",
    "time_frames": "l3hpc.sampling.selection",
})
