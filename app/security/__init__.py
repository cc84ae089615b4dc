"""Who may do what, and the record of what was done. Knows no HTTP and no templates."""
