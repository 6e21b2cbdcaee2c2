"""Footage is read as a player shows it, whatever the file says beside its pixels; damage is named with its second."""

from __future__ import annotations

import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from wanact.media import video
from wanact.media.footage import frames_of, num_frames_of, read_video
from wanact.media.video import VideoError, write_mp4

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 180, 40), (30, 40, 210), (235, 235, 235)


def corners(height: int = 64, width: int = 96) -> np.ndarray:
    """A picture whose corners are red, green, blue and white in the order of reading."""
    picture = np.zeros((height, width, 3), np.uint8)
    for row, column, colour in ((0, 0, RED), (0, 1, GREEN), (1, 0, BLUE), (1, 1, WHITE)):
        picture[row * height // 2 :, column * width // 2 :] = colour
        picture[row * height // 2 : (row + 1) * height // 2, column * width // 2 : (column + 1) * width // 2] = colour
    return picture


def numbered(count: int, height: int = 32, width: int = 64) -> np.ndarray:
    """Frames that are told by their grey: frame k is 5 k + 10."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (5 * np.arange(count) + 10)[:, None, None, None]
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    return np.rint((frames.mean(axis=(1, 2, 3)) - 10) / 5).astype(int).tolist()


def write(path, frames, *, codec="libx264", fmt="yuv420p", rate=16, times=None, options=None, before=None):
    """Encode RGB frames (or ready VideoFrames) with everything at hand to say beside them.

    Args:
        times: time stamp of each in seconds; as `rate` says if not given.
        before: called with the stream, to set what stands in the file beside the pixels.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"crf": "4", "preset": "veryfast"})
        stream.pix_fmt = fmt
        first = frames[0]
        stream.width, stream.height = (
            (first.width, first.height) if isinstance(first, av.VideoFrame) else first.shape[1::-1]
        )
        stream.codec_context.time_base = Fraction(1, 90000)
        if before is not None:
            before(stream)
        for index, frame in enumerate(frames):
            if not isinstance(frame, av.VideoFrame):
                frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
                frame = frame.reformat(format=fmt, dst_colorspace=int(stream.codec_context.colorspace))
            frame.time_base = Fraction(1, 90000)
            frame.pts = round((index / rate if times is None else times[index]) * 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def in_709(stream):
    stream.codec_context.colorspace = 1
    stream.codec_context.color_range = 1


def colours(frame: np.ndarray) -> list[tuple[int, ...]]:
    """Colours in the middle of the four quarters, in the order of reading."""
    height, width = frame.shape[:2]
    return [tuple(frame[y * height // 4, x * width // 4].tolist()) for y in (1, 3) for x in (1, 3)]


def alike(found, expected, within=6):
    return all(abs(a - b) <= within for f, e in zip(found, expected, strict=True) for a, b in zip(f, e, strict=True))


# Time


@pytest.mark.parametrize("rate", [60, 30, 25, 24, Fraction(30000, 1001), 16, 8])
def test_the_frame_that_is_on_the_screen_is_taken_whatever_the_rate(tmp_path, rate):
    frames = numbered(48)
    path = write(tmp_path / "clip.mp4", frames, rate=rate)
    taken = read_video(path, fps=16)
    expected = [int((k / 16 + 0.002) * rate) for k in range(len(taken))]
    assert numbers(taken) == expected
    assert len(taken) == num_frames_of(path, 16) == int(np.ceil(48 * 16 / rate - 0.1))


def test_time_stamps_count_and_not_the_number_of_a_frame(tmp_path):
    times = [0, 0.03, 0.1, 0.13, 0.3, 0.32, 0.45, 0.5]
    path = write(tmp_path / "vfr.mkv", numbered(8), times=times)
    taken = read_video(path, fps=16)
    expected = [max(i for i, t in enumerate(times) if t <= k / 16 + 0.002) for k in range(len(taken))]
    assert numbers(taken) == expected and len(taken) >= 8


def test_stamps_in_milliseconds_skip_and_repeat_no_frame(tmp_path):
    path = write(tmp_path / "clip.mkv", numbered(40), rate=16)  # 62.5 ms is 62 or 63 in Matroska
    assert numbers(read_video(path, fps=16)) == list(range(40))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize("rate", [16, 30])
def test_a_part_of_a_clip_equals_that_part_of_all_of_it(tmp_path, name, rate):
    path = write(tmp_path / name, numbered(45), rate=rate, options={"g": "12", "bf": "2", "crf": "4"})
    everything = read_video(path, fps=16)
    for start in (0, 1, 7, 12, 19):
        np.testing.assert_array_equal(read_video(path, 4, start, 16), everything[start : start + 4])


def test_lossless_clips_of_the_simulator_are_read_bit_by_bit(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 64, 3), dtype=np.uint8)
    write_mp4(frames, tmp_path / "clip.mp4", lossless=True)
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4", 9, fps=16, size=(32, 64)), frames)


# Picture


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
@pytest.mark.parametrize("size", [None, (64, 64), (32, 96)])
def test_a_turned_phone_gives_the_picture_that_a_player_shows(tmp_path, turned, size):
    path = write(
        tmp_path / "phone.mov",
        [corners()] * 3,
        before=lambda stream: (in_709(stream), turned and stream.set_display_rotation(turned)),
    )
    shown = read_video(path, size=size)[0]
    expected = np.rot90(corners(), turned // 90)  # both counter-clockwise
    assert shown.shape[:2] == (size or expected.shape[:2])
    assert alike(colours(shown), colours(expected))


def test_mirrored_matrices_are_heard(tmp_path):
    unit = 1 << 16

    def mirror(stream):
        in_709(stream)
        stream.set_display_matrix([-unit, 0, 0, 0, unit, 0, 96 * unit, 0, 1 << 30])

    path = write(tmp_path / "selfie.mov", [corners()] * 2, before=mirror)
    assert alike(colours(read_video(path)[0]), colours(corners()[:, ::-1]))


def test_odd_angles_are_refused(tmp_path):
    path = write(tmp_path / "tilted.mov", [corners()] * 2, before=lambda stream: stream.set_display_rotation(30))
    with pytest.raises(VideoError, match="tilted.mov is to be shown turned by .* only quarter turns"):
        read_video(path)


def test_wide_pixels_are_made_square(tmp_path):
    def wide(stream):
        in_709(stream)
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    path = write(tmp_path / "dv.mp4", [corners(64, 48)] * 2, before=wide)
    assert read_video(path).shape[1:3] == (64, 96)
    shown = read_video(path, size=(64, 64))[0]  # the middle of 96 columns, not all of 48
    assert alike(colours(shown), colours(corners(64, 96)[:, 16:80]))
    padded = read_video(path, size=(96, 96), fit="pad")[0]
    assert not padded[:15].any() and padded[20:75].any(axis=-1).all()


@pytest.mark.parametrize("matrix, size", [(1, (64, 96)), (5, (64, 96)), (9, (64, 96)), (2, (64, 96)), (2, (720, 1280))])
@pytest.mark.parametrize("full", [False, True])
def test_colour_matrix_and_range_are_heard_and_guessed_as_players_do(tmp_path, matrix, size, full):
    """Pixels are made by the equations of ITU-R BT.601, 709 and 2020, not by FFmpeg."""
    real = matrix if matrix != 2 else (1 if size[0] >= 720 else 5)
    kr, kb = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[real]
    rgb = corners(*size).astype(float) / 255
    luma = rgb @ [kr, 1 - kr - kb, kb]
    planes = [luma, (rgb[..., 2] - luma) / (2 - 2 * kb), (rgb[..., 0] - luma) / (2 - 2 * kr)]
    scale, offset = ([255, 255, 255], [0, 128, 128]) if full else ([219, 224, 224], [16, 128, 128])
    frame = av.VideoFrame(size[1], size[0], "yuv444p")
    for plane, values, s, o in zip(frame.planes, planes, scale, offset, strict=True):
        pixels = np.full((plane.height, plane.line_size), 0, np.uint8)
        pixels[:, : size[1]] = np.clip(np.rint(s * values + o), 0, 255)
        plane.update(pixels.tobytes())

    def says(stream):
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1

    path = write(tmp_path / "clip.mp4", [frame], fmt="yuv444p", before=says)
    assert alike(colours(read_video(path)[0]), colours(corners(*size)), within=4)


def interlaced(frames: np.ndarray) -> list[av.VideoFrame]:
    """Each frame shows its even lines, and half a frame later the odd ones of the next picture."""
    woven = frames[::2].copy()
    woven[:, 1::2] = frames[1::2, 1::2]
    return [av.VideoFrame.from_ndarray(f, format="rgb24").reformat(format="yuv420p") for f in woven]


def test_fields_are_not_left_as_combs(tmp_path):
    moving = np.zeros((24, 64, 96, 3), np.uint8)
    for index, frame in enumerate(moving):
        frame[:, 3 * index : 3 * index + 24] = 220
    path = write(
        tmp_path / "camcorder.mp4", interlaced(moving), options={"x264-params": "tff=1:interlaced=1", "crf": "4"}
    )
    comb = read_video(path)[3:9].astype(int)
    with av.open(str(path)) as container:
        raw = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])[3:9].astype(int)

    def combing(frames):
        return np.abs(frames[:, 1:-1] - (frames[:, :-2] + frames[:, 2:]) / 2).mean()

    assert len(comb) == len(raw) and combing(comb) < combing(raw) / 4


def nits_to_pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, equation 5.2."""
    y = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def nits_to_hlg(nits: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100, for a display of 1000 cd/m2 and grey, whose light is the scene's to the power of 1.2."""
    light = (nits / 1000) ** (1 / 1.2)
    upper = 0.17883277 * np.log(np.maximum(12 * light - 0.28466892, 1e-9)) + 0.55991073
    return np.where(light <= 1 / 12, np.sqrt(3 * light), upper)


def srgb(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def write_light(path, codes: np.ndarray, transfer: int, options=None):
    """Grey bars 16 pixels wide of these code values (0 to 1), HEVC with 10 bits in BT.2020."""
    frame = av.VideoFrame(16 * len(codes), 64, "yuv420p10le")
    luma = np.rint(64 + 876 * np.repeat(codes, 16)).astype(np.uint16)
    for plane, row in zip(frame.planes, (luma, None, None), strict=True):
        pixels = np.full((plane.height, plane.line_size // 2), 512, np.uint16)
        if row is not None:
            pixels[:, : len(row)] = row
        plane.update(pixels.tobytes())

    def says(stream):
        context = stream.codec_context
        context.colorspace, context.color_range = 9, 1
        context.color_primaries, context.color_trc = 9, transfer

    params = "log-level=none:lossless=1:bframes=0:frame-threads=1:pools=none" + (options or "")
    return write(path, [frame], codec="libx265", fmt="yuv420p10le", before=says, options={"x265-params": params})


def test_hdr_that_does_not_say_how_bright_it_is_has_its_reference_white_at_white(tmp_path):
    nits = np.array([0.0, 1, 5, 20, 50, 100, 203, 1000])
    path = write_light(tmp_path / "pq.ts", nits_to_pq(nits), 16)
    shown = read_video(path)[0][32, 8::16]
    assert np.abs(shown - srgb(nits / 203)[:, None]).max() <= 3


@pytest.mark.parametrize("kind", ["hlg", "pq mastered for 1000 cd/m2"])
def test_highlights_of_hdr_are_rolled_off_and_the_rest_keeps_its_order_and_tone(tmp_path, kind):
    nits = np.array([0.0, 5, 20, 50, 100, 203, 400, 1000])
    if kind == "hlg":
        path = write_light(tmp_path / "light.ts", nits_to_hlg(nits), 18)
    else:
        display = ":master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1)"
        path = write_light(tmp_path / "light.ts", nits_to_pq(nits), 16, display)
    shown = read_video(path, size=(64, 128))[0][32, 8::16].astype(int)
    assert (np.ptp(shown, axis=1) <= 3).all(), "grey stays grey"
    grey = shown[:, 1]
    assert (np.diff(grey) > 3).all() and grey[0] <= 1 and grey[-1] >= 245
    clipped = srgb(nits / 203)
    assert abs(grey[1] - clipped[1]) < 10 and grey[6] < 220 < clipped[6], "shadows stay, highlights are not cut off"


# One colour in both, by the matrices of SMPTE EG 432-1 and IEC 61966-2-1.
SRGB_BRICK, P3_BRICK = (215, 90, 60), (200, 98, 70)


def test_display_p3_video_becomes_srgb(tmp_path):
    def says(stream):
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = 1, 1, 12, 1

    picture = np.tile(np.array(P3_BRICK, np.uint8), (64, 96, 1))
    path = write(tmp_path / "p3.mov", [picture] * 2, fmt="yuv444p", before=says)
    assert alike([tuple(read_video(path)[0][32, 48].tolist())], [SRGB_BRICK], within=8)
    assert not alike([P3_BRICK], [SRGB_BRICK], within=8)


# Which track


def two_tracks(path, sizes, counts, codecs=("mjpeg", "libx264")):
    """A file with a track for each size; pictures of the second are numbered, those of the first black."""
    with av.open(str(path), "w") as container:
        streams = []
        for (height, width), codec in zip(sizes, codecs, strict=True):
            stream = container.add_stream(codec, rate=16, options={"crf": "4"} if codec == "libx264" else {})
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuv420p" if codec == "libx264" else "yuvj420p"
            streams.append(stream)
        for index, (stream, count, size) in enumerate(zip(streams, counts, sizes, strict=True)):
            frames = numbered(count, *size) * index
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def test_a_thumbnail_before_the_flight_is_not_the_flight(tmp_path):
    path = two_tracks(tmp_path / "clip.mp4", [(128, 128), (32, 64)], [1, 9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(read_video(path, fps=16)) == list(range(9))


def test_of_two_cameras_the_larger_is_read_and_named(tmp_path):
    path = two_tracks(tmp_path / "clip.mp4", [(32, 64), (64, 128)], [9, 9], ("libx264", "libx264"))
    with pytest.warns(UserWarning, match=r"clip.mp4 holds 2 videos; track 1 is read \(128x64\)"):
        assert numbers(read_video(path, fps=16)) == list(range(9))


# Damage


def noise(count: int, height: int = 96, width: int = 160) -> np.ndarray:
    """Frames that need many bytes each."""
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)])


@pytest.mark.parametrize("torn", [9, 20])
def test_a_torn_frame_leaves_the_clip_out_with_its_second(tmp_path, torn):
    path = write(tmp_path / "clip.mp4", noise(33), options={"g": "16", "bf": "0", "crf": "23"})
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.size][torn]
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[place + size // 3 : place + size] = bytes(size - size // 3)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=rf"clip.mp4 is damaged at {torn / 16:.2f} s"):
        read_video(path, fps=16)
    assert len(read_video(path, torn - 1, fps=16)) == torn - 1, "what lies before is sound"
    assert torn >= 16 or len(read_video(path, 16, 16, fps=16)) == 16, "and what a later key frame begins"


def test_a_gap_in_time_is_named(tmp_path):
    times = [k / 16 + (0.8 if k >= 10 else 0) for k in range(20)]
    path = write(tmp_path / "gap.mp4", numbered(20), times=times)
    with pytest.raises(VideoError, match=r"gap.mp4 has a gap: there is no frame between 0.56 s and 1.43 s"):
        read_video(path, fps=16)
    assert numbers(read_video(path, 9, fps=16)) == list(range(9))


def test_a_size_that_changes_is_named(tmp_path):
    parts = [write(tmp_path / f"{i}.ts", numbered(9, *size)) for i, size in enumerate([(96, 160), (160, 96)])]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(VideoError, match=r"joined.ts changes at 0.56 s: its size was 160x96 and becomes 96x160"):
        read_video(joined, fps=16)


def test_a_clip_in_git_lfs_is_called_that(tmp_path):
    (tmp_path / "clip.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(VideoError, match="clip.mp4 is a Git LFS pointer; fetch the file with git lfs pull"):
        read_video(tmp_path / "clip.mp4")


# Memory


def test_frames_are_fitted_while_they_are_decoded(tmp_path):
    """No more than a few frames of full size are held, however long the clip."""
    path = write(tmp_path / "large.mp4", [np.full((720, 1280, 3), 5 * k, np.uint8) for k in range(12)])
    shapes = [frame.shape for frame in frames_of(path, fps=16, size=(64, 96))]
    assert shapes == [(64, 96, 3)] * 12


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", [(32, 64), (64, 48), (48, 48)])
def test_clips_are_fitted_as_pictures_are(tmp_path, fit, size):
    soft = np.asarray(Image.fromarray(corners(6, 10)).resize((160, 96), Image.Resampling.BICUBIC))
    write_mp4(soft[None].repeat(2, 0), tmp_path / "clip.mp4", lossless=True)
    expected = np.asarray(video.fit_image(Image.fromarray(soft), *size, fit), float)
    assert np.abs(read_video(tmp_path / "clip.mp4", size=size, fit=fit)[1] - expected).mean() < 3


# Pictures


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
@pytest.mark.parametrize("milliseconds", [60, 120])
def test_animated_pictures_are_clips_at_their_own_speed(tmp_path, form, milliseconds):
    pictures = [Image.fromarray(frame) for frame in numbered(10)]
    path = tmp_path / f"clip.{form}"
    options = {"lossless": True} if form == "webp" else {}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, **options)
    assert numbers(read_video(path)) == list(range(10))
    taken = read_video(path, fps=16)
    expected = [min(int((1000 * k / 16 + 2) / milliseconds), 9) for k in range(len(taken))]
    assert numbers(taken) == expected and len(taken) == num_frames_of(path, 16) >= 160 * milliseconds // 1000
    assert read_video(path, 3, 2, 16, (64, 64)).shape == (3, 64, 64, 3)


def test_a_folder_of_pictures_is_a_clip_in_the_order_of_its_numbers(tmp_path):
    for index, frame in enumerate(numbered(12)):
        Image.fromarray(frame).save(tmp_path / f"frame{index}.png")
    for other in ("._frame0.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (tmp_path / other).write_bytes(b"no picture")
    assert numbers(read_video(tmp_path, fps=16)) == list(range(12))
    assert numbers(read_video(tmp_path, 4, 8, 16, (32, 32))) == [8, 9, 10, 11]
    assert num_frames_of(tmp_path) == 12
    Image.new("RGB", (10, 10)).save(tmp_path / "frame6.png")
    with pytest.raises(VideoError, match=r"changes at frame6.png \(0.38 s\): its size was 64x32 and becomes 10x10"):
        read_video(tmp_path, fps=16)
    (tmp_path / "frame6.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match="frame6.png is not an image"):
        read_video(tmp_path, fps=16)


def test_what_is_no_animation_says_so(tmp_path):
    (tmp_path / "clip.gif").write_bytes(b"GIF89a and then nothing")
    with pytest.raises(VideoError, match="clip.gif cannot be read"):
        read_video(tmp_path / "clip.gif")
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    with pytest.raises(VideoError, match="still.png has 2 frames at 16 a second, but 9 frames from frame 0"):
        read_video(tmp_path / "still.png", 9, fps=16)
