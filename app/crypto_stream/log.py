"""One JSON object a line on standard output, for the journal."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(service: str) -> structlog.stdlib.BoundLogger:
    """Set up logging for a process and return its logger. Libraries' own warnings take the same form."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processor=structlog.processors.JSONRenderer(), foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()]
        )
    )
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("crypto_stream").setLevel(logging.INFO)
    # It reports each of its many tries to connect three times over. What matters comes back as an exception.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("crypto_stream")
    return logger.bind(service=service)
