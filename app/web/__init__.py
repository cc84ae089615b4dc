"""The page that a person opens in a browser."""
