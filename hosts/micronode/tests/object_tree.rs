//! Trees of objects: made from bytes that come in any pieces, stored, and asked about every group that is read.
//! The oracle for what a range read may accept is bao-tree.

use bao_tree::io::sync::{encode_ranges_validated, DecodeResponseIter, Outboard};
use bao_tree::io::{round_up_to_chunks, BaoContentItem};
use bao_tree::{BaoTree, BlockSize, ByteRanges, ChunkNum, TreeNode};
use blake3::hazmat::{merge_subtrees_non_root, Mode};
use micronode::object::{Address, GroupError, Groups, Hasher, Tree, TreeError, GROUP_LEN};
use proptest::prelude::*;
use proptest::sample::Index;
use std::io;
use std::ops::Range;

const LEN: u64 = GROUP_LEN as u64;
const HEADER_LEN: usize = 16;
const CHUNKS_PER_GROUP: u64 = 64;
const GROUP: BlockSize = BlockSize::from_chunk_log(6);

/// From the test vectors that the authors of BLAKE3 publish. The input counts from 0 to 250 and starts again.
const VECTORS: [(usize, &str); 9] = [
    (
        0,
        "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    ),
    (
        1,
        "b3:2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    ),
    (
        1023,
        "b3:10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
    ),
    (
        1024,
        "b3:42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    ),
    (
        1025,
        "b3:d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
    ),
    (
        8193,
        "b3:bab6c09cb8ce8cf459261398d2e7aef35700bf488116ceb94a36d0f5f1b7bc3b",
    ),
    (
        16384,
        "b3:f875d6646de28985646f34ee13be9a576fd515f76b5b0a26bb324735041ddde4",
    ),
    (
        31744,
        "b3:62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47",
    ),
    (
        102_400,
        "b3:bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
    ),
];

/// Bytes without a pattern.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn hashed_in_pieces(bytes: &[u8], pieces: &[usize]) -> Tree {
    let mut hasher = Hasher::new();
    let mut rest = bytes;
    for &piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(piece.min(rest.len()));
        hasher.update(now);
        rest = later;
    }
    hasher.finish()
}

/// Reads `range` as a host does: `stored` is what a store has, `tree` what stands beside it.
fn accepts(stored: &[u8], tree: &Tree, range: Range<u64>) -> bool {
    tree.groups().cover(range).unwrap().all(|part| {
        let (from, to) = (part.span.start as usize, part.span.end as usize);
        stored
            .get(from..to)
            .is_some_and(|group| tree.verify_group(part.index, group).is_ok())
    })
}

/// Our chaining values as bao-tree wants them: pairs of what the two halves of a node hash to.
struct Pairs {
    address: Address,
    len: u64,
    values: Vec<[u8; 32]>,
}

impl Pairs {
    fn of(tree: &Tree) -> Self {
        let values = tree.encode()[HEADER_LEN..]
            .chunks(32)
            .map(|value| value.try_into().unwrap())
            .collect();
        Self {
            address: tree.address(),
            len: tree.object_len(),
            values,
        }
    }

    fn half(&self, from: ChunkNum, to: ChunkNum) -> blake3::Hash {
        fn fold(values: &[[u8; 32]]) -> [u8; 32] {
            if let [value] = values {
                return *value;
            }
            let mut left = 1;
            while left * 2 < values.len() {
                left *= 2;
            }
            let (left, right) = values.split_at(left);
            merge_subtrees_non_root(&fold(left), &fold(right), Mode::Hash)
        }
        let group =
            |chunk: ChunkNum| (chunk.0.div_ceil(CHUNKS_PER_GROUP) as usize).min(self.values.len());
        fold(&self.values[group(from)..group(to)]).into()
    }

    fn accepts(&self, stored: &[u8], range: Range<u64>) -> bool {
        self.encode(stored, range).is_some()
    }

    /// What bao-tree sends to somebody who knows nothing but the address, unless it finds damage.
    fn encode(&self, stored: &[u8], range: Range<u64>) -> Option<Vec<u8>> {
        let mut sent = Vec::new();
        let ranges = round_up_to_chunks(&ByteRanges::from(range));
        encode_ranges_validated(stored, self, &ranges, &mut sent)
            .ok()
            .map(|()| sent)
    }
}

impl Outboard for Pairs {
    fn root(&self) -> blake3::Hash {
        (*self.address.as_bytes()).into()
    }

    fn tree(&self) -> BaoTree {
        BaoTree::new(self.len, GROUP)
    }

    fn load(&self, node: TreeNode) -> io::Result<Option<(blake3::Hash, blake3::Hash)>> {
        let Range { start, end } = node.chunk_range();
        Ok(Some((
            self.half(start, node.mid()),
            self.half(node.mid(), end),
        )))
    }
}

/// Lengths up to nine groups, half of them within a byte of a multiple of the group.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => 0..3000_usize,
        2 => 0..9 * GROUP_LEN,
        3 => (1..9_usize, 0..3_usize).prop_map(|(groups, more)| groups * GROUP_LEN + more - 1),
    ]
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    let piece = prop_oneof![
        1..2000_usize,
        (1..9_usize).prop_map(|units| units * 16 * 1024),
        (1..3_usize, 0..3_usize).prop_map(|(units, more)| units * 16 * 1024 + more - 1),
        (1..4_usize, 0..3_usize).prop_map(|(groups, more)| groups * GROUP_LEN + more - 1),
    ];
    prop::collection::vec(piece, 1..6)
}

/// An object of at least one byte and a range inside it.
fn reads() -> impl Strategy<Value = (Vec<u8>, Range<u64>)> {
    (
        lengths(),
        any::<u64>(),
        any::<Index>(),
        any::<Index>(),
        any::<bool>(),
    )
        .prop_map(|(len, seed, from, to, short)| {
            let len = len.max(1);
            let from = from.index(len);
            let room = if short {
                (len - from).min(2 * GROUP_LEN)
            } else {
                len - from
            };
            (
                noise(len, seed),
                from as u64..(from + 1 + to.index(room)) as u64,
            )
        })
}

#[derive(Clone, Debug)]
enum Damage {
    Nothing,
    Flip(Index, u8),
    Cut(Index),
    Extend(usize),
    Swap(Index, Index),
}

fn damages() -> impl Strategy<Value = Damage> {
    prop_oneof![
        1 => Just(Damage::Nothing),
        4 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        2 => any::<Index>().prop_map(Damage::Cut),
        1 => (1..100_000_usize).prop_map(Damage::Extend),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Damage::Swap(a, b)),
    ]
}

impl Damage {
    fn apply(&self, object: &[u8]) -> Vec<u8> {
        let mut stored = object.to_vec();
        match self {
            Damage::Nothing => {}
            Damage::Flip(at, bit) => stored[at.index(object.len())] ^= 1 << bit,
            Damage::Cut(at) => stored.truncate(at.index(object.len())),
            Damage::Extend(more) => stored.extend(noise(*more, 7)),
            Damage::Swap(a, b) => {
                let mut groups: Vec<&[u8]> = object.chunks(GROUP_LEN).collect();
                let (a, b) = (a.index(groups.len()), b.index(groups.len()));
                groups.swap(a, b);
                stored = groups.concat();
            }
        }
        stored
    }
}

#[test]
fn addresses_are_those_of_the_published_test_vectors() {
    for (len, address) in VECTORS {
        let input: Vec<u8> = (0..=250).cycle().take(len).collect();
        assert_eq!(Tree::of(&input).address().to_string(), address);
        assert_eq!(
            hashed_in_pieces(&input, &[1000]).address().to_string(),
            address
        );
        assert_eq!(Address::of(&input), address.parse().unwrap());
    }
}

#[test]
fn every_count_of_groups_up_to_seventy_gives_the_address_of_the_bytes() {
    let bytes = noise(70 * GROUP_LEN + 1, 1);
    for groups in 0..=70 {
        for len in [
            (groups * GROUP_LEN).saturating_sub(1),
            groups * GROUP_LEN,
            groups * GROUP_LEN + 1,
        ] {
            let tree = Tree::of(&bytes[..len]);
            assert_eq!(tree.address(), blake3::hash(&bytes[..len]).into(), "{len}");
            let values = if len <= GROUP_LEN {
                0
            } else {
                len.div_ceil(GROUP_LEN)
            };
            assert_eq!(tree.encode().len(), HEADER_LEN + 32 * values, "{len}");
        }
    }
}

#[test]
fn an_object_of_hundreds_of_mebibytes_has_its_address() {
    let block = noise(1 << 20, 2);
    let (mut ours, mut plain) = (Hasher::new(), blake3::Hasher::new());
    for size in (0..300).map(|at| block.len() - at * 1000) {
        ours.update(&block[..size]);
        plain.update(&block[..size]);
    }
    let tree = ours.finish();
    assert_eq!(tree.address(), plain.finalize().into());
    assert_eq!(tree.object_len(), plain.count());
    let decoded = Tree::decode(&tree.encode(), &tree.address(), tree.object_len());
    assert_eq!(decoded.as_ref(), Ok(&tree));
    assert_eq!(tree.verify_group(0, &block[..GROUP_LEN]), Ok(()));
    let end = &block[..block.len() - 299_000];
    let last = tree.groups().count() - 1;
    let len = (tree.object_len() - last * LEN) as usize;
    assert_eq!(tree.verify_group(last, &end[end.len() - len..]), Ok(()));
}

#[test]
fn the_empty_object_has_one_group_without_bytes_and_no_other_address() {
    let tree = Tree::of(b"");
    assert_eq!(Hasher::new().finish(), tree);
    assert_eq!(tree.verify_group(0, b""), Ok(()));
    assert_eq!(
        tree.verify_group(0, b"x"),
        Err(GroupError::Len {
            index: 0,
            expected: 0,
            found: 1
        })
    );
    assert_eq!(
        tree.verify_group(1, b""),
        Err(GroupError::NoSuchGroup { index: 1, count: 1 })
    );
    assert_eq!(
        Tree::decode(&tree.encode(), &tree.address(), 0).as_ref(),
        Ok(&tree)
    );
    assert_eq!(
        Tree::decode(&tree.encode(), &Address::of(b"x"), 0),
        Err(TreeError::Address)
    );
}

#[test]
fn a_group_that_is_not_whole_is_refused() {
    let bytes = noise(2 * GROUP_LEN + 100, 3);
    let tree = Tree::of(&bytes);
    let end = &bytes[2 * GROUP_LEN..];
    assert_eq!(tree.verify_group(2, end), Ok(()));
    let len = |index, expected, found| {
        Err(GroupError::Len {
            index,
            expected,
            found,
        })
    };
    assert_eq!(tree.verify_group(0, b""), len(0, LEN, 0));
    assert_eq!(
        tree.verify_group(1, &bytes[GROUP_LEN..2 * GROUP_LEN - 1]),
        len(1, LEN, LEN - 1)
    );
    assert_eq!(
        tree.verify_group(1, &bytes[GROUP_LEN..2 * GROUP_LEN + 1]),
        len(1, LEN, LEN + 1)
    );
    assert_eq!(tree.verify_group(2, &end[..99]), len(2, 100, 99));
    assert_eq!(
        tree.verify_group(3, end),
        Err(GroupError::NoSuchGroup { index: 3, count: 3 })
    );
    assert_eq!(
        tree.verify_group(u64::MAX, end),
        Err(GroupError::NoSuchGroup {
            index: u64::MAX,
            count: 3
        })
    );
}

#[test]
fn groups_of_the_same_bytes_have_chaining_values_of_their_own() {
    // The same bytes everywhere: only their place tells groups apart.
    let tree = Tree::of(&[5; 3 * GROUP_LEN]);
    let other = Tree::of(&[5; 4 * GROUP_LEN]);
    let values = |tree: &Tree| tree.encode()[HEADER_LEN..].to_vec();
    assert_eq!(values(&tree)[..], values(&other)[..96]);
    let values = values(&tree);
    assert!(values[..32] != values[32..64] && values[32..64] != values[64..]);
    let mut swapped = tree.encode();
    swapped[HEADER_LEN..].rotate_left(32);
    assert_eq!(
        Tree::decode(&swapped, &tree.address(), tree.object_len()),
        Err(TreeError::Address)
    );
}

#[test]
fn every_flipped_bit_of_a_stored_tree_is_refused() {
    for len in [0, 1, GROUP_LEN, GROUP_LEN + 1, 5 * GROUP_LEN] {
        let tree = Tree::of(&noise(len, 4));
        let stored = tree.encode();
        let decode = |bytes: &[u8]| Tree::decode(bytes, &tree.address(), len as u64);
        assert_eq!(decode(&stored).as_ref(), Ok(&tree));
        for bit in 0..8 * stored.len() {
            let mut stored = stored.clone();
            stored[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&stored).unwrap_err();
            match bit / 8 {
                0..7 => assert_eq!(error, TreeError::NotATree),
                7 => assert_eq!(error, TreeError::Version { found: stored[7] }),
                8..HEADER_LEN => assert!(matches!(error, TreeError::ObjectLen { .. }), "{error}"),
                _ => assert_eq!(error, TreeError::Address),
            }
        }
        for cut in 0..stored.len() {
            let error = decode(&stored[..cut]).unwrap_err();
            let (expected, found) = (stored.len() as u64, cut as u64);
            match cut {
                0..HEADER_LEN => assert_eq!(error, TreeError::NotATree),
                _ => assert_eq!(error, TreeError::Len { expected, found }),
            }
        }
        for more in [1, 32, 64] {
            let mut stored = stored.clone();
            let expected = stored.len() as u64;
            stored.resize(stored.len() + more, 0);
            let found = stored.len() as u64;
            assert_eq!(decode(&stored), Err(TreeError::Len { expected, found }));
        }
    }
}

#[test]
fn a_stored_tree_has_the_form_that_was_promised() {
    let tree = Tree::of(&noise(GROUP_LEN + 258, 5));
    let stored = tree.encode();
    assert_eq!(stored[..HEADER_LEN], *b"b3-tree\x01\x02\x01\x01\0\0\0\0\0");
    assert_eq!(stored.len(), HEADER_LEN + 64);
    assert_eq!(Tree::of(b"abc").encode(), b"b3-tree\x01\x03\0\0\0\0\0\0\0");
}

#[test]
fn a_tree_of_another_shape_with_the_same_root_verifies_nothing() {
    // Four groups pass for two: what they claim to be is the hash of two pairs.
    let bytes = noise(4 * GROUP_LEN, 6);
    let tree = Tree::of(&bytes);
    let pairs = Pairs::of(&tree);
    let mut forged = Vec::from(*b"b3-tree\x01");
    forged.extend((2 * LEN).to_le_bytes());
    for pair in pairs.values.chunks(2) {
        forged.extend(merge_subtrees_non_root(&pair[0], &pair[1], Mode::Hash));
    }
    let forged = Tree::decode(&forged, &tree.address(), 2 * LEN).unwrap();
    for index in 0..2 {
        for group in bytes.chunks(GROUP_LEN) {
            assert_eq!(
                forged.verify_group(index, group),
                Err(GroupError::Damaged { index })
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_whatever_pieces_bytes_come_the_tree_is_the_same(
        len in lengths(),
        seed in any::<u64>(),
        pieces in pieces(),
    ) {
        let bytes = noise(len, seed);
        let tree = hashed_in_pieces(&bytes, &pieces);
        prop_assert_eq!(tree.address(), blake3::hash(&bytes).into());
        prop_assert_eq!(tree.object_len(), len as u64);
        prop_assert_eq!(&tree, &Tree::of(&bytes));
        prop_assert_eq!(Tree::decode(&tree.encode(), &tree.address(), len as u64), Ok(tree));
    }

    #[test]
    fn from_our_chaining_values_bao_serves_a_range_to_who_knows_only_the_address(
        (object, range) in reads(),
    ) {
        let tree = Tree::of(&object);
        prop_assert!(accepts(&object, &tree, range.clone()));
        let pairs = Pairs::of(&tree);
        let sent = pairs.encode(&object, range.clone());
        prop_assert!(sent.is_some());
        let mut received = vec![0; object.len()];
        let ranges = round_up_to_chunks(&ByteRanges::from(range.clone()));
        let sent = io::Cursor::new(sent.unwrap());
        for item in DecodeResponseIter::new(pairs.root(), pairs.tree(), sent, &ranges) {
            if let BaoContentItem::Leaf(leaf) = item.unwrap() {
                received[leaf.offset as usize..][..leaf.data.len()].copy_from_slice(&leaf.data);
            }
        }
        let range = range.start as usize..range.end as usize;
        prop_assert_eq!(&received[range.clone()], &object[range]);
    }

    #[test]
    fn of_damaged_objects_exactly_the_ranges_are_refused_that_bao_refuses(
        (object, range) in reads(),
        damage in damages(),
    ) {
        let tree = Tree::of(&object);
        let stored = damage.apply(&object);
        let ours = accepts(&stored, &tree, range.clone());
        prop_assert_eq!(ours, Pairs::of(&tree).accepts(&stored, range.clone()));
        let touched = tree.groups().cover(range).unwrap().span();
        let touched = touched.start as usize..touched.end as usize;
        prop_assert_eq!(ours, stored.get(touched.clone()) == Some(&object[touched]));
        // A store that takes the length from what it has notices before any group is read.
        if stored.len() != object.len() {
            let (expected, found) = (stored.len() as u64, object.len() as u64);
            prop_assert_eq!(
                Tree::decode(&tree.encode(), &tree.address(), expected),
                Err(TreeError::ObjectLen { expected, found })
            );
        }
    }

    #[test]
    fn of_chaining_values_that_are_not_the_addresss_nothing_is_served_by_us_nor_by_bao(
        (object, range) in reads(),
        (at, bit) in (any::<Index>(), 0..8_u8),
        (other, swap) in (any::<Index>(), any::<bool>()),
    ) {
        let tree = Tree::of(&object);
        let mut pairs = Pairs::of(&tree);
        if pairs.values.is_empty() {
            return Ok(());
        }
        if swap {
            let (a, b) = (at.index(pairs.values.len()), other.index(pairs.values.len()));
            pairs.values.swap(a, b);
        } else {
            let at = at.index(32 * pairs.values.len());
            pairs.values[at / 32][at % 32] ^= 1 << bit;
        }
        let mut stored = tree.encode()[..HEADER_LEN].to_vec();
        stored.extend(pairs.values.concat());
        let decoded = Tree::decode(&stored, &tree.address(), tree.object_len());
        prop_assert_eq!(decoded.is_ok(), stored == tree.encode());
        prop_assert_eq!(decoded.is_ok(), pairs.accepts(&object, range));
    }

    #[test]
    fn a_flipped_bit_is_found_in_its_group_and_in_no_other(
        (object, _) in reads(),
        (at, bit) in (any::<Index>(), 0..8_u8),
    ) {
        let tree = Tree::of(&object);
        let at = at.index(object.len());
        let mut stored = object;
        stored[at] ^= 1 << bit;
        for (index, group) in (0..).zip(stored.chunks(GROUP_LEN)) {
            let damaged = index == at as u64 / LEN;
            let expected = if damaged { Err(GroupError::Damaged { index }) } else { Ok(()) };
            prop_assert_eq!(tree.verify_group(index, group), expected);
        }
    }

    #[test]
    fn a_wrong_length_is_found_with_the_last_group_as_bao_finds_it(
        (object, range) in reads(),
        claimed in any::<Index>(),
        append in any::<bool>(),
    ) {
        // Storage and tree agree on a length that is not the object's.
        let tree = Tree::of(&object);
        let (len, start) = (object.len() as u64, (tree.groups().count() - 1) * LEN);
        let claimed = start + 1 + claimed.index(GROUP_LEN) as u64;
        let mut stored = object.clone();
        stored.resize(claimed as usize, if append { 0 } else { 1 });
        let mut encoded = tree.encode();
        encoded[8..HEADER_LEN].copy_from_slice(&claimed.to_le_bytes());
        let lying = Tree::decode(&encoded, &tree.address(), claimed).unwrap();
        let range = range.start.min(claimed - 1)..range.end.min(claimed).max(range.start.min(claimed - 1) + 1);
        let ours = accepts(&stored, &lying, range.clone());
        prop_assert_eq!(ours, Pairs::of(&lying).accepts(&stored, range.clone()));
        prop_assert_eq!(ours, claimed == len || range.end <= start);
    }

    #[test]
    fn a_tree_of_another_object_is_refused(
        (object, _) in reads(),
        at in any::<Index>(),
    ) {
        let tree = Tree::of(&object);
        let mut other = object.clone();
        other[at.index(object.len())] ^= 1;
        let other = Address::of(&other);
        let decoded = Tree::decode(&tree.encode(), &other, tree.object_len());
        if tree.groups().count() > 1 {
            prop_assert_eq!(decoded, Err(TreeError::Address));
        } else {
            // It has no chaining value that could be wrong.
            prop_assert_eq!(decoded.unwrap().verify_group(0, &object), Err(GroupError::Damaged { index: 0 }));
        }
    }

    #[test]
    fn bytes_of_any_kind_are_decoded_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        magic in any::<bool>(),
        claimed in prop_oneof![any::<u64>(), 0..4 * LEN],
        honest in any::<bool>(),
        values in 0..5_usize,
        address in any::<[u8; 32]>(),
        (index, group) in (any::<u64>(), prop::collection::vec(any::<u8>(), 0..100)),
    ) {
        let mut stored = bytes;
        if magic {
            let mut head = Vec::from(*b"b3-tree\x01");
            head.extend(claimed.to_le_bytes());
            stored.resize(32 * values, 9);
            stored.splice(0..0, head);
        }
        let len = if honest { claimed } else { claimed ^ 1 };
        let address = Address::from(address);
        match Tree::decode(&stored, &address, len) {
            Ok(tree) => {
                prop_assert_eq!(Groups::of(len).count(), 1);
                prop_assert_eq!(tree.encode(), stored);
                prop_assert!(tree.verify_group(index, &group).is_err());
                prop_assert!(tree.verify_group(0, &group).is_err());
            }
            Err(error) => prop_assert_eq!(error == TreeError::NotATree, !magic),
        }
    }
}
