"""The page holds every row and epoch, runs without network, and takes text only as text."""

import html
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from l3hpc.errors import InputError
from l3hpc.ledger.cells import cells
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.store import SyncState
from l3hpc.ledger.views.exports import check_html, write_html

pytestmark = pytest.mark.slow

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))

MSE = TABS["embedding_approx_mse"]
EVIL = "</script><img src=x onerror=\"document.body.dataset.evil=1\"><!--<script>\u2028"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser_only = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


def row(name, loss, **beside):
    made = Row(MSE, (f"/m/{name}",), {"model_dir": f"/m/{name}", "best_validation_loss": loss},
               extra=beside, first_time=1.0, last_time=1.0)
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


def test_only_a_page_of_results_is_replaced(page):
    check_html(page)
    check_html(page.with_name("new.html"))
    page.with_name("notes.txt").write_text("how l3hpc makes a page of results")
    for other in (page.with_name("notes.txt"), page.parent):
        with pytest.raises(InputError, match="not a page of results of l3hpc|is a folder"):
            check_html(other)


def data(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>',
                      page.read_text(), re.DOTALL)
    return json.loads(found[1])


def test_every_row_epoch_and_label_is_in_the_page(page):
    (tab,) = data(page)["tabs"]
    assert [column[0] for column in tab["columns"]] == [
        column.label for column in MSE.columns]
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


@browser_only
def test_the_page_draws_in_a_browser(page, tmp_path):
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/u",
         "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=240)
    body = done.stdout.split("</style>")[1]
    assert int(re.search(r'data-ready="(\d+)"', body)[1]) < 10_000
    assert "data-evil" not in body
    table = re.search(r'<tbody id="body">(.*?)</tbody>', body, re.DOTALL)[1]
    order = list(dict.fromkeys(re.findall(r"/m/[abc]", table)))
    assert order == ["/m/b", "/m/a", "/m/c"]
    assert "random-weight teacher" in table and html.escape(EVIL[:9]) in table
    assert len(re.findall("<polyline", body)) == 3


# driven as a person drives it ----------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    from chromium import Browser
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


def large(count=1000, epochs=100):
    rows = []
    for number in range(count):
        name = f"/scratch/ada/sea/runs/upstream-{number:04d}/artifacts/train"
        made = Row(MSE, (name,), {
            "model_dir": name, "username": ("ada", "bob")[number % 2], "num_epochs": epochs,
            "student_emb_len": 64 * (1 + number % 4), "approx_mode": ("pca", "umap")[number % 2],
            "latest_epoch": epochs - 1, "best_validation_loss": (number * 7919 % 1000) / 1000},
            extra={"state": "finished"}, first_time=1.0, last_time=1.0)
        made.epochs = {epoch: {"validation_loss": 1 / (epoch + 1 + number % 9), "train_loss":
                               0.9 / (epoch + 1), "time": 1.0} for epoch in range(epochs)}
        rows.append(made)
    return rows


def test_a_thousand_rows_are_interactive_in_two_seconds(browser, tmp_path):
    """Of three loads the fastest counts: another program may hold the machine up."""
    write_html(tmp_path / "r.html", {MSE: large()})
    times = []
    for _ in range(3):
        browser.open((tmp_path / "r.html").as_uri())
        times.append(int(browser.js("document.body.dataset.ready")))
        assert browser.js("document.querySelectorAll('#body tr').length") == 1000
    assert min(times) < 2000, times
    spent = browser.js("(() => { const start = performance.now(); const box = $('filter');"
                       "box.value = '0123'; box.dispatchEvent(new Event('input'));"
                       "return performance.now() - start; })()")
    assert browser.js("$('count').textContent").startswith("1 of 1000 rows") and spent < 2000


def states(tmp_path):
    rows = [row("running", 0.5, state="running"), row("stale", 0.6, state="running"),
            row("failed", 0.7, state="failed"), row("done", 0.4, state="finished"),
            row("quarrel", 0.8, state="finished"), row("gone", 0.9, state="finished")]
    for each, moment in zip(rows, (999_000.0, 1.0, 1.0, 1.0, 1.0, 1.0), strict=True):
        each.last_time = moment
    state = SyncState("id", problems=[
        {"kind": kind, "tab": MSE.name, "key": [f"/m/{name}"], "text": ""}
        for kind, name in (("conflict", "quarrel"), ("deleted", "gone"))])
    state.confirm(rows[3], cells(rows[3]))
    write_html(tmp_path / "r.html", {MSE: rows, TABS["sonyc_ust"]: []}, state, now=1e6)
    return (tmp_path / "r.html").as_uri()


def test_the_states_of_rows(browser, tmp_path):
    browser.open(states(tmp_path))
    shown = browser.js(
        "Object.fromEntries([...document.querySelectorAll('#body tr')].map(line => [line.querySel"
        "ector('input').getAttribute('aria-label').slice(11), [...line.querySelectorAll('.mark')]"
        ".map(mark => mark.textContent)]))")
    assert shown == {
        "running": ["running", "not synced"], "stale": ["stale", "not synced"],
        "failed": ["failed", "not synced"], "done": ["finished"],
        "quarrel": ["finished", "conflict"], "gone": ["finished", "deleted"]}
    red = browser.js("[...document.querySelectorAll('.mark')].filter(mark => getComputedStyle(mark)"
                     ".color === getComputedStyle(document.querySelector('.mark.failed')).color)"
                     ".map(mark => mark.textContent).sort().join()")
    assert red == "conflict,deleted,failed,stale"
    browser.screenshot(tmp_path / "states.png")
    assert (tmp_path / "states.png").stat().st_size > 20_000


def test_everything_by_keyboard(browser, tmp_path):
    browser.open(states(tmp_path))
    active = "document.activeElement.id || document.activeElement.getAttribute('aria-label')"
    browser.press("/")
    assert browser.js(active) == "filter" and browser.js("$('filter').value") == ""
    for letter in "stale":
        browser.press(letter)
    assert browser.js("$('count').textContent").startswith("1 of 6 rows")
    for _ in "stale":
        browser.do("Input.dispatchKeyEvent", type="keyDown", key="Backspace", code="Backspace",
                   windowsVirtualKeyCode=8)
    assert browser.js("document.querySelectorAll('#body tr').length") == 6
    seen = []
    for _ in range(20):  # through the bar, the titles, to the first row's box
        browser.press("Tab")
        seen.append(browser.js(active))
        if str(seen[-1]).startswith("compare"):
            break
    assert "all" in seen and any(str(each).startswith("sort") for each in seen)
    assert seen[-1] == "compare /m/done"
    browser.press(" ")
    browser.press("Tab")
    browser.press(" ")
    chosen = "[...document.querySelectorAll('#pair thead th')].map(th => th.title).join()"
    assert browser.js(chosen) == ",/m/done,/m/running"
    assert browser.js("document.querySelectorAll('#plot polyline').length") == 2
    assert browser.js("!$('chosen').hidden && $('ticked').textContent") == "2 ticked"
    browser.js("document.querySelector('thead th[aria-sort] button').focus()")
    browser.press("Enter")
    first = "document.querySelector('#body input').getAttribute('aria-label')"
    assert browser.js(first) == "compare /m/gone"
    assert browser.js("document.querySelector('thead th[aria-sort]').ariaSort") == "descending"
    browser.js("$('tabs').children[0].focus()")
    browser.press("ArrowRight")
    assert browser.js("$('count').textContent").startswith("0 rows")
    browser.press("ArrowLeft")
    assert browser.js("document.querySelectorAll('#body tr').length") == 6


def test_curves_hold_every_epoch_and_values_compare(browser, tmp_path):
    write_html(tmp_path / "r.html", {MSE: large(20, epochs=40)})
    browser.open((tmp_path / "r.html").as_uri())
    points = browser.js("[...document.querySelectorAll('#plot polyline')].map(line => "
                        "line.getAttribute('points').split(' ').length).join()")
    assert points == "40,40,40,40"  # of the four best runs
    metrics = browser.js("[...$('metric').options].map(option => option.value).join()")
    assert metrics == "train_loss,validation_loss"
    browser.screenshot(tmp_path / "page.png")


def axis(browser, name):
    return browser.js(f"[...document.querySelectorAll('#plot text.{name}')].map(text =>"
                      " Number(text.textContent))")


def test_ticks_are_regular(browser, tmp_path):
    """Multiples of 1, 2 or 5, also where a training ended at an odd epoch."""
    made = row("a", 0.1)
    made.epochs = {epoch: {"validation_loss": 10.0 ** -(epoch / 10)} for epoch in range(37)}
    write_html(tmp_path / "r.html", {MSE: [made]})
    browser.open((tmp_path / "r.html").as_uri())
    assert browser.js("$('count').textContent").startswith("1 row, ")
    label = browser.js("$('plot').getAttribute('aria-label')")
    assert label == "validation_loss per epoch of 1 run"
    assert axis(browser, "x") == [5, 10, 15, 20, 25, 30, 35]
    assert axis(browser, "y") == [0, 0.2, 0.4, 0.6, 0.8, 1]
    browser.js("$('log').click()")
    assert axis(browser, "y") == [0.001, 0.01, 0.1, 1]
    assert browser.js("ticks(3, 3.4, 5, 1).concat(logTicks(0.3, 7), logTicks(1e-30, 1))") == [
        3, 0.5, 1, 2, 5, *(float(f"1e{power}") for power in range(-30, 1, 5))]


def test_a_note_is_not_cut_where_there_is_room(browser, tmp_path):
    note = "random-weight teacher: shows that the chain works, not how well"
    write_html(tmp_path / "r.html", {MSE: [row("a", 0.5, note=note, state="finished")]})
    browser.open((tmp_path / "r.html").as_uri())
    cell = "document.querySelector('#body .note').parentElement"
    assert browser.js(f"{cell}.scrollWidth <= {cell}.clientWidth && {cell}.clientWidth > 300")


def test_the_legend_has_a_note_of_all_rows_once_and_times_are_iso(browser, tmp_path):
    def curve(name, note):
        made = row(name, 0.1, note=note)
        made.epochs = {0: {"validation_loss": 0.5}, 1: {"validation_loss": 0.1}}
        return made

    legends = {}
    for notes in (("random", "random"), ("random", "other"), ("random",)):
        rows = [curve(f"r{number}", note) for number, note in enumerate(notes)]
        write_html(tmp_path / "l.html", {MSE: rows}, now=1_764_000_000)
        browser.open((tmp_path / "l.html").as_uri())
        browser.js("document.querySelectorAll('#body input').forEach(box => box.click())")
        legends[notes] = browser.js("$('legend').textContent")
    assert list(legends.values()) == [
        "/m/r0/m/r1all: random", "/m/r0 (random)/m/r1 (other)", "/m/r0"]
    made = time.strftime("made %Y-%m-%d %H:%M:%S", time.localtime(1_764_000_000))
    assert browser.js("$('made').textContent") == made
    assert re.fullmatch(r"last record\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", browser.js(
        "[...document.querySelectorAll('#pair tr')].map(each => each.textContent)"
        ".find(text => text.startsWith('last record'))"))


def test_a_phone_shows_the_curves_of_any_ticked_row(browser, tmp_path):
    """A classifier has no epochs of its own: its student's are shown."""
    ust = TABS["sonyc_ust"]
    scores = [Row(ust, ("/o/" + "long-name/" * 9, run), {"output_dir": "/o", "exp_id": run,
                                                         "micro_auprc": 0.5},
                  extra={"run": run, "model_dir": student, "state": "finished"})
              for run, student in (("upstream-20261120-1a2b", "/m/a"), ("again", "/m/a"),
                                   ("other", "/m/gone"))]
    for each in scores:
        each.values["--run"] = each.extra["run"]
    write_html(tmp_path / "r.html", {MSE: ROWS, ust: scores})
    browser.do("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1,
               mobile=True)
    try:
        note = row("a", 0.1, note="random-weight teacher; " + "a reason of several words " * 6)
        write_html(tmp_path / "note.html", {MSE: [note]})
        browser.open((tmp_path / "note.html").as_uri())
        # a line of its own, wrapped within what is seen, wherever the table is scrolled to
        assert browser.js("getComputedStyle(document.querySelector('#body .note')).display"
                          ) == "none"
        for columns in (2, 30):
            seen = browser.js("(() => { const text = document.createRange(), box = document"
                              ".querySelector('.scroll').getBoundingClientRect();"
                              "text.selectNodeContents(document.querySelector('.below div'));"
                              "const { left, right, height } = text.getBoundingClientRect();"
                              "return [left >= box.left, right <= box.right, height > 50] })()")
            assert seen == [True, True, True], columns
            if columns == 2:
                browser.js("$('all').click(); document.querySelector('.scroll').scrollLeft = 700")
                assert browser.js("document.querySelector('.scroll').scrollLeft") == 700
        browser.js("document.querySelector('#body input').click()")
        assert browser.js("document.querySelectorAll('#body tr.pick').length") == 2
        browser.open((tmp_path / "r.html").as_uri())
        browser.js("$('tabs').children[1].click(); $('all').click();"
                   "document.querySelectorAll('#body input').forEach(box => box.click())")
        assert browser.js("document.documentElement.scrollWidth") == 390
        assert browser.js("$('legend').textContent") == (
            "/m/a: the student of upstream-20261120-1a2b, again")
        assert browser.js("$('without').textContent") == "No epochs: other"
        assert browser.js("document.querySelectorAll('#plot polyline').length") == 1
        assert browser.js("$('plot').viewBox.baseVal.width") == browser.js("$('frame').clientWidth")
        browser.js("document.querySelector('#chosen a').click()")
        browser.until("$('curves').getBoundingClientRect().top < 400")
        browser.js("$('clear').click()")
        assert browser.js("$('chosen').hidden")
    finally:
        browser.do("Emulation.clearDeviceMetricsOverride")


BROKEN = """(() => { const broken = [];
for (const cell of document.querySelectorAll('thead th button, #pair th[scope=row]')) {
  const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), range = new Range();
  for (let node; node = walk.nextNode();)
    for (const word of node.data.matchAll(/[A-Za-z]+/g)) {
      range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
      const tops = new Set([...range.getClientRects()].map(box => box.top));
      if (tops.size > 1) broken.push(word[0]);
    } }
return broken.join() })()"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_heading_breaks_within_a_word(browser, tmp_path, width):
    rows = [row("a", 0.1), row("b", 0.2)]
    for made in rows:
        made.values |= {name: f"{made.key[0]} {name}" for name in ("username", "approx_mode")}
        made.extra["student_run"] = f"upstream-{made.key[0][-1]}"
    write_html(tmp_path / "w.html", {MSE: rows})
    browser.do("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1,
               mobile=width < 600)
    try:
        browser.open((tmp_path / "w.html").as_uri())
        browser.js("$('all').click()")
        assert "Approximation mode" in browser.js("$('pair').textContent")
        assert "student runupstream-aupstream-b" in browser.js("$('pair').textContent")
        assert browser.js(BROKEN) == ""
        assert browser.js("document.documentElement.scrollWidth") == width
    finally:
        browser.do("Emulation.clearDeviceMetricsOverride")
