"""tests/data/golden.txt, with which the C++ core is tested on other machines, is what the library gives here."""

import numpy as np

from tests.data import golden


def numbers(line):
    return np.array([float.fromhex(word) for word in line.split()[2:]])


def test_the_golden_file_is_what_the_library_gives():
    there, here = golden.FILE.read_text().splitlines(), golden.content().splitlines()
    assert len(there) == len(here)
    for old, new in zip(there, here, strict=True):
        if old.startswith("decoded "):  # another C library's cosine may differ in the last place
            np.testing.assert_allclose(numbers(new), numbers(old), rtol=0, atol=1e-14 * abs(numbers(old)).max())
        else:
            assert new == old


def test_the_generator_gives_the_same_integers_everywhere():
    numbers = golden.Numbers(1)
    assert [numbers.below(1000) for _ in range(4)] == [774, 153, 196, 870]
