"""Ways in which a file of weights is not what it should be: what happens to it, and a word of the message."""

from pathlib import Path

POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 346293852
"""
PAGE = "<!DOCTYPE html>\n<html lang=en><title>Sign in</title></html>\n"


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


DAMAGES = {
    "pointer": (lambda path: path.write_text(POINTER), "Git LFS.*git lfs pull"),
    "page": (lambda path: path.write_text(PAGE), "web page"),
    "page in small letters": (lambda path: path.write_text("\n <html><body>404</body></html>"), "web page"),
    "error of a store": (lambda path: path.write_text('<?xml version="1.0"?><Error/>'), "web page"),
    "text": (lambda path: path.write_text("Invalid username or password."), "begins b'Invalid "),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "half": (lambda path: cut(path, 0.5), "cut off"),
    "all but the end": (lambda path: cut(path, 0.999), "cut off"),
    "a few bytes": (lambda path: path.write_bytes(path.read_bytes()[:5]), "cut off|begins"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "damaged|begins"),
}
