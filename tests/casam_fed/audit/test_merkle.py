"""Trees against the recursive definitions of RFC 6962, section 2.1, written here as they stand there, for every size."""

import hashlib
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casam_fed.audit.merkle import (
    EMPTY_ROOT,
    check_consistency,
    check_inclusion,
    complete_root,
    consistency_path,
    fold,
    grown,
    in_memory,
    inclusion_path,
    leaf_hash,
    node_hash,
    peaks,
    tree_root,
)
from casam_fed.errors import CasamError, LogError

MOST = 300
ENTRIES = [f"entry {number}".encode() for number in range(MOST + 1)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
TREE = in_memory(LEAVES)
SIZES = [*range(131), *range(254, 259), MOST]
"""Every shape that a tree of a few levels has, and those about the width of a tile."""
STRAY = hashlib.sha256(b"stray").digest()


def power_below(size: int) -> int:
    """k, "the largest power of two smaller than n"."""
    power = 1
    while power * 2 < size:
        power *= 2
    return power


@cache
def mth(start: int, end: int) -> bytes:
    """MTH(D[start:end])."""
    if end == start:
        return hashlib.sha256(b"").digest()
    if end - start == 1:
        return hashlib.sha256(b"\x00" + ENTRIES[start]).digest()
    middle = start + power_below(end - start)
    return hashlib.sha256(b"\x01" + mth(start, middle) + mth(middle, end)).digest()


def path(index: int, start: int, end: int) -> list[bytes]:
    """PATH(index, D[start:end]), section 2.1.1."""
    if end - start == 1:
        return []
    power = power_below(end - start)
    middle = start + power
    if index < power:
        return [*path(index, start, middle), mth(middle, end)]
    return [*path(index - power, middle, end), mth(start, middle)]


def subproof(old: int, start: int, end: int, whole: bool) -> list[bytes]:
    """SUBPROOF(old, D[start:end], whole), section 2.1.2."""
    if old == end - start:
        return [] if whole else [mth(start, end)]
    power = power_below(end - start)
    middle = start + power
    if old <= power:
        return [*subproof(old, start, middle, whole), mth(middle, end)]
    return [*subproof(old - power, middle, end, False), mth(start, middle)]


def shape(index: int, size: int) -> list[str]:
    """On which side the hashes of the path of an entry lie, leaf first."""
    sides = []
    while size > 1:
        power = power_below(size)
        if index < power:
            sides.append("right")
            size = power
        else:
            sides.append("left")
            index, size = index - power, size - power
    return sides[::-1]


def old_shape(old: int, new: int) -> tuple[int, list[str]]:
    """The same of the hashes of a consistency proof; first, at which height it starts."""
    height = (old & -old).bit_length() - 1
    return height, shape((old - 1) >> height, -(-new >> height))


def refused(check, *arguments):
    with pytest.raises(LogError):
        check(*arguments)


def test_the_roots_of_certificate_transparency():
    """The tree that implementations of RFC 6962 have tested with since 2013."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    tree = in_memory([leaf_hash(bytes.fromhex(text)) for text in inputs])
    assert [tree_root(size, tree).hex() for size in range(1, 9)] == roots
    assert tree_root(0, tree).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_roots_of_every_size():
    for size in range(MOST + 1):
        assert tree_root(size, TREE) == mth(0, size)
        assert tree_root(size, in_memory(LEAVES[:size])) == mth(0, size)
        assert len(peaks(size, TREE)) == size.bit_count()
    assert mth(0, 0) == EMPTY_ROOT


def test_a_tree_that_grows_leaf_by_leaf_or_at_once_has_the_same_root():
    heights: list[bytes] = []
    for size in range(MOST):
        assert fold(heights) == mth(0, size)
        assert heights == peaks(size, TREE)
        assert fold(grown(heights, size, LEAVES[size:MOST])) == mth(0, MOST)
        heights = grown(heights, size, [LEAVES[size]])


def test_growing_leaves_what_it_was_given_as_it_was():
    heights = peaks(5, TREE)
    before = list(heights)
    grown(heights, 5, LEAVES[5:8])
    assert heights == before


def test_the_root_of_a_complete_tree():
    for height in range(9):
        assert complete_root(LEAVES[: 1 << height]) == mth(0, 1 << height)


def test_paths_of_every_entry():
    for size in SIZES:
        for index in range(size):
            found = inclusion_path(index, size, TREE)
            assert found == path(index, 0, size)
            check_inclusion(LEAVES[index], index, size, found, mth(0, size))


def test_proofs_between_sizes():
    for new in SIZES:
        for old in range(new + 1):
            found = consistency_path(old, new, TREE)
            assert found == (subproof(old, 0, new, True) if old else [])
            check_consistency(old, mth(0, old), new, mth(0, new), found)


def test_no_hash_of_a_path_can_be_changed_left_out_added_or_moved():
    for size in range(1, 41):
        for index in range(size):
            good = inclusion_path(index, size, TREE)
            for bad in mutations(good):
                refused(check_inclusion, LEAVES[index], index, size, bad, mth(0, size))


def test_no_hash_of_a_consistency_proof_can_be_changed_left_out_added_or_moved():
    for new in range(1, 33):
        for old in range(new + 1):
            good = consistency_path(old, new, TREE)
            for bad in mutations(good):
                refused(check_consistency, old, mth(0, old), new, mth(0, new), bad)


def mutations(good: list[bytes]) -> list[list[bytes]]:
    """All paths that differ from a good one in one hash that is another, lacks, is surplus, or has changed places."""
    found = []
    for place in range(len(good) + 1):
        before, after = good[:place], good[place:]
        found.append([*before, STRAY, *after])
        if after:
            found += [[*before, STRAY, *after[1:]], [*before, *after[1:]], [*before, after[0], *after]]
            found += [[*before, bytes([after[0][0] ^ 1]) + after[0][1:], *after[1:]]]
            found += [[*before, after[0][:-1], *after[1:]], [*before, after[0] + b"\x00", *after[1:]]]
        for other in range(place + 1, len(good)):
            swapped = list(good)
            swapped[place], swapped[other] = swapped[other], swapped[place]
            found.append(swapped)
    assert good not in found
    return found


def test_an_entry_is_at_no_other_index_and_no_other_entry_there():
    for size in range(1, 41):
        for index in range(size):
            good = inclusion_path(index, size, TREE)
            for other in {*range(-2, size + 3)} - {index}:
                refused(check_inclusion, LEAVES[index], other, size, good, mth(0, size))
            for leaf in (STRAY, LEAVES[(index + 1) % (size + 1)], ENTRIES[index]):
                refused(check_inclusion, leaf, index, size, good, mth(0, size))
            refused(check_inclusion, LEAVES[index], index, size, good, mth(0, size + 1))


def test_an_inner_node_is_no_entry():
    """The two kinds of hashes start with different bytes, so that nobody can pass a node for a leaf."""
    assert node_hash(LEAVES[0], LEAVES[1]) == TREE(1, 0)
    refused(check_inclusion, leaf_hash(LEAVES[0] + LEAVES[1]), 0, 2, [TREE(1, 1)], mth(0, 4))


def test_another_size_is_refused_wherever_the_path_tells_sizes_apart():
    """The sides of a path's hashes are all that a size decides: one that leaves them as they are proves the same.

    Which size belongs to a root is what the checkpoint's signature says.
    """
    for size in range(1, 41):
        for index in range(size):
            good = inclusion_path(index, size, TREE)
            for other in range(index + 1, 90):
                if shape(index, other) == shape(index, size):
                    check_inclusion(LEAVES[index], index, other, good, mth(0, size))
                else:
                    refused(check_inclusion, LEAVES[index], index, other, good, mth(0, size))
            for other in range(-2, index + 1):
                refused(check_inclusion, LEAVES[index], index, other, good, mth(0, size))


def test_other_sizes_of_a_consistency_proof_are_refused_wherever_it_tells_them_apart():
    for new in range(2, 25):
        for old in range(1, new):
            good = consistency_path(old, new, TREE)
            for other in range(-1, 60):
                if other != old:
                    refused(check_consistency, other, mth(0, old), new, mth(0, new), good)
                if other > old and old_shape(old, other) == old_shape(old, new):
                    check_consistency(old, mth(0, old), other, mth(0, new), good)
                elif other != new:
                    refused(check_consistency, old, mth(0, old), other, mth(0, new), good)


def test_other_roots_of_a_consistency_proof_are_refused():
    for new in range(1, 33):
        for old in range(new + 1):
            good = consistency_path(old, new, TREE)
            refused(check_consistency, old, STRAY, new, mth(0, new), good)
            if old:
                refused(check_consistency, old, mth(0, old), new, STRAY, good)
            if old != new:
                refused(check_consistency, old, mth(0, new), new, mth(0, new), good)
                refused(check_consistency, new, mth(0, new), old, mth(0, old), good)


def test_a_log_that_was_rewritten_is_no_continuation():
    for changed in range(20):
        forged = in_memory([*LEAVES[:changed], STRAY, *LEAVES[changed + 1 : 32]])
        for old in range(changed + 1, 20):
            for new in range(old, 33):
                proof = consistency_path(old, new, forged)
                refused(check_consistency, old, mth(0, old), new, tree_root(new, forged), proof)


@st.composite
def damaged(draw):
    """Something made of the path of some entry by one to three changes."""
    size = draw(st.integers(1, MOST))
    bad = inclusion_path(draw(st.integers(0, size - 1)), size, TREE)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["insert", "delete", "replace", "swap", "cut", "repeat"]))
        place = draw(st.integers(0, len(bad)))
        node = draw(st.one_of(st.binary(min_size=32, max_size=32), st.sampled_from(LEAVES), st.binary(max_size=40)))
        if kind == "insert":
            bad.insert(place, node)
        elif kind == "repeat":
            bad[place:place] = bad[:place]
        elif place < len(bad):
            if kind == "delete":
                del bad[place]
            elif kind == "replace":
                bad[place] = node
            elif kind == "swap":
                bad[place], bad[-1] = bad[-1], bad[place]
            else:
                bad = bad[:place]
    return bad


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_made_of_proofs_only_the_true_one_passes(data):
    size = data.draw(st.integers(1, MOST))
    index = data.draw(st.integers(0, size - 1))
    bad = data.draw(damaged())
    if bad == path(index, 0, size):
        check_inclusion(LEAVES[index], index, size, bad, mth(0, size))
    else:
        refused(check_inclusion, LEAVES[index], index, size, bad, mth(0, size))
    old = data.draw(st.integers(1, size))
    if bad == subproof(old, 0, size, True):
        check_consistency(old, mth(0, old), size, mth(0, size), bad)
    else:
        refused(check_consistency, old, mth(0, old), size, mth(0, size), bad)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_one_change_to_a_proof_of_a_large_tree_is_refused(data):
    size = data.draw(st.integers(2, MOST))
    index = data.draw(st.integers(0, size - 1))
    bad = data.draw(st.sampled_from(mutations(inclusion_path(index, size, TREE))))
    refused(check_inclusion, LEAVES[index], index, size, bad, mth(0, size))
    old = data.draw(st.integers(1, size - 1))
    bad = data.draw(st.sampled_from(mutations(consistency_path(old, size, TREE))))
    refused(check_consistency, old, mth(0, old), size, mth(0, size), bad)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(-3, 1 << 64), st.integers(-3, 1 << 64), st.lists(st.binary(min_size=32, max_size=32), max_size=80))
def test_absurd_numbers_and_long_paths_end_in_our_error(one, two, hashes):
    refused(check_inclusion, STRAY, one, two, hashes, EMPTY_ROOT)
    refused(check_consistency, one, STRAY, two, EMPTY_ROOT, hashes)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 3), (3, 3), (4, 3), (0, -1)])
def test_there_is_no_path_of_an_entry_that_is_not_there(index, size):
    with pytest.raises(AssertionError):
        inclusion_path(index, size, TREE)
    with pytest.raises(
        LogError, match=f"from entry {index} to the root of a log of {size}; the log, or what is looked"
    ):
        check_inclusion(STRAY, index, size, [], STRAY)


@pytest.mark.parametrize(("old", "new"), [(2, 1), (1, 0), (-1, 1), (-2, -1)])
def test_there_is_no_proof_of_a_log_that_became_shorter(old, new):
    with pytest.raises(AssertionError):
        consistency_path(old, new, TREE)
    with pytest.raises(
        LogError, match=f"from a log of {old} entries to one of {new}, and to both their roots; the log"
    ):
        check_consistency(old, STRAY, new, STRAY, [])


def test_a_log_without_entries_is_continued_by_any():
    check_consistency(0, EMPTY_ROOT, 7, mth(0, 7), [])
    check_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    refused(check_consistency, 0, EMPTY_ROOT, 7, mth(0, 7), [STRAY])
    refused(check_consistency, 0, STRAY, 7, mth(0, 7), [])
    refused(check_consistency, 0, STRAY, 0, EMPTY_ROOT, [])


def test_what_a_proof_does_not_show_is_an_error_that_a_user_can_mend():
    assert issubclass(LogError, CasamError)
