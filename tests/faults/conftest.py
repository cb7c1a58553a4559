"""How long to fuzz."""

from hypothesis import settings

# `make test` draws the same few examples every time, `make fuzz` others in every round.
settings.register_profile("quick", max_examples=60, derandomize=True, database=None, deadline=10_000)
settings.register_profile("long", max_examples=2_000, deadline=10_000, print_blob=True)
