import errno
import io
import os
import resource
import struct
import zlib
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from wanact.media import video
from wanact.media.footage import read_video
from wanact.media.video import ImageError, VideoError


def gradient(height: int = 48, width: int = 80) -> Image.Image:
    """Red grows to the right, green downwards."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 60)], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **({"format": "PNG"} | options))
    return buffer.getvalue()


def distance(image: Image.Image, expected: Image.Image) -> float:
    assert image.mode == "RGB"
    assert image.size == expected.size
    return float(np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean())


def raw_png(width: int, height: int, bits: int, colour_type: int, row: bytes) -> bytes:
    """A PNG of equal rows that Pillow itself cannot write."""
    png = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">2I5B", width, height, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * height, level=1)
    for kind, body in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
        png += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png


def moving_frames(num_frames: int = 9, height: int = 32, width: int = 64) -> np.ndarray:
    """A bright square that moves a pixel a frame over a soft background; a frame is told by where it is."""
    frames = np.broadcast_to(np.asarray(gradient(height, width)) // 2, (num_frames, height, width, 3)).copy()
    for index, frame in enumerate(frames):
        frame[8:16, 4 + index : 12 + index] = 250
    return frames


@pytest.mark.parametrize("form", ["path", "string", "bytes", "file", "image"])
def test_every_way_to_hand_over_an_image_opens_it(form, tmp_path):
    path = tmp_path / "view.png"
    gradient().save(path)
    source = {
        "path": path,
        "string": str(path),
        "bytes": path.read_bytes(),
        "file": io.BytesIO(path.read_bytes()),
        "image": gradient(),
    }[form]
    assert distance(video.open_image(source), gradient()) == 0


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_common_formats_open(image_format):
    assert distance(video.open_image(encoded(gradient(), format=image_format)), gradient()) < 8


def test_cmyk_keeps_its_colours():
    for image_format in ("JPEG", "TIFF"):
        image = video.open_image(encoded(gradient().convert("CMYK"), format=image_format))
        assert distance(image, gradient()) < 8


def test_palette_images_open():
    assert distance(video.open_image(encoded(gradient().quantize(256))), gradient()) < 8


def test_a_palette_entry_can_be_transparent():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert distance(video.open_image(encoded(image, transparency=0)), Image.new("RGB", (8, 8), "white")) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    image = gradient().convert(mode)
    image.putalpha(0)
    assert distance(video.open_image(encoded(image)), Image.new("RGB", (80, 48), "white")) == 0
    image.putalpha(255)
    assert distance(video.open_image(encoded(image)), gradient().convert(mode).convert("RGB")) == 0


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_instead_of_clipped(image_format):
    grey = np.linspace(0, 65535, 80).astype(np.uint16) * np.ones((48, 1), np.uint16)
    expected = np.repeat((grey / 257)[..., None], 3, axis=-1).round().astype(np.uint8)
    image = video.open_image(encoded(Image.fromarray(grey), format=image_format))
    assert distance(image, Image.fromarray(expected)) < 1


def test_sixteen_bit_colour_opens():
    png = raw_png(4, 3, bits=16, colour_type=2, row=struct.pack(">3H", 65535, 32768, 0) * 4)
    assert video.open_image(png).getpixel((0, 0)) == (255, 128, 0)


def test_float_images_open():
    values = np.linspace(0, 1, 80, dtype=np.float32) * np.ones((48, 1), np.float32)
    image = video.open_image(encoded(Image.fromarray(values), format="TIFF"))
    assert image.getpixel((0, 0)) == (0, 0, 0)
    assert image.getpixel((79, 0)) == (255, 255, 255)


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(image_format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], format=image_format, save_all=True, append_images=frames[1:], duration=100)
    assert distance(video.open_image(data), frames[0]) < 3
    played = Image.open(io.BytesIO(data))
    played.seek(2)
    assert distance(video.open_image(played), frames[0]) < 3


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: the picture shows upright after a quarter turn clockwise
    image = video.open_image(encoded(gradient(), exif=exif))
    assert distance(image, gradient().rotate(-90, expand=True)) == 0


def test_an_image_that_is_open_already_is_checked_too():
    with pytest.raises(ImageError, match="80 x 48 pixels"):
        video.open_image(gradient(), max_pixels=1000)


BAD_IMAGES = {
    "text": (b"this is a shopping list", "is not an image"),
    "pdf": (b"%PDF-1.7\n1 0 obj", "is not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
    "zeros": (bytes(1000), "is not an image"),
    "empty": (b"", "is empty"),
    "header_only": (encoded(gradient())[:20], "is not an image|is damaged"),
    "half_png": (encoded(gradient())[:150], "is damaged; please export it again"),
    "half_jpeg": (encoded(gradient(), format="JPEG")[:900], "is damaged; please export it again"),
    "half_webp": (encoded(gradient(), format="WEBP")[:150], "is not an image|is damaged"),
    "half_gif": (encoded(gradient(), format="GIF")[:1200], "is damaged; please export it again"),
    "half_tiff": (encoded(gradient(), format="TIFF")[:5000], "is damaged|is not an image"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_refused_in_one_sentence_that_names_it(kind, tmp_path):
    data, message = BAD_IMAGES[kind]
    path = tmp_path / f"{kind}.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"{kind}.png ({message})") as caught:
        video.open_image(path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_never_raise_anything_but_an_image_error(seed):
    generator = np.random.default_rng(seed)
    image_format = ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"][seed % 6]
    data = np.frombuffer(encoded(gradient(), format=image_format), np.uint8).copy()
    data[generator.integers(0, len(data), 12)] ^= generator.integers(1, 255, 12, dtype=np.uint8)
    try:
        video.open_image(data.tobytes(), max_pixels=10**6)
    except ImageError:
        pass


# The first is within Pillow's own limit, the second beyond it.
@pytest.mark.parametrize(("side", "message"), [(12_000, "12000 x 12000 pixels"), (20_000, "more than the 100 mega")])
def test_a_huge_image_is_refused_before_it_is_decoded(side, message, monkeypatch):
    def decode(*_args):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decode)
    bomb = raw_png(side, side, bits=1, colour_type=0, row=bytes(side // 8))
    with pytest.raises(ImageError, match=message):
        video.open_image(bomb)


def test_an_upload_of_300_megabytes_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "movie.png"
    with open(path, "wb") as file:
        file.truncate(300 * 2**20)
    with open(path, "rb") as file:
        with pytest.raises(ImageError, match="movie.png is larger than the 64 MB"):
            video.open_image(file)
        assert file.tell() <= video.MAX_IMAGE_BYTES + 1
    with pytest.raises(ImageError, match="movie.png is larger than the 64 MB"):
        video.open_image(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match="gone.png cannot be opened"):
        video.open_image(tmp_path / "gone.png")


@pytest.mark.parametrize("size", [(80, 48), (48, 80), (160, 96), (1, 1), (1, 3000), (3000, 1), (33, 17)])
@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_any_image_fits_the_size(size, mode):
    fitted = video.fit_image(Image.new("RGB", size, "red"), 96, 160, mode)
    assert fitted.size == (160, 96)
    assert (np.asarray(fitted)[..., 0] == 255).any()


def test_cropping_fills_the_frame_and_padding_keeps_the_whole_image():
    image = gradient(100, 100)
    cropped = np.asarray(video.fit_image(image, 96, 160, "crop"))
    assert np.ptp(cropped[..., 0]) > 240
    assert np.ptp(cropped[..., 1]) < 200  # top and bottom are cut
    padded = np.asarray(video.fit_image(image, 96, 160, "pad"))
    assert padded[:, :30].max() == 0
    assert np.ptp(padded[:, 40:120, 1]) > 240


def test_a_picture_is_cut_where_it_is_said():
    tall, wide = gradient(300, 100), gradient(100, 300)  # red from left to right, green from top to bottom
    for image, channel in ((tall, 1), (wide, 0)):
        left, middle, right = (
            np.asarray(video.fit_image(image, 96, 96, crop=crop))[..., channel].mean() for crop in (0, 0.5, 1)
        )
        assert left < 60 < middle - 40 and right > 195 > middle + 40
        assert np.array_equal(video.fit_image(image, 96, 96, crop=0.5), video.fit_image(image, 96, 96))


def test_an_unknown_fit_is_refused():
    with pytest.raises(ValueError, match='mode="stretch" must be "crop" or "pad"'):
        video.fit_image(gradient(), 96, 160, "stretch")


def test_uint8_survives_the_way_through_the_models_range():
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    tensor = video.to_tensor(frames)
    assert tensor.shape == (3, 4, 8, 8)
    assert (tensor.min(), tensor.max()) == (-1, 1)
    np.testing.assert_array_equal(video.to_uint8(tensor), frames)
    assert torch.equal(video.to_tensor(torch.from_numpy(frames)), tensor)


def test_values_outside_the_range_are_clamped():
    frames = video.to_uint8(torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1).repeat(3, 1, 1, 1).bfloat16())
    assert frames[:, 0, 0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((2, 3, 4, 4), np.uint8)]
)
def test_frames_of_another_kind_are_refused(frames, tmp_path):
    with pytest.raises(ValueError, match=r"expected uint8 \[F, H, W, 3\]"):
        video.to_tensor(frames)
    with pytest.raises(ValueError, match=r"expected uint8 \[F, H, W, 3\]"):
        video.write_mp4(frames, tmp_path / "clip.mp4")


def test_a_lossless_clip_keeps_every_bit(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    video.write_mp4(frames, tmp_path / "clip.mp4", lossless=True)
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4"), frames)


def test_a_clip_for_the_browser_keeps_its_look_length_and_rate(tmp_path):
    path = tmp_path / "clip.mp4"
    frames = moving_frames(81)[:, :, :64]
    video.write_mp4(frames, path, fps=16)
    assert np.abs(read_video(path).astype(float) - frames).mean() < 4
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 81)
        assert stream.average_rate == 16
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat"), "the browser must be able to start before the end has arrived"


def test_pure_colours_survive(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (20, 200, 40), (255, 255, 255), (0, 0, 0)]
    frames = np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in colours])
    video.write_mp4(frames, tmp_path / "clip.mp4")
    assert np.abs(read_video(tmp_path / "clip.mp4").astype(int) - frames).max() <= 4


@pytest.mark.parametrize("fps", [23.976, Fraction(30000, 1001), 12])
def test_frame_rates_may_be_fractions(fps, tmp_path):
    video.write_mp4(moving_frames(), tmp_path / "clip.mp4", fps=fps)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(float(fps), abs=1e-3)


def test_odd_sizes_are_refused_for_the_browser(tmp_path):
    with pytest.raises(ValueError, match="31 x 64, height and width must be even"):
        video.write_mp4(moving_frames()[:, :31], tmp_path / "clip.mp4")


def test_a_part_of_a_clip_is_the_same_frames(tmp_path):
    frames = moving_frames(12)
    video.write_mp4(frames, tmp_path / "clip.mp4", lossless=True)
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4", num_frames=5, start=4), frames[4:9])
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4", start=10), frames[10:])


def test_a_clip_that_is_too_short_is_named_with_both_lengths(tmp_path):
    video.write_mp4(moving_frames(9), tmp_path / "short.mp4")
    with pytest.raises(VideoError, match="short.mp4 has 9 frames, but 81 frames from frame 0"):
        read_video(tmp_path / "short.mp4", num_frames=81)
    with pytest.raises(VideoError, match="short.mp4 has 9 frames, but a frame from frame 9"):
        read_video(tmp_path / "short.mp4", start=9)


def test_a_file_that_is_no_clip_is_named(tmp_path):
    clip = tmp_path / "clip.mp4"
    video.write_mp4(moving_frames(), clip)
    for name, data in {"empty": b"", "text": b"hello", "cut": clip.read_bytes()[:700]}.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
    for name in ("empty", "text", "cut", "missing"):
        with pytest.raises(VideoError, match=f"{name}.mp4"):
            read_video(tmp_path / f"{name}.mp4")


def test_sound_alone_is_no_clip(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 48000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="sound.mp4 holds no video"):
        read_video(tmp_path / "sound.mp4")


@contextmanager
def files_up_to(num_bytes: int):
    """Let no file of this process grow beyond `num_bytes`: writing fails as it does on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("lossless", [False, True])
def test_a_clip_that_does_not_fit_leaves_the_older_one_and_no_rubbish(lossless, tmp_path):
    path = tmp_path / "clip.mp4"
    video.write_mp4(moving_frames(), path)
    before = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (9, 128, 128, 3), dtype=np.uint8)
    with files_up_to(20_000), pytest.raises(OSError, match="the clip clip.mp4 was not written"):
        video.write_mp4(noise, path, lossless=lossless)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_a_full_disk_is_named_as_such(tmp_path, monkeypatch):
    encode = video._encode
    # Linux's always full device, so that the error takes its real way through FFmpeg.
    monkeypatch.setattr(
        video, "_encode", lambda frames, path, fps, lossless: encode(frames, "/dev/full", fps, lossless)
    )
    with pytest.raises(OSError, match="clip.mp4 was not written: the disk is full") as caught:
        video.write_mp4(moving_frames(), tmp_path / "clip.mp4")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match="clip.mp4 was not written: No such file"):
        video.write_mp4(moving_frames(), tmp_path / "gone" / "clip.mp4")


def display_p3() -> bytes:
    """A profile of Display P3, made by hand: primaries of SMPTE EG 432-1 adapted to D50, and a gamma of 2.2."""

    def number(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(*values):
        return b"XYZ " + bytes(4) + b"".join(map(number, values))

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    text = b"desc" + bytes(4) + struct.pack(">I", 3) + b"P3\0" + bytes(78)
    tags = {
        b"desc": text,
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.51512, 0.24120, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.15710, 0.06657, 0.78407),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
        b"cprt": b"text" + bytes(4) + b"-\0\0\0",
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12)
    header += b"acsp" + bytes(28) + b"".join(map(number, (0.9642, 1, 0.8249)))
    return header.ljust(128, b"\0") + table + body


@pytest.mark.parametrize("form", ["JPEG", "PNG", "PNG with alpha", "WEBP"])
def test_photographs_with_a_profile_become_srgb(form):
    brick = Image.new("RGBA" if "alpha" in form else "RGB", (64, 48), (200, 98, 70))
    found = video.open_image(encoded(brick, format=form.split()[0], icc_profile=display_p3(), quality=95))
    assert np.abs(np.asarray(found, int)[20, 30] - [215, 90, 60]).max() <= 4


def test_a_damaged_profile_leaves_a_photograph_as_it_is():
    found = video.open_image(encoded(gradient(), icc_profile=b"this is no profile"))
    assert distance(found, gradient()) == 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_that_is_made_small_is_the_whole_one_made_small(mode, orientation):
    """In every mode, with whatever is decoded at half its size or reduced before it is converted."""
    image = gradient().resize((640, 384), Image.Resampling.BICUBIC)
    if mode in ("I;16", "F"):
        grey = np.asarray(image.convert("L"), np.float32) / 255
        image = Image.fromarray(grey if mode == "F" else np.rint(grey * 65535).astype(np.uint16))
    else:
        image = image.convert(mode)
    kind = {"CMYK": "JPEG", "F": "TIFF", "I;16": "PNG"}.get(mode, "PNG")
    exif = Image.Exif()
    if kind != "TIFF":
        exif[0x0112] = orientation
    data = encoded(image, format=kind, exif=exif)
    whole, small = video.open_image(data), video.open_image(data, longest_side=80)
    whole.thumbnail((80, 80), Image.Resampling.LANCZOS)
    assert small.size == whole.size and max(small.size) == 80
    apart = np.abs(np.asarray(small, float) - np.asarray(whole, float)).mean()
    assert apart < (25 if mode == "1" else 3), "of a dithered picture a thumbnail is no mean"


def test_a_picture_is_refused_or_drafted_before_memory_is_taken(monkeypatch):
    monkeypatch.setattr(video, "MAX_DECODED_PIXELS", 300 * 300)
    image = Image.new("RGB", (800, 800), (90, 120, 200))
    plain, progressive = encoded(image, format="JPEG"), encoded(image, format="JPEG", progressive=True)
    assert video.open_image(plain, longest_side=100).size == (100, 100)
    for data in (encoded(image), progressive):
        with pytest.raises(video.ImageError, match=r"800 x 800 pixels; of its kind at most 0.09 megapixels"):
            video.open_image(data, longest_side=100)
        assert video.open_image(data).size == (800, 800), "where nobody asks for less"
