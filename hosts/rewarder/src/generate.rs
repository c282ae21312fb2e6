//! Inputs of three sizes from a seed, the same for ever: what figures and golden digests are about.
//!
//! The numbers come from SplitMix64 (Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014;
//! constants as in Vigna's splitmix64.c), written out here because a crate may change its streams. Every actor has an
//! event; the others go to the lesser of two actors drawn, so that a few are busy and many are not. Quantities are spread
//! over the widths from 1 to 40 bits. Ids number the events in their order.

use super::draft::Writer;
use super::inputs::Header;
use super::name::{EpochId, Name};

/// The kinds of work in generated inputs, ascending; the sample policies price them.
pub const KINDS: [&str; 5] = ["deliver", "index", "relay", "seed", "store"];
/// What there is to share, in minor units: times a score it takes more than 128 bits.
pub const POOL: u128 = 1_000_000_000_000_000_000_000_007;

/// How large generated inputs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 1 000 actors, 10 000 events.
    S,
    /// 10 000 actors, 100 000 events.
    M,
    /// 50 000 actors, 500 000 events.
    L,
}

impl Size {
    /// All of them, the smallest first.
    pub const ALL: [Size; 3] = [Size::S, Size::M, Size::L];

    /// One lower-case letter.
    pub fn name(self) -> &'static str {
        match self {
            Size::S => "s",
            Size::M => "m",
            Size::L => "l",
        }
    }

    /// How many actors.
    pub fn actors(self) -> usize {
        match self {
            Size::S => 1_000,
            Size::M => 10_000,
            Size::L => 50_000,
        }
    }

    /// How many events.
    pub fn events(self) -> usize {
        10 * self.actors()
    }
}

/// Sealed inputs of this size from this seed, for an epoch of a tenant.
pub fn inputs(size: Size, seed: u64, tenant: &Name, epoch_id: &EpochId) -> Vec<u8> {
    let mut random = SplitMix(seed);
    let actors = size.actors() as u64;
    let mut events = vec![1_u32; size.actors()];
    for _ in size.actors()..size.events() {
        let actor = random.below(actors).min(random.below(actors));
        if let Some(own) = events.get_mut(actor as usize) {
            *own += 1;
        }
    }
    let header = Header::new(tenant.clone(), epoch_id.clone(), POOL);
    let mut writer = Writer::new(&header);
    let mut number = 0;
    for (actor, own) in events.into_iter().enumerate() {
        writer.actor(&format!("actor-{actor:05}"));
        for _ in 0..own {
            let kind = random.below(KINDS.len() as u64) as usize;
            let width = 1 + random.below(40);
            let qty = (random.next() >> (64 - width)).max(1);
            let kind = KINDS.get(kind).copied().unwrap_or_default();
            writer.event(&format!("e{number:06}"), kind, qty);
            number += 1;
        }
    }
    writer.finish()
}

struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The upper half of the product with `limit`, which is as even as 64 bits allow.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reader, Sealed};

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix(1_234_567);
        let drawn: Vec<u64> = (0..5).map(|_| random.next()).collect();
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(drawn, published);
    }

    #[test]
    fn inputs_are_canonical_of_their_size_and_another_seed_is_other_inputs() {
        let (tenant, epoch) = ("t".parse().unwrap(), "e".parse().unwrap());
        let one = inputs(Size::S, 1, &tenant, &epoch);
        let mut reader = Reader::new(&one).unwrap();
        while reader.piece().unwrap().is_some() {}
        assert_eq!((reader.actors(), reader.events()), (1_000, 10_000));
        let cid = |bytes: &[u8]| *Sealed::of(bytes).unwrap().cid();
        assert_eq!(cid(&one), cid(&inputs(Size::S, 1, &tenant, &epoch)));
        assert_ne!(cid(&one), cid(&inputs(Size::S, 2, &tenant, &epoch)));
    }
}
