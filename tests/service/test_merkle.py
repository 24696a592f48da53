"""The Merkle tree against public vectors, and the laws of its proofs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audit import merkle

# The eight leaves and the roots of Certificate Transparency's reference tests.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = [merkle.leaf_hash(leaf) for leaf in LEAVES]

leaves = st.lists(st.integers(0, 3).map(lambda n: merkle.leaf_hash(bytes([n]))), min_size=1, max_size=40)


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    """The root without leaves is SHA-256 of nothing, as the specification says."""
    assert merkle.Tree().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_public_vectors(size: int) -> None:
    """Each of the eight trees has the published root."""
    assert merkle.root(HASHES[:size]).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(
    ("index", "size", "proof"),
    [
        (0, 1, []),
        (
            0,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (
            1,
            5,
            [
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ],
)
def test_inclusion_proofs_are_those_of_the_public_vectors(index: int, size: int, proof: list[str]) -> None:
    """The published proofs of inclusion are made, and they verify against the published roots."""
    made = merkle.inclusion_proof(index, HASHES[:size])

    assert [step.hex() for step in made] == proof
    assert merkle.verify_inclusion(index, size, HASHES[index], made, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(
    ("first", "second", "proof"),
    [
        (1, 1, []),
        (
            1,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            [
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ],
)
def test_consistency_proofs_are_those_of_the_public_vectors(first: int, second: int, proof: list[str]) -> None:
    """The published proofs of consistency are made, and they verify against the published roots."""
    made = merkle.consistency_proof(first, HASHES[:second])
    roots = bytes.fromhex(ROOTS[first - 1]), bytes.fromhex(ROOTS[second - 1])

    assert [step.hex() for step in made] == proof
    assert merkle.verify_consistency(first, second, *roots, made)


@given(leaves, st.data())
def test_every_leaf_proves_its_place_and_no_other(hashes: list[bytes], data: st.DataObject) -> None:
    """A proof of inclusion holds for its leaf, index, size and root, and for no other leaf or shorter proof."""
    index = data.draw(st.integers(0, len(hashes) - 1))
    root = merkle.root(hashes)
    proof = merkle.inclusion_proof(index, hashes)

    assert merkle.verify_inclusion(index, len(hashes), hashes[index], proof, root)
    assert not merkle.verify_inclusion(index, len(hashes), merkle.leaf_hash(b"another"), proof, root)
    assert not merkle.verify_inclusion(index, len(hashes), hashes[index], [*proof, root], root)
    assert not merkle.verify_inclusion(index, len(hashes), hashes[index], proof, merkle.leaf_hash(b"root"))
    assert not merkle.verify_inclusion(len(hashes), len(hashes), hashes[index], proof, root)
    if proof:
        assert not merkle.verify_inclusion(index, len(hashes), hashes[index], proof[:-1], root)


@given(leaves, st.data())
def test_every_beginning_is_consistent_and_a_changed_one_is_not(hashes: list[bytes], data: st.DataObject) -> None:
    """A proof of consistency holds for each earlier tree, and for none whose leaves were others."""
    first = data.draw(st.integers(1, len(hashes)))
    changed = data.draw(st.integers(0, first - 1))
    proof = merkle.consistency_proof(first, hashes)
    root = merkle.root(hashes)
    other = [*hashes[:changed], merkle.leaf_hash(b"changed"), *hashes[changed + 1 : first]]

    assert merkle.verify_consistency(first, len(hashes), merkle.root(hashes[:first]), root, proof)
    assert not merkle.verify_consistency(first, len(hashes), merkle.root(other), root, proof)
    assert not merkle.verify_consistency(first, len(hashes), merkle.root(hashes[:first]), root, [*proof, root])
    assert not merkle.verify_consistency(len(hashes) + 1, len(hashes), root, root, proof)
    assert not merkle.verify_consistency(0, len(hashes), root, root, proof)


@given(leaves)
def test_a_growing_tree_is_the_tree_of_its_leaves(hashes: list[bytes]) -> None:
    """Leaf by leaf gives the roots of the recursive definition, and a copy grows on its own."""

    def defined(part: list[bytes]) -> bytes:
        if len(part) == 1:
            return part[0]
        k = 1
        while k * 2 < len(part):
            k *= 2
        return merkle.node_hash(defined(part[:k]), defined(part[k:]))

    tree = merkle.Tree()
    for size, leaf in enumerate(hashes, start=1):
        tree.append(leaf)
        assert tree.root() == defined(hashes[:size])
        assert tree.size == size
    tree.copy().append(hashes[0])
    assert tree.root() == defined(hashes)


def test_a_leaf_never_passes_for_a_node() -> None:
    """The bytes of a node, offered as a leaf, hash to something else."""
    assert merkle.leaf_hash(HASHES[0] + HASHES[1]) != merkle.node_hash(HASHES[0], HASHES[1])


@pytest.mark.parametrize("index", [-1, 8])
def test_a_proof_outside_the_tree_is_refused(index: int) -> None:
    """Nothing is proven for a leaf that is not there."""
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_proof(index, HASHES)
    with pytest.raises(ValueError, match="no tree"):
        merkle.consistency_proof(index + 1 if index > 0 else 0, HASHES)
