"""The process of the dashboard: `python -m crypto_stream.dashboard_server [options of streamlit run]`.

Streamlit runs the page for each viewer; what is one for all of them, the reader of the board and its metrics, begins
here, before anybody looks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from crypto_stream import board, config, log


def main() -> None:
    """Start reading, and hand over to Streamlit."""
    settings = config.load_or_exit("cassandra", "dashboard", "freshness")
    reader = board.reader()
    reader.metrics.serve(settings.dashboard.metrics_port, log.configure("dashboard"))
    reader.start()
    from streamlit.web import cli

    sys.argv = ["streamlit", "run", str(Path(__file__).with_name("dashboard.py")), *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
