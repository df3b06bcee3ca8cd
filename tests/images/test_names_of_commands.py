from __future__ import annotations

import pytest

from objemb.images.names import without_folders


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("objemb train x -o /home/u/runs/a data.file=/d/e/f.json", "objemb train x -o a data.file=f.json"),
        ("a --x '/p q/r/s t.json' rel/x ./y/z ../w", "a --x 's t.json' rel/x ./y/z ../w"),
        ("a 'k=[/a/b, /c/d/]' https://x.y/z/w /", "a 'k=[b, d]' https://x.y/z/w ''"),
        ("a 'C:\\Users\\me\\x.txt' D:/y/z", "a x.txt z"),
        ("a 'it /b/c", "a ''\"'\"'it' c"),
        ("", ""),
    ],
)
def test_without_folders(command: str, shown: str) -> None:
    assert without_folders(command) == shown
