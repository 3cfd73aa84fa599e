"""From bytes of the topic to rows, as Spark expressions: no Python runs on the executors.

`decode` gives the same verdict as `messages.parse` on the same bytes; both follow the rules and patterns of `messages`.
"""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - what everybody calls it
from pyspark.sql.types import DataType, DoubleType, LongType, StringType, StructField, StructType

from crypto_stream import messages
from crypto_stream.messages import RULES, Rule

CORRUPT = "_corrupt"
SPARK_TYPES: dict[type, DataType] = {str: StringType(), int: LongType(), float: DoubleType()}


def message_schema() -> StructType:
    """`PriceMessage` as Spark's schema, with a column for what does not fit into it."""
    fields = [StructField(name, SPARK_TYPES[rule.kind]) for name, rule in RULES.items()]
    return StructType([StructField("schema_version", LongType()), *fields, StructField(CORRUPT, StringType())])


def decode(raw: DataFrame) -> DataFrame:
    """Kafka's rows (`value`, `topic`, `partition`, `offset`, `timestamp`) plus `message` (a struct) and `reason`.

    `reason` is null for a good message; otherwise it says what is wrong, and `message` must not be used.
    """
    # No more than this is looked at of a value, however long it is.
    text = F.decode(F.substring("value", 1, messages.MAX_MESSAGE_BYTES), "UTF-8")
    parsed = F.from_json(text, message_schema(), {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT})
    marked = F.regexp_replace(text, messages.ESCAPE, messages.ESCAPE_MARK)
    seen = F.struct(parsed.alias("message"), text.alias("text"), marked.alias("marked"))
    # By way of explode, because Spark would put the parsing of a plain column into every place that uses it: thirty
    # times for each message.
    looked_at = raw.select("*", F.explode(F.array(seen)).alias("seen"))
    return looked_at.withColumn("reason", _reason()).withColumn("message", F.col("seen.message")).drop("seen")


def _reason() -> Column:
    """The first rule that a message breaks. The order matters: later rules rely on earlier ones."""
    text, marked, message = F.col("seen.text"), F.col("seen.marked"), F.col("seen.message")
    size, version = F.length("value"), message["schema_version"]
    shape = F.regexp_replace(F.regexp_replace(marked, messages.STRING, '""'), messages.SCALAR, "00")
    is_flat = F.translate(shape, messages.SPACES, "").rlike(messages.OBJECT)
    names = F.json_object_keys(text)
    rules: list[tuple[Column, str | Column]] = [
        (F.col("value").isNull() | (size == 0), "the message is empty"),
        (
            size > messages.MAX_MESSAGE_BYTES,
            F.concat(F.lit("the message has "), size, F.lit(f" bytes, more than {messages.MAX_MESSAGE_BYTES}")),
        ),
        (F.encode(text, "UTF-8") != F.col("value"), "the message is no UTF-8"),
        (~is_flat, "the message is no flat JSON object"),
        (version != messages.SCHEMA_VERSION, F.concat(F.lit("unknown schema_version "), version)),
        (
            marked.rlike(messages.MISTYPED) | message[CORRUPT].isNotNull(),
            "a field has a value of another type",
        ),
        (F.size(F.array_distinct(names)) < F.size(names), "a field is there twice"),
        (message.isNull() | version.isNull(), "schema_version is missing"),
        *(broken for name, rule in RULES.items() for broken in _broken(name, message[name], rule)),
        (
            message["ts"] > F.unix_millis("timestamp") + messages.CLOCK_TOLERANCE_MS,
            F.concat(F.lit("ts is ahead of Kafka's clock: "), message["ts"]),
        ),
    ]
    nothing: Column = F.lit(None).cast("string")

    def otherwise(rest: Column, rule: tuple[Column, str | Column]) -> Column:
        return F.when(rule[0], rule[1]).otherwise(rest)

    return reduce(otherwise, reversed(rules), nothing)


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


def price_columns() -> list[Column]:
    """The columns of `prices`, plus `written_at`: the write time of the cells, in microseconds.

    The price's own time as write time keeps a replay of old messages from replacing anything newer.
    """
    message = F.col("message")
    columns = [message[name].alias(name) for name in ("id", "name", "price_usd", "ts")]
    return [*columns, F.current_timestamp().alias("processing_time"), (message["ts"] * 1000).alias("written_at")]


def to_prices(decoded: DataFrame) -> DataFrame:
    """Good messages as rows of `prices`."""
    return decoded.where(F.col("reason").isNull()).select(*price_columns())


def to_dead_letters(decoded: DataFrame) -> DataFrame:
    """Bad messages as rows of `dead_letters`, found again by topic, partition and offset."""
    return decoded.where(F.col("reason").isNotNull()).select(
        "topic",
        "partition",
        "offset",
        F.substring("value", 1, messages.MAX_DEAD_LETTER_BYTES).alias("value"),
        "reason",
        F.current_timestamp().alias("processing_time"),
    )
