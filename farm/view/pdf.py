"""A PDF whose pages are pictures, written page by page.

Pillow's own writer keeps every page in memory, or reads the file again for each one. This one holds
one page: objects are written as they come, and the tables that PDF has at its end are a few bytes a
page. ISO 32000-1: objects in 7.3, file structure in 7.5, pages in 7.7.3, JPEG streams in 7.4.8.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import BinaryIO

from PIL import Image

_CATALOG, _PAGES = 1, 2
"""Numbers of the two objects that are written last, because they list the others."""
_FIRST = 3
_POINTS_PER_INCH = 72


def write_pdf(sink: BinaryIO, pages: Iterable[Image.Image], *, dpi: int, quality: int) -> None:
    """Write RGB pictures as the pages of a PDF, as JPEG, each page as large as `dpi` makes it."""
    offsets: dict[int, int] = {}

    def put(number: int, head: str, stream: bytes | None = None) -> None:
        offsets[number] = sink.tell()
        sink.write(f"{number} 0 obj\n{head}\n".encode())
        if stream is not None:
            sink.write(b"stream\n" + stream + b"\nendstream\n")
        sink.write(b"endobj\n")

    # Four bytes above 127 tell programs that move files that this one is no text.
    sink.write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    listed = []
    number = _FIRST
    for page in pages:
        width, height = (side * _POINTS_PER_INCH / dpi for side in page.size)
        data = io.BytesIO()
        page.save(data, "JPEG", quality=quality, subsampling=0)
        image, drawing, leaf = number, number + 1, number + 2
        put(
            image,
            f"<< /Type /XObject /Subtype /Image /Width {page.width} /Height {page.height} "
            f"/ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /DCTDecode "
            f"/Length {len(data.getvalue())} >>",
            data.getvalue(),
        )
        draw = f"{width:.2f} 0 0 {height:.2f} 0 0 cm /Page Do".encode()
        put(drawing, f"<< /Length {len(draw)} >>", draw)
        put(
            leaf,
            f"<< /Type /Page /Parent {_PAGES} 0 R /MediaBox [0 0 {width:.2f} {height:.2f}] "
            f"/Contents {drawing} 0 R /Resources << /XObject << /Page {image} 0 R >> >> >>",
        )
        listed.append(f"{leaf} 0 R")
        number += 3
    put(_PAGES, f"<< /Type /Pages /Count {len(listed)} /Kids [{' '.join(listed)}] >>")
    put(_CATALOG, f"<< /Type /Catalog /Pages {_PAGES} 0 R >>")
    start = sink.tell()
    sink.write(f"xref\n0 {number}\n0000000000 65535 f \n".encode())
    sink.writelines(f"{offsets[one]:010} 00000 n \n".encode() for one in range(1, number))
    sink.write(
        f"trailer\n<< /Size {number} /Root {_CATALOG} 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    )
