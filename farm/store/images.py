"""Names of images: readable, legal on every system, never outside `images/`, never reused.

`images/<stem>.<digest>.<suffix>`: the stem is for people, the digest of the file's bytes makes the
name belong to these bytes for ever. So two tasks whose stems agree do not collide, and a retry that
came out differently cannot replace the image that a committed row names.

A stem comes from the job's `file_name` template, or is the first two digits of the task's digest
(so that no folder grows too large), a few words of the prompt, and the seed.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import TYPE_CHECKING, Final

from farm.manifest import template
from farm.manifest.job import DEVICE_NAME
from farm.store import layout
from farm.store.row import StoredImage
from farm.task import FIELDS, TaskSpec, task_digest

if TYPE_CHECKING:
    from farm.manifest.job import ImageSettings
    from farm.store.files import Files

MAX_COMPONENT_BYTES: Final = 160
"""Longest folder or stem, in UTF-8. Names may have 255 bytes; digest and suffix need up to 70."""
_SLUG_LENGTH = 60
_DIGEST_LENGTHS = (12, 32, 64)
"""Digits of the digest in a name; more than the first only if 48 bits should ever collide."""
_SUFFIXES = {"png": "png", "webp": "webp", "jpeg": "jpg"}

_ILLEGAL = frozenset('<>:"/\\|?*')
"""What Windows forbids, and what separates folders anywhere."""
_BAD_CATEGORIES = frozenset({"Cc", "Cs", "Co"})


def image_suffix(settings: ImageSettings) -> str:
    """Return the file suffix of a format, without its dot."""
    return _SUFFIXES[settings.format]


def safe_component(text: str) -> str:
    """Return `text` as one folder or file stem that Linux, macOS and Windows all take.

    Letters of every script stay. Separators and control characters become `_`, white space becomes
    single blanks, and what a system would drop or misread (outer dots and blanks, device names) is
    changed so that the name comes back as it was given. Text in, the same text out, always.
    """
    # Invisible marks (Cf) go first: some make text run backwards, and without them NFC may compose.
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf")
    legal = "".join(map(_legal, unicodedata.normalize("NFC", visible)))
    name = _cut(" ".join(legal.split()).lstrip(". "), MAX_COMPONENT_BYTES)
    if DEVICE_NAME.match(name):
        name = "_" + _cut(name, MAX_COMPONENT_BYTES - 1)
    return name.rstrip(". ") or "_"


def _legal(character: str) -> str:
    if unicodedata.category(character) in _BAD_CATEGORIES and not character.isspace():
        return "_"
    return "_" if character in _ILLEGAL else character


def _cut(text: str, size: int) -> str:
    """Return the longest start of `text` that has at most `size` bytes in UTF-8."""
    return text.encode()[:size].decode(errors="ignore")


def slug(prompt: str) -> str:
    """Return the first words of a prompt, joined by dashes; `image` if it has none."""
    lowered = unicodedata.normalize("NFC", prompt.lower())
    # Letters, their combining marks, and numbers: `\\w` would tear Indic syllables apart.
    words = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in lowered).split()
    text = "-".join(words)
    if len(text) > _SLUG_LENGTH:  # end with a whole word, unless one word is all there is
        text = text[: _SLUG_LENGTH + 1].rpartition("-")[0] or text[:_SLUG_LENGTH]
    return text or "image"


def image_stem(task: TaskSpec, file_name: str | None) -> str:
    """Return where the image of `task` goes below `images/`, without digest and suffix.

    `file_name` is a template of task fields and variables; folders come only from its own `/`,
    never from a value.
    """
    if file_name is None:
        return (
            f"{task_digest(task).hex()[:2]}/{safe_component(f'{slug(task.prompt)}-s{task.seed}')}"
        )
    parsed = template.parse(file_name)
    filled = parsed.fill({name: safe_component(_value(task, name)) for name in parsed.names})
    pieces = [safe_component(piece) for piece in filled.split("/") if piece.strip(". ")]
    return "/".join(pieces) or safe_component("")


def _value(task: TaskSpec, name: str) -> str:
    """Return a field or variable as text; `none` where it is absent, as it may be in a union."""
    value = getattr(task, name) if name in FIELDS else task.vars.get(name)
    return "none" if value is None else template.as_text(value)


def put_image(
    files: Files, task: TaskSpec, data: bytes, *, suffix: str, file_name: str | None
) -> StoredImage:
    """Write an image under a name of its own and return its place.

    The same bytes for the same task land in the same file. The file is whole and on disk when this
    returns; its directory entry is made to last by the commit of the row that names it.

    Raises:
        StoreError: the image cannot be written.
    """
    digest = hashlib.sha256(data).hexdigest()
    stem = f"{layout.IMAGES}/{image_stem(task, file_name)}"
    for length in _DIGEST_LENGTHS:
        path = f"{stem}.{digest[:length]}.{suffix.lstrip('.')}"
        if files.put_new(path, data) or _adopt(files, path, data):
            break
    else:
        raise AssertionError(f"two images with one SHA-256: {path}")
    return StoredImage(path=path, sha256=digest, size=len(data))


def _adopt(files: Files, path: str, data: bytes) -> bool:
    """Take over a file that holds these bytes already; return whether it does."""
    try:
        if files.get(path) != data:
            return False
    except FileNotFoundError:
        return False
    files.touch(path)  # perhaps an orphan of a crash: it must not be swept as one now
    return True
