"""The HTTP interface: parse, call, shape the answer. No logic lives here."""
