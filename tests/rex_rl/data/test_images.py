"""Image files within limits: what is refused and how it is named, orientation, and paths that leave the folder."""

import contextlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rex_rl.data import images
from rex_rl.data.images import ImageFolder, image_size, open_image
from rex_rl.errors import DataError

PHOTOS = Path(__file__).parents[2] / "fixtures" / "photos"


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def two_halves() -> Image.Image:
    """40x20: left half red, right half blue."""
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (20, 0, 40, 20))
    return image


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def refusal(read, *arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("image: ")
    return message


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_photographs_open_as_rgb_of_the_size_their_header_says(name: str) -> None:
    path = PHOTOS / f"{name}.jpg"
    image = open_image(path)
    assert image.mode == "RGB"
    assert image.size == image_size(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_every_allowed_format_opens(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", two_halves())
    assert open_image(path).size == image_size(path) == (40, 20)


@pytest.mark.parametrize("suffix", ["gif", "tiff", "ppm"])
def test_a_format_not_on_the_list_is_refused_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", two_halves()).rename(tmp_path / "a.png")
    for read in (open_image, image_size):
        message = refusal(read, path)
        assert message == f"image: cannot identify image file '{path}' (known: PNG, JPEG, WEBP, BMP)"


def test_text_empty_missing_and_special_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    for read in (open_image, image_size):
        assert "cannot identify image file" in refusal(read, tmp_path / "text.jpg")
        assert "empty file" in refusal(read, tmp_path / "empty.jpg")
        assert "no such file" in refusal(read, tmp_path / "none.jpg")
        assert "not a regular file" in refusal(read, tmp_path / "pipe.jpg")
        assert "not a regular file" in refusal(read, tmp_path)


def test_a_line_end_in_a_file_name_stays_out_of_the_message(tmp_path: Path) -> None:
    assert "no such file" in refusal(open_image, tmp_path / "two\nlines.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_a_truncated_file_is_refused_when_it_is_decoded(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(pixels))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(open_image, path)


def test_the_pixel_limit_is_read_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decoded: this file has no pixels left, and the error still names the size."""
    path = save(tmp_path / "a.png", Image.new("L", (3000, 2000)))
    path.write_bytes(path.read_bytes()[:100])
    monkeypatch.setattr(images, "MAX_PIXELS", 1_000_000)
    for read in (open_image, image_size):
        message = refusal(read, path)
        assert message.startswith("image: 3000x2000 is 6,000,000 pixels, more than 1,000,000")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_001, 10_000, 20_000])
def test_a_bomb_above_the_default_limit_is_refused(tmp_path: Path, side: int) -> None:
    """Also where Pillow's own warning (89 megapixels) and error (179) come before ours."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(content + bytes(4) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    for read in (open_image, image_size):
        assert "64,000,000" in refusal(read, tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", ["jpg", "webp", "png"])
@pytest.mark.parametrize(
    ("orientation", "size", "red_corner"),
    [
        (1, (40, 20), (1, 1)),
        (2, (40, 20), (38, 1)),
        (3, (40, 20), (38, 18)),
        (6, (20, 40), (10, 1)),
        (8, (20, 40), (10, 38)),
        (9, (40, 20), (1, 1)),
    ],
)
def test_images_come_upright(
    tmp_path: Path, suffix: str, orientation: int, size: tuple[int, int], red_corner: tuple[int, int]
) -> None:
    """Header and pixels agree; 6 means the camera was turned, so the stored left edge is the upright top."""
    path = save(tmp_path / f"a.{suffix}", two_halves(), exif=turned(orientation))
    image = open_image(path)
    assert image.size == image_size(path) == size
    red, _, blue = image.getpixel(red_corner)
    assert red > 200 > 50 > blue


def test_no_metadata_is_left_that_would_turn_the_image_again(tmp_path: Path) -> None:
    image = open_image(save(tmp_path / "a.jpg", two_halves(), exif=turned(6)))
    assert image.info == {}
    assert dict(image.getexif()) == {}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_metadata_does_not_make_an_image_unusable(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", two_halves(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert open_image(path).size == image_size(path) == (40, 20)


def test_another_size_than_the_records_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", two_halves())
    assert open_image(path, size=(40, 20)).size == (40, 20)
    assert refusal(open_image, path, size=(50, 37)) == "image: is 40x20, the file says 50x37"
    assert "EXIF" in refusal(open_image, path, size=(20, 40))


def test_transparent_pixels_stand_on_white(tmp_path: Path) -> None:
    for mode in ("RGBA", "LA", "P"):
        clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0)).convert(mode)
        options = {"transparency": clear.getpixel((0, 0))} if mode == "P" else {}
        image = open_image(save(tmp_path / f"{mode}.png", clear, **options))
        assert image.getpixel((0, 0)) == (255, 255, 255)


def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.full((4, 4), 0x80FF, dtype=np.uint16)))
    assert open_image(path).getpixel((0, 0)) == (0x80, 0x80, 0x80)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    assert open_image(save(tmp_path / f"a.{suffix}", two_halves().convert(mode))).mode == "RGB"


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused_or_read_and_raise_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = Image.open(PHOTOS / "chelsea.jpg").resize((48, 32))
    for suffix in ("png", "jpg", "webp", "bmp"):
        whole = np.frombuffer(save(tmp_path / f"a.{suffix}", small, exif=turned(6)).read_bytes(), dtype=np.uint8)
        for _ in range(100):
            damaged = whole[: rng.integers(1, whole.size + 1)].copy()
            damaged[rng.integers(0, min(damaged.size, 400), 3)] = rng.integers(0, 256, 3)
            (tmp_path / "b").write_bytes(damaged.tobytes())
            for read in (image_size, open_image):
                with contextlib.suppress(DataError):
                    assert read(tmp_path / "b")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """data/ with an image and links, beside a file that no path may reach."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (tmp_path / "secret.png").touch()
    (tmp_path / "data2").mkdir()
    (data / "images" / "a.png").touch()
    (data / "images" / "within.png").symlink_to("a.png")
    (data / "images" / "out.png").symlink_to(tmp_path / "secret.png")
    (data / "out").symlink_to(tmp_path)
    (data / "loop.png").symlink_to("loop.png")
    return data


@pytest.mark.parametrize(
    "name", ["images/a.png", "./images/a.png", "images/../images/a.png", "images/within.png", "images/none.png"]
)
def test_paths_inside_the_folder_are_located(folder: Path, name: str) -> None:
    found = ImageFolder(folder).locate(name)
    assert os.path.isabs(found)
    assert os.path.realpath(found) == os.path.realpath(folder / name)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "images/../../secret.png",
        "images/out.png",
        "out/secret.png",
        "out/data2/x.png",
        "../data2/x.png",
        "/etc/passwd",
        "out",
        ".",
        "..",
        "images/..",
    ],
)
def test_paths_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    assert "lies outside the images folder" in refusal(ImageFolder(folder).locate, name)


def test_absolute_paths_are_taken_inside_the_folder_only(folder: Path) -> None:
    inside = str(folder / "images" / "a.png")
    assert ImageFolder(folder).locate(inside) == inside
    assert "outside" in refusal(ImageFolder(folder).locate, str(folder.parent / "secret.png"))


def test_the_folder_may_be_a_link_itself(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert ImageFolder(link).locate("images/a.png") == str(link / "images" / "a.png")
    assert "outside" in refusal(ImageFolder(link).locate, "images/out.png")


def test_odd_names_are_refused_not_raised(folder: Path) -> None:
    assert "NUL" in refusal(ImageFolder(folder).locate, "a\0b.png")
    refusal(open_image, ImageFolder(folder).locate("loop.png"))
    refusal(open_image, ImageFolder(folder).locate("x" * 5000))
    with pytest.raises(DataError, match="images: no such folder"):
        ImageFolder(folder / "none")
