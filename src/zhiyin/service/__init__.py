"""The HTTP interface: events in, recommendations out."""
