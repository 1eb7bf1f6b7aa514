"""The page holds every row and epoch, runs without network, and takes text only as text."""

import html
import json
import re
import shutil
import subprocess

import pytest

from l3hpc.ledger.columns import TABS
from l3hpc.ledger.fold import Row
from l3hpc.ledger.html import write_html
from l3hpc.ledger.store import SyncState

MSE = TABS["embedding_approx_mse"]
EVIL = "</script><img src=x onerror=\"document.body.dataset.evil=1\"><!--<script>\u2028"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def row(name, loss, **beside):
    made = Row(MSE, (f"/m/{name}",), {"model_dir": f"/m/{name}", "best_validation_loss": loss},
               beside=beside, first_time=1.0, last_time=1.0)
    made.epochs = {epoch: {"validation_loss": loss + 1 / (epoch + 1), "train_loss": "NaN",
                           "time": 1.0} for epoch in range(3)}
    return made


ROWS = [row("a", 0.5, state="finished"), row("b", 0.4, note="random-weight teacher", log="/x/y"),
        row("c", 0.9, state="running", note=EVIL)]


@pytest.fixture
def page(tmp_path):
    state = SyncState("id", problems=[{"kind": "conflict", "tab": MSE.name, "key": ["/m/a"],
                                       "text": ""}])
    write_html(tmp_path / "r.html", {MSE: ROWS}, state, now=1e6)
    return tmp_path / "r.html"


def data(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>',
                      page.read_text(), re.DOTALL)
    return json.loads(found[1])


def test_every_row_epoch_and_label_is_in_the_page(page):
    (tab,) = data(page)["tabs"]
    assert [column[0] for column in tab["columns"]] == MSE.titles
    first, second, third = tab["rows"]
    assert second["best"] and not first["best"]
    assert second["note"] == "random-weight teacher" and second["links"] == {"log": "/x/y"}
    assert first["curves"]["epoch"] == [0, 1, 2]
    assert first["curves"]["validation_loss"] == [1.5, 1.0, 0.833333]
    assert first["curves"]["train_loss"] == [None, None, None]
    assert first["marks"] == ["finished", "conflict"]
    assert second["marks"] == ["not synced"] and third["marks"] == ["stale", "not synced"]
    assert third["note"] == EVIL


def test_the_page_needs_no_network(page):
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert text.count("</script>") == 2  # text from journals cannot end a script


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_the_page_draws_in_a_browser(page, tmp_path):
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/u",
         "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    body = done.stdout.split("</style>")[1]
    assert int(re.search(r'data-ready="(\d+)"', body)[1]) < 10_000
    assert "data-evil" not in body
    table = re.search(r'<tbody id="body">(.*?)</tbody>', body, re.DOTALL)[1]
    order = list(dict.fromkeys(re.findall(r"/m/[abc]", table)))
    assert order == ["/m/b", "/m/a", "/m/c"]
    assert "random-weight teacher" in table and html.escape(EVIL[:9]) in table
    assert len(re.findall("<polyline", body)) == 3
