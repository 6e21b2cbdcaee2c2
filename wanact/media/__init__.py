"""Pictures and clips: in and out, side by side, and how alike they are."""
