"""From the topics to the rows of the tables: functions from DataFrame to DataFrame, for a stream and a replay alike.

Everything is a Spark expression; no Python runs on the executors. `decode` gives the same verdict as `messages.parse`
on the same bytes; both follow the rules and patterns of `messages`. What comes out has the columns of a table, plus

    written_at  the write time of the cells, in microseconds, by which Cassandra decides what is newer
    born_at     when the row's life began, in epoch milliseconds, so that one written late does not live longer

and, but for candles, the `ORIGIN` of the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from itertools import chain

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - what everybody calls it
from pyspark.sql.types import DataType, DoubleType, LongType, StringType, StructField, StructType

from crypto_stream import messages
from crypto_stream.messages import MarketMessage, Message, PriceMessage, Rule, mistyped, plain, rules
from crypto_stream.tables import BOARD, DAY_MS, INTERVALS, MARKET_GLOBAL

# Kafka's columns that go with a row, so that it can be set aside when Cassandra refuses it.
ORIGIN = ("topic", "partition", "offset", "value", "timestamp")
WRITTEN_AT, BORN_AT = "written_at", "born_at"
# Spark marks a column by which state is let go with this, and a watermark's delay in milliseconds.
WATERMARK_DELAY = "spark.watermarkDelayMs"
CORRUPT = "_corrupt"
SPARK_TYPES: dict[type, DataType] = {str: StringType(), int: LongType(), float: DoubleType()}


# A topic's rows by what it is for: prices, market, rejected.
Topics = Mapping[str, DataFrame]


def message_schema(model: type[Message]) -> StructType:
    """A model as Spark's schema, with a column for what does not fit into it."""
    fields = [StructField(name, SPARK_TYPES[rule.kind]) for name, rule in rules(model).items()]
    return StructType([StructField("schema_version", LongType()), *fields, StructField(CORRUPT, StringType())])


def decode(raw: DataFrame, model: type[Message] = PriceMessage) -> DataFrame:
    """Kafka's rows (`value`, `topic`, `partition`, `offset`, `timestamp`) plus `message` (a struct) and `reason`.

    `reason` is null for a good message; otherwise it says what is wrong, and `message` must not be used.
    """
    # No more than this is looked at of a value, however long it is.
    text = F.decode(F.substring("value", 1, messages.MAX_MESSAGE_BYTES), "UTF-8")
    parsed = F.from_json(text, message_schema(model), {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT})
    seen = F.struct(parsed.alias("message"), text.alias("text"))
    # By way of explode, because Spark would put the parsing of a plain column into every place that uses it: thirty
    # times for each message.
    looked_at = raw.select("*", F.explode(F.array(seen)).alias("seen"))
    return looked_at.withColumn("reason", _reason(model)).withColumn("message", F.col("seen.message")).drop("seen")


def _reason(model: type[Message]) -> Column:
    """The first rule that a message breaks. The order matters: later rules rely on earlier ones."""
    text, message = F.col("seen.text"), F.col("seen.message")
    marked = F.regexp_replace(text, messages.ESCAPE, messages.ESCAPE_MARK)
    size, version = F.length("value"), message["schema_version"]
    shape = F.regexp_replace(F.regexp_replace(marked, messages.STRING, '""'), messages.SCALAR, "00")
    is_flat = F.translate(shape, messages.SPACES, "").rlike(messages.OBJECT)
    names = F.json_object_keys(text)
    shapes: list[tuple[Column, str | Column]] = [
        (F.col("value").isNull() | (size == 0), "the message is empty"),
        (
            size > messages.MAX_MESSAGE_BYTES,
            F.concat(F.lit("the message has "), size, F.lit(f" bytes, more than {messages.MAX_MESSAGE_BYTES}")),
        ),
        (F.encode(text, "UTF-8") != F.col("value"), "the message is no UTF-8"),
        (~is_flat, "the message is no flat JSON object"),
        (version != messages.SCHEMA_VERSION, F.concat(F.lit("unknown schema_version "), version)),
        (
            marked.rlike(mistyped(model)) | message[CORRUPT].isNotNull(),
            "a field has a value of another type",
        ),
        (F.size(F.array_distinct(names)) < F.size(names), "a field is there twice"),
        (message.isNull() | version.isNull(), "schema_version is missing"),
    ]
    fields = {name: _broken(name, message[name], rule) for name, rule in rules(model).items()}
    times = fields.pop("ts")
    times.append(
        (
            message["ts"] > F.unix_millis("timestamp") + messages.CLOCK_TOLERANCE_MS,
            F.concat(F.lit("ts is ahead of Kafka's clock: "), message["ts"]),
        )
    )
    # Nearly all messages are plain, and one pattern takes a fraction of the time that all of the rules take.
    is_plain = F.coalesce(text.rlike(plain(model)), F.lit(False))
    return F.coalesce(F.when(~is_plain, _first([*shapes, *chain(*fields.values())])), _first(times))


def _first(broken: list[tuple[Column, str | Column]]) -> Column:
    """What is said of the first condition that holds."""
    # One CASE with many branches; nested in each other, the planner would compare all with all, for half a minute.
    (first, *others) = broken
    return reduce(lambda case, rule: case.when(*rule), others, F.when(*first))


def _broken(name: str, value: Column, rule: Rule) -> list[tuple[Column, str | Column]]:
    """How a field can break its rule, each with what is to be said then."""
    found: list[tuple[Column, str | Column]] = []
    if rule.required:
        found.append((value.isNull(), f"{name} is missing"))
    if rule.kind is str:
        found += [
            (F.length(value) > messages.MAX_TEXT_CHARS, f"{name} has more than {messages.MAX_TEXT_CHARS} characters"),
            (value.rlike(messages.CONTROL), f"{name} holds control characters"),
            (~value.rlike(messages.VISIBLE), f"{name} is blank"),
        ]
    if rule.kind is float:
        found.append((F.isnan(value) | (F.abs(value) == float("inf")), f"{name} is not finite"))
    if rule.least is not None:
        found.append((value < rule.least, F.concat(F.lit(f"{name} is below {rule.least}: "), value)))
    if rule.most is not None:
        found.append((value > rule.most, F.concat(F.lit(f"{name} is above {rule.most}: "), value)))
    return found


def _good(decoded: DataFrame) -> DataFrame:
    """The fields of good messages as columns, beside where they came from."""
    return decoded.where(F.col("reason").isNull()).select(*ORIGIN, "message.*")


def _row_times(ts: Column) -> list[Column]:
    """A row of a price's own time: a replay of old messages replaces nothing newer."""
    return [
        F.current_timestamp().alias("processing_time"),
        (ts * 1000).alias(WRITTEN_AT),
        ts.alias(BORN_AT),
    ]


def _month(ts: Column) -> Column:
    """`2026-11`, in UTC, whatever time zone Spark runs in."""
    return F.date_format(_day(ts), "yyyy-MM")


def _day(ts: Column) -> Column:
    return F.date_from_unix_date(F.floor(ts / DAY_MS).cast("int"))


def prices(topics: Topics) -> DataFrame:
    """Rows of `prices`, one for each good message."""
    good = _good(decode(topics["prices"]))
    return good.select(*ORIGIN, "id", "name", "price_usd", "ts", *_row_times(F.col("ts")))


def latest_prices(topics: Topics) -> DataFrame:
    """Rows of `latest_prices`, one for each good message: the newest one by its write time is what stays.

    That is never ahead of Kafka's clock, or a price of the future would outlast all true ones until then.
    """
    good = _good(decode(topics["prices"]))
    columns = [name for name in rules(PriceMessage) if name != "rank"]
    told = F.least(F.col("ts"), F.unix_millis("timestamp"))
    return good.select(*ORIGIN, F.lit(BOARD).alias("board"), *columns, F.col("rank").cast("int"), *_row_times(told))


def market_global(topics: Topics) -> DataFrame:
    """Rows of `market_global`, one for each good message."""
    good = _good(decode(topics["market"], MarketMessage))
    names = [name for name in rules(MarketMessage) if name != "ts"]
    columns = [F.col(name).cast(MARKET_GLOBAL.columns[name]) for name in names]
    return good.select(*ORIGIN, _month(F.col("ts")).alias("month"), "ts", *columns, *_row_times(F.col("ts")))


def samples(topics: Topics) -> DataFrame:
    """What candles are made of: id, ts, price_usd, volume24_usd, and `event_time`.

    That is `ts`, but never ahead of Kafka's clock: a price of the future would make all true ones too late.
    """
    event_time = F.least(F.timestamp_millis("ts"), F.col("timestamp")).alias("event_time")
    return _good(decode(topics["prices"])).select(*ORIGIN, "id", "ts", "price_usd", "volume24_usd", event_time)


def candles(topics: Topics, lateness_seconds: int) -> DataFrame:
    """Rows of `candles`: in a stream, those that a batch has changed, as they are until then.

    A sample counts once, however often it comes. In a stream, one whose time is before the watermark (the newest event
    time less `lateness_seconds`) is left out, and a candle is let go when the watermark passes its end.
    """
    found = samples(topics).select("id", "ts", "price_usd", "volume24_usd", "event_time")
    found = found.withWatermark("event_time", f"{lateness_seconds} seconds")
    # Spark knows two names for this.
    once = (found.dropDuplicatesWithinWatermark if found.isStreaming else found.dropDuplicates)(["id", "ts"])
    lengths = F.array(
        *(F.struct(F.lit(name).alias("interval"), F.lit(size * 1000).alias("ms")) for name, size in INTERVALS.items())
    )
    start = F.col("ts") - F.col("ts") % F.col("length.ms")
    end = F.timestamp_millis(start + F.col("length.ms"))
    placed = once.withColumn("length", F.explode(lengths)).select(
        "id",
        F.col("length.interval").alias("interval"),
        start.alias("start_ms"),
        end.alias("end", metadata={WATERMARK_DELAY: lateness_seconds * 1000}),
        "event_time",
        "ts",
        "price_usd",
        "volume24_usd",
    )
    told = F.when(F.col("volume24_usd").isNotNull(), F.col("ts"))
    return (
        placed.groupBy("id", "interval", "start_ms", "end")
        .agg(
            F.min_by("price_usd", "ts").alias("open"),
            F.max("price_usd").alias("high"),
            F.min("price_usd").alias("low"),
            F.max_by("price_usd", "ts").alias("close"),
            # Of this column: telling duplicates needs it, but Spark (3.5.1) drops it there when nothing else uses it.
            F.count("event_time").cast("int").alias("samples"),
            F.max_by("volume24_usd", told).alias("volume24_usd"),
        )
        .select(
            "id",
            "interval",
            _month(F.col("start_ms")).alias("month"),
            F.timestamp_millis("start_ms").alias("start"),
            "end",
            "open",
            "high",
            "low",
            "close",
            "samples",
            "volume24_usd",
            F.current_timestamp().alias("processing_time"),
            # Of one candle, the state with more samples is the newer one.
            (F.col("start_ms") * 1000 + F.col("samples")).alias(WRITTEN_AT),
            F.unix_millis("end").alias(BORN_AT),
        )
    )


def late_samples(topics: Topics, watermark: Column) -> DataFrame:
    """Rows of `dead_letters` for the samples that came too late for their candles."""
    reason = F.concat(
        F.lit("too late for its candles, the watermark was "),
        F.date_format(watermark, "yyyy-MM-dd HH:mm:ss"),
        F.lit("; the price itself is written, and crypto-replay repairs the candles"),
    )
    late = samples(topics).where(F.col("event_time") <= watermark)
    return _letters(late.withColumn("reason", reason))


def dead_letters(topics: Topics) -> DataFrame:
    """Rows of `dead_letters`: messages that are none, and tickers that the producer rejected."""
    bad_prices = _letters(decode(topics["prices"]).where(F.col("reason").isNotNull()))
    bad_markets = _letters(decode(topics["market"], MarketMessage).where(F.col("reason").isNotNull()))
    reason = F.get_json_object(F.col("value").cast("string"), "$.reason")
    rejected = topics["rejected"].withColumn(
        "reason", F.concat(F.lit("the producer rejected it: "), F.coalesce(reason, F.lit("it does not say why")))
    )
    return bad_prices.unionByName(bad_markets).unionByName(_letters(rejected))


def _letters(rows: DataFrame) -> DataFrame:
    """Kafka's rows with a reason as rows of `dead_letters`."""
    came = F.unix_millis("timestamp")
    return rows.select(
        "topic",
        _day(came).alias("day"),
        "partition",
        "offset",
        F.substring("value", 1, messages.MAX_DEAD_LETTER_BYTES).alias("value"),
        "reason",
        "timestamp",
        F.current_timestamp().alias("processing_time"),
        (came * 1000).alias(WRITTEN_AT),
        came.alias(BORN_AT),
    )
