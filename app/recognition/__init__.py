"""The use cases: enroll, verify, identify, and the records behind them. Knows no HTTP."""
