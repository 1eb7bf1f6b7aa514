import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.config.units import format_memory, format_time, parse_memory, parse_time, slurm_time
from l3hpc.errors import InputError


@pytest.mark.parametrize(("text", "mib"), [
    ("16GB", 16384), ("16G", 16384), ("16 GiB", 16384), ("512MB", 512), ("1.5TB", 1572864),
    ("1k", 1), ("2048k", 2),
])
def test_memory(text, mib):
    assert parse_memory(text) == mib


@pytest.mark.parametrize("text", ["16", "", "GB", "-1GB", "1e3GB", "0GB", "16GB;x", "9999999TB"])
def test_memory_refused(text):
    with pytest.raises(InputError, match="memory"):
        parse_memory(text)


@pytest.mark.parametrize(("text", "minutes"), [
    ("4h", 240), ("7d", 10080), ("90m", 90), ("45s", 1), ("1d12h", 2160), ("1d 12h", 2160),
    ("1-00:00:00", 1440), ("12:00:00", 720), ("0:00:30", 1), ("2-12", 3600), ("0.5h", 30),
    ("20min", 20), ("20 minutes", 20), ("1 hour 30 min", 90), ("2days", 2880), ("90sec", 2),
])
def test_time(text, minutes):
    assert parse_time(text) == minutes


@pytest.mark.parametrize("text", ["60", "4:00", "", "h", "-4h", "4w", "0h", "99999d", "5mi",
                                  "3hour5", "4h\n#SBATCH --x"])
def test_time_refused(text):
    with pytest.raises(InputError, match="time limit"):
        parse_time(text)


@given(st.integers(1, 525_600))
def test_slurm_time_reads_back(minutes):
    assert parse_time(slurm_time(minutes)) == minutes


@given(st.integers(1, 525_600))
def test_shown_time_reads_back(minutes):
    assert parse_time(format_time(minutes)) == minutes
    assert parse_time(format_time(minutes).replace(" ", "")) == minutes


@pytest.mark.parametrize(("mib", "text"), [(512, "512 MB"), (16384, "16 GB"), (1536, "1.5 GB"),
                                           (1048576, "1 TB"), (1023, "1023 MB")])
def test_shown_memory(mib, text):
    assert format_memory(mib) == text
