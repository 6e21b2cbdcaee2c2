"""Colours, type and files of the page. System fonts only, so that it looks the same without a network."""

from __future__ import annotations

from pathlib import Path

from gradio.themes.base import Base
from gradio.themes.utils.sizes import radius_md

UI = Path(__file__).resolve().parent
SHARED = UI / "web"
FOLDERS = (SHARED, *sorted(path for path in (UI / "pages").iterdir() if path.is_dir()))


def asset(name: str) -> str:
    """The text of a file that the browser gets; each name is in one folder, web/ or a page's."""
    return _place(name).read_text(encoding="utf-8")


def _place(name: str) -> Path:
    return next((folder / name for folder in FOLDERS if (folder / name).is_file()), SHARED / name)


def looks() -> str:
    """The styles that no component brings: of the whole page, and the layout.css of each place."""
    files = [SHARED / "page.css", *(folder / "layout.css" for folder in FOLDERS)]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


def theme() -> Base:
    """Indigo on slate; every pair of colours passes WCAG AA in both modes."""
    return Base(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        radius_size=radius_md,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="#0b1020",
        block_background_fill="white",
        block_background_fill_dark="#131a2e",
        block_border_color="*neutral_200",
        block_border_color_dark="#273250",
        border_color_primary="*neutral_300",
        border_color_primary_dark="#33405f",
        input_background_fill="white",
        input_background_fill_dark="#0e1527",
        input_border_color="*neutral_300",
        input_border_color_dark="#33405f",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )
