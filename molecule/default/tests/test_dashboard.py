"""The dashboard in a browser, against what Cassandra holds; each page leaves a screenshot in .state/screenshots."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Iterator

import pytest
from crypto_stream.dashboard import formats
from PIL import Image
from playwright.sync_api import Browser, Error, Page, sync_playwright
from sandbox import ROOT, TARGET, playbook, port, wait_for
from stream import Stream
from testinfra.host import Host

SCREENSHOTS = ROOT / ".state/screenshots"
ADDRESS = f"http://127.0.0.1:{port('DASHBOARD_PORT', 8501)}"
PATHS = ["", "coin?coin=90", "pipeline"]
LIMIT_MS = 60_000
NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
LOADS = 3
# What the first message of the server needs is asked for after Playwright's own "networkidle" may have been.
QUIET = """
performance.now() - Math.max(...performance.getEntriesByType("resource").map((one) => one.responseEnd)) > 1000
"""
# Which hop is broken when a unit is stopped. Those of one row break one after the other; what is behind stays broken.
HOPS = [
    {"crypto-simulator": "api"},
    {"crypto-stream-job": "stream_job", "crypto-producer": "producer"},
    {"cassandra": "table", "kafka": "topic"},
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser_path = shutil.which("chromium")
    assert browser_path, "the package chromium is not installed"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        yield browser
        browser.close()


def opened(browser: Browser, path: str = "", *, width: int = 1280, dark: bool = False) -> Page:
    """A page that shows something current. Chromium ends all requests when an interface comes or goes, such as that of
    another scenario's host, and Streamlit does not ask for a part of a page again: then it is loaded anew."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    page.set_default_timeout(LIMIT_MS)
    failures: list[str | None] = []
    page.on("requestfailed", lambda request: failures.append(request.failure))
    for _ in range(LOADS):
        try:
            page.goto(f"{ADDRESS}/{path}")
            page.get_by_text("live", exact=True).or_(page.get_by_text("Data flows.")).first.wait_for()
            page.wait_for_function(QUIET)
        except Error:
            if NETWORK_CHANGED not in failures:
                raise
        if NETWORK_CHANGED not in failures:
            return page
        failures.clear()
    pytest.fail(f"interfaces came or went while /{path} was loaded, {LOADS} times in a row")


def settled(page: Page, name: str) -> None:
    """Take a screenshot when nothing moves any more."""
    page.wait_for_timeout(3000)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def cells(page: Page, name: str | re.Pattern[str]) -> list[str]:
    """The first row of a table that has this text. Tables are drawn; what they hold is there for screen readers."""
    row = page.locator('[data-testid="stDataFrame"] tr', has=page.locator("td", has_text=name)).first
    return row.locator("td").all_text_contents()


def wait_for_refreshes(page: Page) -> None:
    """Until the board has been sent anew, two times: its prices are others, or their looks."""
    board = page.get_by_test_id("stDataFrame").first
    for _ in range(2):
        before = board.text_content()
        wait_for(lambda before=before: board.text_content() != before, "a refresh of the board", 60)


def figure(page: Page, label: str) -> str:
    metric = page.get_by_test_id("stMetric").filter(has_text=label).first
    return metric.get_by_test_id("stMetricValue").inner_text()


def newest(stream: Stream) -> list[float]:
    """Bitcoin's last prices."""
    return [row.price_usd for row in stream.cql("SELECT price_usd FROM crypto.prices WHERE id = '90' LIMIT 4")]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_market_shows_what_cassandra_holds_and_goes_on(browser: Browser, stream: Stream, dark: bool) -> None:
    page = opened(browser, dark=dark)

    def shown() -> float:
        """Bitcoin's price on the page, when it is one of the newest."""
        price = float(cells(page, "Bitcoin")[3])
        return price if price in newest(stream) else 0

    first = wait_for(shown, "one of Bitcoin's newest prices on the page", 60)
    wait_for(lambda: shown() not in (0, first), "another price on the page, which was not loaded again", 60)

    def is_market_shown() -> bool:
        # The page is a few seconds behind.
        told = stream.cql("SELECT * FROM crypto.market_global WHERE month = %s LIMIT 4", month())
        summary = page.get_by_text("Market cap").first.inner_text()
        return any(
            f"Market cap {formats.amount(row.total_mcap_usd)} " in summary
            and f"Bitcoin's share {formats.share(row.btc_d)} " in summary
            for row in told
        )

    wait_for(is_market_shown, "the market as a whole on the page", 60)
    settled(page, f"market-{'dark' if dark else 'light'}")
    page.close()


def month() -> str:
    return time.strftime("%Y-%m", time.gmtime())


def test_search_and_a_click_open_a_coin_without_losing_the_search_at_a_refresh(browser: Browser, coins: int) -> None:
    page = opened(browser)
    page.get_by_placeholder("Name or symbol").fill("ether")
    page.get_by_placeholder("Name or symbol").press("Enter")
    page.get_by_text(f"of {coins} coins, 1 of 1 pages").wait_for()
    wait_for_refreshes(page)
    assert page.get_by_placeholder("Name or symbol").input_value() == "ether"
    table = page.get_by_test_id("stDataFrame").first
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    assert box is not None
    # The box in front of the first row.
    page.mouse.click(box["x"] + 16, box["y"] + 52)
    page.wait_for_url(re.compile(r"/coin\?coin=80"))
    page.get_by_role("heading", name=re.compile("Ethereum")).wait_for()
    page.close()


def test_an_order_is_that_of_cassandra_and_kept_at_a_refresh(browser: Browser, stream: Stream) -> None:
    page = opened(browser)
    page.get_by_test_id("stSelectbox").click()
    page.get_by_role("option", name="Losers, 24 h").click()

    def is_in_order() -> bool:
        rows = [row.locator("td").all_text_contents() for row in page.locator('[data-testid="stDataFrame"] tr').all()]
        # The head has no cells, and of some coins no change is known.
        changes = {row[1]: float(row[5]) for row in rows if row and re.fullmatch(r"-?[0-9.]+", row[5])}
        # Of the last poll: others have left the ranking.
        known = [row for row in stream.board().values() if row.percent_change_24h is not None]
        last = max(row.ts for row in known)
        least = min((row for row in known if row.ts > last - 1000), key=lambda row: row.percent_change_24h)
        shown = list(changes.values())
        return len(shown) > 5 and shown == sorted(shown) and next(iter(changes)) == least.name

    wait_for(is_in_order, "Cassandra's largest loss in the first row", 60)
    wait_for_refreshes(page)
    wait_for(is_in_order, "the same order after a refresh", 60)
    page.close()


def test_a_column_that_was_clicked_and_the_place_in_the_table_are_kept_at_a_refresh(browser: Browser) -> None:
    page = opened(browser)
    board = page.get_by_test_id("stDataFrame").first
    board.locator("td").first.wait_for(state="attached")
    box = board.bounding_box()
    assert box is not None

    def names() -> list[str]:
        rows = [row.locator("td").all_text_contents() for row in board.locator("tr").all()]
        return [row[1] for row in rows if row]

    page.mouse.click(box["x"] + 160, box["y"] + 16)  # Name, of which one click is from A to Z
    wait_for(lambda: names() == sorted(names(), key=str.casefold), "coins by name", 30)
    eleventh = names()[10]
    page.mouse.wheel(0, 320)  # ten rows
    wait_for(lambda: names()[0] == eleventh, "the eleventh coin as the first in sight", 30)
    before = names()
    wait_for_refreshes(page)
    assert (names(), board.locator(".dvn-scroller").evaluate("it => it.scrollTop")) == (before, 320)
    # What is the first in sight is neither the first nor the eleventh that was sent.
    page.mouse.click(box["x"] + 16, box["y"] + 52)
    page.get_by_role("heading", name=re.compile(re.escape(eleventh))).wait_for()
    page.close()


def test_the_board_needs_no_mouse(browser: Browser) -> None:
    page = opened(browser)

    def is_in_the_table() -> bool:
        page.keyboard.press("Tab")
        return bool(page.evaluate("document.activeElement.dataset.testid === 'data-grid-canvas'"))

    page.get_by_placeholder("Name or symbol").focus()
    wait_for(is_in_the_table, "the table, by way of the tab key", 30)
    page.keyboard.press("ArrowDown")
    wait_for_refreshes(page)
    name = page.evaluate("document.activeElement.parentElement.children[1].textContent")
    assert name
    page.keyboard.press("Shift+Space")
    page.get_by_role("heading", name=re.compile(re.escape(name))).wait_for()
    page.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_coin_has_its_candles_at_an_address_of_its_own(browser: Browser, stream: Stream, dark: bool) -> None:
    page = opened(browser, "coin?coin=90", dark=dark)

    def shown() -> bool:
        return figure(page, "Price") in [formats.price(price) for price in newest(stream)]

    wait_for(shown, "one of Bitcoin's newest prices on the page", 60)

    def titled() -> str:
        """The browser's title, when it has one of the newest prices."""
        title = page.title()
        prices = [formats.price(price) for price in newest(stream)]
        return title if title.endswith(" Bitcoin") and title.split()[0] in prices else ""

    first = wait_for(titled, "one of Bitcoin's newest prices in the title", 60)
    wait_for(lambda: titled() not in ("", first), "another price in the title of a page that was not loaded again", 60)

    def is_low_shown() -> bool:
        (day,) = stream.cql(
            "SELECT low FROM crypto.candles WHERE id = '90' AND interval = '1d' AND month = %s LIMIT 1", month()
        )
        return figure(page, "Low, today") == formats.price(day.low)

    wait_for(is_low_shown, "the low of the day on the page", 60)
    for name, interval in (("7D", "1h"), ("1H", "1m")):
        page.get_by_role("radio", name=name).or_(page.get_by_role("button", name=name)).first.click()
        page.get_by_text(f"Candles of {interval}").wait_for()
        page.get_by_test_id("stVegaLiteChart").first.wait_for()
    settled(page, f"coin-{'dark' if dark else 'light'}")
    page.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_pipeline_says_what_crypto_check_says(browser: Browser, dark: bool) -> None:
    page = opened(browser, "pipeline", dark=dark)
    page.get_by_text("Data flows.").wait_for()
    for hop in ("api", "producer", "topic", "stream_job", "table", "dashboard"):
        assert wait_for(lambda hop=hop: cells(page, hop), f"the hop {hop}", 60)[1] == "ok"
    wait_for_rows_a_second(page, "prices")
    settled(page, f"pipeline-{'dark' if dark else 'light'}")
    page.close()


def test_the_pipeline_shows_how_far_each_query_is(browser: Browser) -> None:
    page = opened(browser, "pipeline")
    for query in ("prices", "latest_prices", "candles", "market_global", "dead_letters"):
        wait_for_rows_a_second(page, query)
    page.close()


def wait_for_rows_a_second(page: Page, query: str) -> None:
    """Which is known from the second look on."""
    # The whole of the cell: the names are in those of the hops, too.
    name = re.compile(f"^{query}$")
    wait_for(
        lambda: re.fullmatch(r"[0-9][0-9.,]*", (cells(page, name) or [""] * 4)[3]), f"rows a second of {query}", 60
    )


def test_the_watchlist_is_kept_by_address_and_session(browser: Browser) -> None:
    page = opened(browser, "coin?coin=80")
    page.get_by_role("button", name="Watch").click()
    page.get_by_role("button", name="On the watchlist").wait_for()
    page.wait_for_url(re.compile("watch=80"))
    page.get_by_role("link", name="Market").click()
    page.get_by_text("Watchlist only (1)").click()
    page.get_by_text("1 of 1 coins").wait_for()
    page.wait_for_url(re.compile("watch=80"))
    page.reload()
    page.get_by_text("Watchlist only (1)").wait_for()
    page.close()


def test_spark_shows_what_a_batch_of_the_job_is(browser: Browser) -> None:
    spark = f"http://127.0.0.1:{port('SPARK_UI_PORT', 8080)}"
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(LIMIT_MS)
    page.goto(spark)
    app = page.request.get(f"{spark}/json/").json()["activeapps"][0]["id"]
    page.goto(f"{spark}/proxy/{app}/SQL/")
    batches = page.locator("#completed-table a[href*='execution/?id']")
    batches.first.wait_for()
    # One that had something to read.
    for address in [link.get_attribute("href") for link in batches.all()[:40]]:
        page.goto(f"{spark}{address}")
        graph = page.locator("#plan-viz-graph svg")
        graph.wait_for()
        if "MicroBatchScan" in (graph.text_content() or ""):
            break
    else:
        pytest.fail("no batch of the job read from Kafka")
    settled(page, "spark-dag")
    page.close()


def test_a_tour_of_the_pages(browser: Browser) -> None:
    """Leaves it as a picture that moves."""
    frames = []

    def frame(page: Page, wait_ms: int = 1500) -> None:
        page.wait_for_timeout(wait_ms)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize((960, 675))
        frames.append(picture.quantize(colors=64))

    page = opened(browser)
    for _ in range(3):
        frame(page, 3000)
    page.get_by_placeholder("Name or symbol").fill("bit")
    page.get_by_placeholder("Name or symbol").press("Enter")
    page.get_by_text("1 of 1 pages").wait_for()
    frame(page)
    page.goto(page.url.split("?")[0] + "coin?coin=90")
    page.get_by_test_id("stVegaLiteChart").first.wait_for()
    frame(page, 3000)
    for name in ("1H", "7D"):
        page.get_by_role("radio", name=name).or_(page.get_by_role("button", name=name)).first.click()
        frame(page)
    page.get_by_role("link", name="Pipeline").click()
    page.get_by_text("Data flows.").wait_for()
    frame(page, 3000)
    first, *others = frames
    first.save(SCREENSHOTS / "tour.gif", save_all=True, append_images=others, duration=1500, loop=0, optimize=True)
    page.close()


def test_the_playbook_says_that_data_flows() -> None:
    run = playbook(ROOT / "playbooks/verify.yml")
    assert run.returncode == 0, run.stdout
    assert "Data flows." in run.stdout
    assert "changed=0" in run.stdout


@pytest.mark.disturbs
@pytest.mark.parametrize("hops", HOPS, ids="+".join)
def test_the_first_hop_that_is_broken_is_named(
    host: Host, stream: Stream, browser: Browser, hops: dict[str, str]
) -> None:
    page = opened(browser, "pipeline")
    try:
        for unit, hop in hops.items():
            named = f"First broken hop: {hop}"
            host.check_output("systemctl stop %s", unit)
            wait_for(lambda named=named: named in host.run("crypto-check").stdout, named, 180)
            page.get_by_text(named).wait_for()
    finally:
        since = time.time()
        host.check_output("systemctl start %s", TARGET)
    stream.wait_until_all_is_well(since)
    page.get_by_text("Data flows.").wait_for()
    page.close()


@pytest.mark.disturbs
def test_a_page_that_is_open_comes_back_with_the_dashboard(host: Host, stream: Stream, browser: Browser) -> None:
    page = opened(browser, "pipeline")
    as_of = page.get_by_text("As of")
    before = as_of.inner_text()
    host.check_output("systemctl stop crypto-dashboard")
    try:
        assert "First broken hop: dashboard" in host.run("crypto-check").stdout
    finally:
        host.check_output("systemctl start crypto-dashboard")
    stream.wait_until_all_is_well(time.time())
    # The longer it was away, the longer the page waits between two tries.
    wait_for(lambda: as_of.inner_text() != before, "another look on the page", 240)
    page.close()


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_fetched_from_elsewhere(browser: Browser, path: str) -> None:
    page = opened(browser, path)
    page.wait_for_timeout(2000)
    fetched = page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    assert fetched
    assert [address for address in fetched if not address.startswith((ADDRESS, "data:"))] == []
    page.close()


@pytest.mark.parametrize("path", PATHS)
def test_a_phone_needs_no_scrolling_sideways(browser: Browser, path: str) -> None:
    page = opened(browser, path, width=390)
    page.wait_for_timeout(2000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
