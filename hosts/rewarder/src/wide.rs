//! The one place where 128 bits do not do: `a * b / d`.
//!
//! Written out rather than taken from a crate of big integers: it is two functions, a bit at a time, that a reader can
//! check by eye (schoolbook multiplication and shift-and-subtract division, Knuth, The Art of Computer Programming 2,
//! 4.3.1). Fifty thousand divisions take a few milliseconds. The tests compare it with num-bigint.

/// The product as its upper and lower 128 bits.
pub(crate) const fn multiply(a: u128, b: u128) -> (u128, u128) {
    const HALF: u128 = u64::MAX as u128;
    let (a1, a0) = (a >> 64, a & HALF);
    let (b1, b0) = (b >> 64, b & HALF);
    let low = a0 * b0;
    // At most (2^64 - 1)^2 + 2^64 - 1, twice in a row: below 2^128.
    let middle = a1 * b0 + (low >> 64);
    let other = a0 * b1 + (middle & HALF);
    let high = a1 * b1 + (middle >> 64) + (other >> 64);
    (high, other << 64 | low & HALF)
}

/// The integer part of `a * b / d`; `None` if `d` is 0 or the quotient has more than 128 bits.
pub(crate) const fn multiply_divide(a: u128, b: u128, d: u128) -> Option<u128> {
    let (high, low) = multiply(a, b);
    if high >= d {
        return None;
    }
    if high == 0 {
        return Some(low / d);
    }
    let (mut quotient, mut rest, mut bit) = (0, high, 128);
    while bit > 0 {
        bit -= 1;
        // `rest` is below `d`; twice that and a bit has up to 129 bits, of which subtracting `d` leaves 128.
        let carry = rest >> 127 == 1;
        rest = rest << 1 | (low >> bit & 1);
        let (less, borrow) = rest.overflowing_sub(d);
        let fits = carry | !borrow;
        rest = if fits { less } else { rest };
        quotient = quotient << 1 | fits as u128;
    }
    Some(quotient)
}

#[cfg(test)]
mod tests {
    use num_bigint::BigUint;
    use proptest::prelude::*;

    use super::*;

    /// Numbers of every width, and those next to powers of two.
    fn number() -> impl Strategy<Value = u128> {
        let near = |bit: u32, off: u128| (1_u128 << bit).wrapping_sub(2).wrapping_add(off);
        prop_oneof![
            (any::<u128>(), 0_u32..128).prop_map(|(value, shift)| value >> shift),
            (0_u32..128, 0_u128..5).prop_map(move |(bit, off)| near(bit, off)),
            (0_u128..3).prop_map(|off| u128::MAX - off),
        ]
    }

    fn oracle(a: u128, b: u128, d: u128) -> Option<u128> {
        let product = BigUint::from(a) * BigUint::from(b);
        (d > 0).then(|| product / d)?.try_into().ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn products_and_quotients_are_those_of_big_integers(a in number(), b in number(), d in number()) {
            let (high, low) = multiply(a, b);
            prop_assert_eq!((BigUint::from(high) << 128) + low, BigUint::from(a) * b);
            prop_assert_eq!(multiply_divide(a, b, d), oracle(a, b, d));
            // A share of a whole never has more bits than the whole.
            let (part, whole) = (b.min(d), b.max(d));
            prop_assert_eq!(multiply_divide(a, part, whole), oracle(a, part, whole));
        }
    }

    #[test]
    fn extremes_neither_overflow_nor_round_wrong() {
        const MAX: u128 = u128::MAX;
        assert_eq!(multiply(MAX, MAX), (MAX - 1, 1));
        for (a, b, d, expected) in [
            (MAX, MAX, MAX, Some(MAX)),
            (MAX, MAX - 1, MAX, Some(MAX - 1)),
            (MAX, 1 << 127, MAX, Some(1 << 127)),
            (MAX - 1, MAX - 1, MAX, Some(MAX - 2)),
            (MAX, MAX, MAX - 1, None),
            (MAX, 2, 2, Some(MAX)),
            (MAX, 2, 1, None),
            (0, 0, 0, None),
            (0, MAX, MAX, Some(0)),
            (1 << 127, 2, 3, Some(MAX / 3)),
        ] {
            assert_eq!(multiply_divide(a, b, d), expected, "{a} * {b} / {d}");
        }
    }
}
