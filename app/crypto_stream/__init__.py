"""Live market data: CoinLore -> Kafka -> Spark Structured Streaming -> Cassandra -> Streamlit."""
