"""The dashboard in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright
from sandbox import port, wait_for
from stream import Stream


@pytest.fixture
def page() -> Iterator[Page]:
    browser_path = shutil.which("chromium")
    assert browser_path, "the package chromium is not installed"
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
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port('DASHBOARD_PORT', 8501)}")
        yield page
        browser.close()


def bitcoin(page: Page) -> str:
    """The price in the table's row of Bitcoin. The table is drawn; what it holds is there for screen readers."""
    row = page.locator('[data-testid="stDataFrame"] tr', has=page.locator("td", has_text="Bitcoin")).first
    return row.locator("td").nth(1).text_content(timeout=10_000) or ""


def test_shows_what_is_in_the_table_and_goes_on(page: Page, stream: Stream) -> None:
    def shown() -> str:
        """The price on the page, when it is one of Cassandra's newest."""
        price = bitcoin(page)
        rows = stream.cql("SELECT price_usd FROM crypto.prices WHERE id = '90' LIMIT 3")
        return price if price in [f"${row.price_usd:,.2f}" for row in rows] else ""

    first = wait_for(shown, "a price of crypto.prices on the page", 60)
    assert page.get_by_text("live", exact=True).count() == 1
    wait_for(lambda: shown() not in ("", first), "another price on the page, which was not loaded again", 60)
