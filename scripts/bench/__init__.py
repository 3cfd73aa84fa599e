"""`make bench`: `host` is the sandbox; `life`, `stream` and `dashboard` measure it.

`__main__` has the goals and the table.
"""
