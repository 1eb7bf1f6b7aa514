"""A report for the tests, and a headless browser in which to open its page."""

import json
import os
import re
import shutil
import subprocess

import pytest

from l3hpc.report.data import (
    Changed,
    Link,
    Problem,
    ReportData,
    Span,
    StepFacts,
    StepFiles,
    StepTimes,
    TaskTimes,
)
from l3hpc.report.ledger_rows import LedgerRow
from l3hpc.report.results import (
    Bin,
    Calibration,
    Comparison,
    Curve,
    Detected,
    Detection,
    Epoch,
    Metric,
    Network,
    Scores,
    SensorScore,
    Variance,
    Variant,
)
from l3hpc.runs.usage import StepUsage

OWN_HOSTS = re.compile(r"https?://([a-z0-9-]+\.)*(googleapis\.com|google\.com|gvt1\.com)[/:]")


@pytest.fixture
def report_data() -> ReportData:
    curves = tuple(
        Curve(tag, auprc, (0.0, 0.25, 0.5, 1.0), (1.0, 0.8, 0.6, 0.25), 6, 24)
        for tag, auprc in (("engine", 0.6125), ("dog", 0.4375)))
    return ReportData(
        run="demo-1", created="20 November 2026", teacher="untrained L3 (seed 7)",
        teacher_trained=False,
        epochs=(Epoch(1, 1.25, 1.5, 0.75, 0.875), Epoch(2, 0.625, 0.8125, 0.5, 0.55),
                Epoch(3, 0.5, 0.9375, 0.45, 0.5625)),
        variance=Variance("pca", 512, 2, 500, (0.5, 0.25, 0.125)),
        scores=(Scores("validate", "coarse", 0.5432, 0.4321, 0.3456, curves),
                Scores("test", "coarse", 0.5111, 0.4222, 0.3333, detection=Detection(
                    Calibration(0.125, 0.1875, 0.0625, (
                        Bin(0.0, 0.5, 1250, 0.125, 0.25), Bin(0.5, 1.0, 0, None, None)),
                        {"1_engine": Calibration(0.2345, 0.25, None)}),
                    (Detected("1_engine", 0.375, True, 6, 0.5, 1.0, 0.6667, 0.25),
                     Detected("8_dog", 0.5, False, 0, None, None, None, None)),
                    0.7131, 0.6131, 0.5131, 0.4131,
                    (SensorScore("7", 20, 31, 0.7321), SensorScore("12", 4, 3, None))))),
        networks=(Network("L3 (teacher)", "48000 Hz, 256 mels", 512, 4_691_908, 256 * 199 * 64),
                  Network("student", "8000 Hz, 64 mels", 128, 584_420, 64 * 50 * 32)),
        model_file="student.h5", model_bytes=2_404_321,
        steps=(StepFacts("extract", (), "done", 4, 4, 125.0, "1,512 rows", "7c1e22ab00112233"),
               StepFacts("fit", ("extract",), "reused", 1, 1, 1.5),
               StepFacts("reduce", ("extract", "fit"), "failed", 4, 3, None, "disk full")),
        state="failed", next_command="l3hpc resume demo-1",
        problems=(Problem("reduce", "failed", "disk full", ("No space left on device",)),),
        timeline=(StepTimes("extract", tuple(TaskTimes(index, f"7_{index}", (
            Span("waiting", 0.0, 5.0), Span("queued", 5.0, 60.0 + index),
            Span("requeued", 70.0, 80.0, "out of memory"), Span("running", 80.0, 200.0 + index)))
            for index in range(4)), 2, StepUsage(
                "extract", 4, 4, 16384, 1, 240, 1.8, 1500.0, 120.0, 60.0, 0.1, 0.5, 0.1, 1, None,
                "mem=2GB", 16384, 240)),),
        files=(StepFiles("extract", "l3hpc run extract --config c.json", "#!/bin/bash\nsrun x",
                         "a log line", "/w/logs/7_0.err"), StepFiles("fit", "l3hpc run fit")),
        changed=(Changed("fit", "emb_dim", "2", "128"), Changed("extract", "audio", "/data")),
        links=(Link("demo-0", "computed fit", "../demo-0/report.html"), Link("demo-00", "gone")),
        sweep=Comparison(("emb-dim", "rate"), (Metric("Micro AUPRC", "higher"), Metric("rows")),
                         tuple(Variant(f"emb-dim={2 ** index}, rate=0.1", {
                             "emb-dim": str(2 ** index), "rate": "0.1"}, "done", {
                             "Micro AUPRC": index / 10, "rows": 5.0}, (
                             Epoch(1, 1.0, 2.0), Epoch(2, 0.5, 1.0 + index)), "12 rows")
                             for index in range(12))),
        ledger=(LedgerRow("embedding_approx_mse", (("Username", "ada"), ("Emb key", "-"))),),
        provenance=(("Seed", "20180216"),))


class Browser:
    """Opens a page in headless Chromium and tells what it did."""

    def __init__(self, program: str, folder) -> None:
        self.program, self.folder = program, folder

    def open(self, page) -> tuple[str, list[str], list[str]]:
        """The DOM after loading, the console's messages, and the URLs that were asked for."""
        log = self.folder / "net.json"
        done = subprocess.run(
            [self.program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", f"--user-data-dir={self.folder / 'profile'}",
             "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
             f"--log-net-log={log}", "--dump-dom", page.as_uri()],
            capture_output=True, text=True, timeout=240, check=True)
        console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        urls = set(re.findall(r'"url":\s*"([^"]+)"', log.read_text(errors="replace")))
        outside = sorted(url for url in urls
                         if not url.startswith(("file:", "data:")) and not OWN_HOSTS.match(url))
        return done.stdout, console, [json.loads(f'"{url}"') for url in outside]


@pytest.fixture
def browser(tmp_path) -> Browser:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is missing; the report page must be looked at in CI")
        pytest.skip("Chromium is not installed: the report page was not opened")
    folder = tmp_path / "browser"
    folder.mkdir()
    return Browser(program, folder)
