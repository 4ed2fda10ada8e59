"""The kinds that Pillow and imagecodecs write, TIFF as scientific programs write it aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from corpus_kind import (
    FEW,
    HEIGHT,
    TURNED,
    WIDTH,
    Kind,
    bits_of,
    coded,
    grey,
    image_of,
    named,
    picture,
    plain,
    rgb,
    saved,
    shows_of,
    stored,
    turned,
)


def _png() -> Iterator[Kind]:
    from PIL.PngImagePlugin import PngInfo

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield plain("PNG", mode, "plain", ".png")
        yield plain("PNG", mode, "best compression", ".png", compress_level=9)
    for bits in (1, 2, 4):

        def few(bits: int = bits) -> bytes:
            return saved(image_of("RGB").quantize(2**bits), "PNG", bits=bits)

        # Of two colours there are many right choices.
        yield Kind("PNG", "P", bits, "palette", ".png", few, "few colours" if bits > 1 else "unknown", 30.0)
    yield from turned("PNG", ".png")
    yield plain("PNG", "RGB", "no suffix", "", "PNG")
    yield plain("PNG", "RGB", "unknown suffix", ".orig", "PNG")
    yield plain("PNG", "RGB", "named jpg", ".jpg", "PNG")
    for mode, value in (("L", 0), ("RGB", (1, 2, 3)), ("I;16", 7)):  # a colour that no pixel has
        yield plain("PNG", mode, "tRNS", ".png", transparency=value)
    text, much = PngInfo(), PngInfo()
    text.add_text("Comment", "a picture")
    much.add_text("Comment", "word " * 300_000, zip=True)
    yield plain("PNG", "RGB", "text", ".png", pnginfo=text)
    yield plain("PNG", "RGB", "much text", ".png", pnginfo=much)
    yield plain("PNG", "RGB", "profile", ".png", icc_profile=_srgb())
    yield plain("PNG", "RGB", "animated", ".png", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))])
    for mode, bits in (("L", 16), ("RGB", 16), ("LA", 16), ("RGBA", 16), ("LA", 8), ("RGBA", 8)):
        yield coded("PNG", mode, bits, "imagecodecs", ".png", "png_encode")
    yield coded("PNG", "RGB", 8, "apng", ".apng", "apng_encode")


def _srgb() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _jpeg() -> Iterator[Kind]:
    for mode in ("L", "RGB", "CMYK"):
        for quality in (50, 75, 95):
            yield plain("JPEG", mode, f"lossy q{quality}", ".jpg", quality=quality)
        yield plain("JPEG", mode, "lossy progressive", ".jpeg", progressive=True, quality=90)
    for suffix in (".jpe", ".jfif", ".JPG", ".jif", "", ".unknown"):
        yield plain("JPEG", "RGB", f"lossy {named(suffix)}", suffix, quality=90)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
        yield plain("JPEG", "RGB", f"lossy {subsampling}", ".jpg", quality=90, subsampling=subsampling)
    yield plain("JPEG", "RGB", "lossy components R G B", ".jpg", quality=90, keep_rgb=True)
    yield plain("JPEG", "RGB", "lossy restart markers", ".jpg", quality=90, restart_marker_rows=1)
    yield plain("JPEG", "RGB", "lossy profile", ".jpg", quality=90, icc_profile=_srgb())
    yield plain("JPEG", "RGB", "lossy comment", ".jpg", quality=90, comment=b"a picture")
    yield plain("JPEG", "RGB", "lossy two pictures", ".mpo", "MPO", save_all=True, append_images=[image_of("RGB")])
    yield from turned("JPEG", ".jpg", tag="lossy", quality=90)
    yield from turned("JPEG", ".jpg", "L", tag="lossy", quality=90)
    yield coded("JPEG", "L", 12, "lossy", ".jpg", "jpeg8_encode", bitspersample=12)
    yield coded("JPEG", "RGB", 12, "lossy", ".jpg", "jpeg8_encode", bitspersample=12)
    yield coded("JPEG", "L", 8, "lossless", ".jpg", "jpeg8_encode", lossless=True)
    yield coded("JPEG", "L", 16, "lossless", ".jpg", "jpeg8_encode", lossless=True)
    yield coded("JPEG", "L", 8, "lossless SOF3", ".ljpg", "ljpeg_encode")


def _webp() -> Iterator[Kind]:
    for mode in ("L", "RGB", "RGBA"):
        yield plain("WEBP", mode, "lossless", ".webp", lossless=True)
        yield plain("WEBP", mode, "lossy", ".webp", quality=90)
    yield from turned("WEBP", ".webp", tag="lossy", quality=90)
    yield plain("WEBP", "RGB", "lossy profile", ".webp", quality=90, icc_profile=_srgb())
    yield plain("WEBP", "RGB", "lossy animated", ".webp", quality=90, save_all=True, append_images=[image_of("L")])


def _gif() -> Iterator[Kind]:
    for mode in ("1", "L", "P"):
        yield plain("GIF", mode, "plain", ".gif")
        yield plain("GIF", mode, "interlaced", ".gif", interlace=1)
    yield Kind("GIF", "RGBA", 8, "hole", ".gif", lambda: saved(image_of("RGBA"), "GIF"), "hole", FEW)
    yield plain("GIF", "P", "animated", ".gif", save_all=True, append_images=[image_of("L")])


def _bitmaps() -> Iterator[Kind]:
    for mode in ("1", "L", "P", "RGB"):
        yield plain("BMP", mode, "plain", ".bmp")
        yield plain("DIB", mode, "plain", ".dib")
    # Whether the fourth byte is transparency or padding is for the reader to guess.
    yield Kind("BMP", "RGBA", 8, "32 bits", ".bmp", lambda: saved(image_of("RGBA"), "BMP"), "unknown")
    for mode, suffix in (("1", ".pbm"), ("L", ".pgm"), ("I;16", ".pgm"), ("RGB", ".ppm"), ("F", ".pfm")):
        yield plain("PPM", mode, "raw", suffix)
    yield plain("PPM", "RGB", "raw", ".pnm")
    for mark, mode, values, top in (("1", "1", grey() <= 127, 0), ("2", "L", grey(), 255), ("3", "RGB", rgb(), 255)):

        def encode(mark: str = mark, values: Shaped[np.ndarray, "..."] = values, top: int = top) -> bytes:
            numbers = " ".join(map(str, values.astype(int).ravel()))
            lines = "\n".join(numbers[i : i + 60] for i in range(0, len(numbers), 60)) if mark == "1" else numbers
            return f"P{mark}\n{WIDTH} {HEIGHT}\n{top or ''}\n{lines}\n".encode()

        yield Kind("PPM", mode, bits_of(mode), "plain text", ".pnm", encode, shows_of(mode))


def _tiff_of_pillow() -> Iterator[Kind]:
    squeezed = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "tiff_deflate", "lzma", "zstd")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F"):
        for compression in squeezed if mode in ("1", "L", "RGB", "I;16", "P") else squeezed[:3]:
            yield plain("TIFF", mode, f"Pillow {compression}", ".tif", compression=compression)
    for compression in ("group3", "group4", "tiff_ccitt"):
        yield plain("TIFF", "1", f"Pillow {compression}", ".tiff", compression=compression)
    for compression in ("jpeg", "webp"):
        yield plain("TIFF", "RGB", f"Pillow lossy {compression}", ".tiff", compression=compression)
    for mode in ("RGB", "L"):
        for orientation in TURNED:

            def encode(mode: str = mode, orientation: int = orientation) -> bytes:
                return saved(stored(image_of(mode), orientation), "TIFF", tiffinfo={274: orientation})

            yield Kind("TIFF", mode, 8, f"Pillow orientation {orientation}", ".tif", encode, shows_of(mode))
    yield plain("TIFF", "RGB", "Pillow two pages", ".tif", save_all=True, append_images=[image_of("L")])
    yield plain("TIFF", "RGB", "Pillow BigTIFF", ".tif", big_tiff=True)


def _avif() -> Iterator[Kind]:
    for mode in ("L", "RGB", "RGBA"):
        yield plain("AVIF", mode, "lossy", ".avif", quality=90, speed=10)
    for subsampling in ("4:2:0", "4:2:2", "4:4:4"):
        yield plain("AVIF", "RGB", f"lossy {subsampling}", ".avif", quality=90, subsampling=subsampling, speed=10)
    yield from turned("AVIF", ".avif", tag="lossy", quality=90, speed=10)
    yield plain(
        "AVIF", "RGB", "lossy animated", ".avifs", quality=90, speed=10, save_all=True, append_images=[image_of("L")]
    )
    for bits in (8, 10, 12):
        for mode in ("RGB", "RGBA"):
            yield coded("AVIF", mode, bits, "imagecodecs", ".avif", "avif_encode", bitspersample=bits, level=95)


def _jpeg2000() -> Iterator[Kind]:
    for mode in ("L", "LA", "RGB", "RGBA", "I;16"):
        yield plain("JPEG2000", mode, "lossless", ".jp2")
        yield plain("JPEG2000", mode, "code stream", ".j2k", no_jp2=True)
    for suffix in (".jpx", ".jpf", ".j2c", ".jpc"):
        yield plain("JPEG2000", "RGB", f"lossless {suffix[1:]}", suffix, no_jp2=suffix in (".j2c", ".jpc"))
    yield plain("JPEG2000", "RGB", "lossy", ".jp2", irreversible=True, quality_layers=[5])
    for bits in (12, 16):
        for mode in ("L", "RGB"):
            yield coded("JPEG2000", mode, bits, "imagecodecs", ".jp2", "jpeg2k_encode", bitspersample=bits)


def _others_of_pillow() -> Iterator[Kind]:
    some: dict[str, tuple[str, ...]] = {
        "TGA": ("1", "L", "LA", "P", "RGB", "RGBA"),
        "PCX": ("1", "L", "P", "RGB"),
        "SGI": ("L", "RGB", "RGBA"),
        "DDS": ("L", "LA", "RGB", "RGBA"),
        "QOI": ("RGB", "RGBA"),
        "ICO": ("RGB", "RGBA"),
        "ICNS": ("RGBA",),
        "IM": ("1", "L", "P", "RGB", "CMYK"),
        "MSP": ("1",),
        "XBM": ("1",),
        "SPIDER": ("F",),
    }
    for container, modes in some.items():
        for mode in modes:
            kind = plain(container, mode, "plain", f".{container.lower()}")
            # Icons are squares of other sizes.
            other = container in ("ICO", "ICNS")
            yield kind if not other else Kind(container, mode, 8, "plain", kind.suffix, kind.encode, "unknown")
    yield plain("TGA", "RGB", "packed", ".tga", compression="tga_rle")
    yield plain("SGI", "RGB", "named rgb", ".rgb")


def _codecs() -> Iterator[Kind]:
    yield coded("JPEG-LS", "L", 8, "lossless", ".jls", "jpegls_encode")
    yield coded("JPEG-LS", "RGB", 8, "lossless", ".jls", "jpegls_encode")
    for mode, bits in (("L", 8), ("RGB", 8), ("L", 16), ("RGB", 16)):
        yield coded("JPEG-XR", mode, bits, "lossless", ".jxr", "jpegxr_encode", level=1.0)
    yield coded("WEBP", "RGB", 8, "imagecodecs", ".webp", "webp_encode", lossless=True)
    yield coded("QOI", "RGB", 8, "imagecodecs", ".qoi", "qoi_encode")
    yield coded("BMP", "RGB", 8, "imagecodecs", ".bmp", "bmp_encode")

    def radiance() -> bytes:
        import imagecodecs

        return bytes(imagecodecs.rgbe_encode(picture().astype(np.float32), header=True))

    yield Kind("Radiance HDR", "RGB", 32, "linear", ".hdr", radiance, "unknown")


FAMILIES: tuple[Callable[[], Iterator[Kind]], ...] = (
    *(_png, _jpeg, _webp, _gif, _bitmaps, _tiff_of_pillow, _avif),
    *(_jpeg2000, _others_of_pillow, _codecs),
)
"""Each iterates over the kinds of a container."""
