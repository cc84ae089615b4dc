"""Audits of whole collections for duplicates, outliers and look-alikes: report, background job, HTML page."""
