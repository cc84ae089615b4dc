"""A whole collection checked for duplicates, outliers and look-alikes: the report, its job, its page."""
