"""The Fly page: live."""
