"""The places of the page; a folder each, with its layout, its desk, and what the browser runs."""
