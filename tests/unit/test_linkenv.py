"""Command lines of links: split as a shell splits them."""

from __future__ import annotations

import os
import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burst_wrapper.linkenv import _words


@given(st.text(alphabet="ab \"='\\#\t\n$", max_size=14))
@example('LC_ALL="C" PATH="/a b:/c" VSLANG="1033" "cc" "-m64" "/tmp/x.o" "-Wl,--eh-frame-hdr"')
@example(" /usr/lib/gcc/collect2 -plugin-opt=-pass-through=-lc -o a.out -z now  ")
@example('a"b c"d')
@example("")
def test_words_are_those_of_a_shell(line: str) -> None:
    """Whether the short way or `shlex` itself splits them."""
    try:
        expected = [os.fsencode(word) for word in shlex.split(line)]
    except ValueError:
        with pytest.raises(ValueError, match="No "):
            _words(line.encode())
        return
    assert _words(line.encode()) == expected
