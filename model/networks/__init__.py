"""The networks that encoders consist of."""
