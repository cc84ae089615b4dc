from tests.app.postgres import postgres, url

__all__ = ["postgres", "url"]
