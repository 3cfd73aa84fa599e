"""The process: `python -m crypto_stream.dashboard [options of streamlit run]`.

Streamlit runs the script for each viewer; what is one for all of them, the reader of the board and its metrics, begins
here, before anybody looks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from crypto_stream import config, log
from crypto_stream.dashboard import data


def main() -> None:
    """Start reading, and hand over to Streamlit."""
    settings = config.load_or_exit("kafka", "cassandra", "freshness", "dashboard")
    reader = data.reader()
    reader.metrics.serve(settings.dashboard.metrics_port, log.configure("dashboard"))
    reader.start()
    from streamlit.web import cli

    # What the pages draw with takes seconds to load, which are not to be the first viewer's.
    from crypto_stream.dashboard import app  # noqa: F401

    sys.argv = ["streamlit", "run", str(Path(__file__).with_name("app.py")), *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
