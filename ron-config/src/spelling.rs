//! Did-you-mean: the nearest known name by edit distance.

/// Edit distance with adjacent transpositions (optimal string alignment), over characters.
///
/// Gives up with `None` as soon as the distance must exceed `limit`.
pub(crate) fn distance(a: &str, b: &str, limit: usize) -> Option<usize> {
    // A character has four bytes at most.
    if a.len().abs_diff(b.len()) > 4 * limit {
        return None;
    }
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let width = b.len() + 1;
    let mut before = vec![0; width];
    let mut above: Vec<usize> = (0..width).collect();
    let mut row = vec![0; width];
    for i in 1..=a.len() {
        row[0] = i;
        let mut least = i;
        for j in 1..width {
            let differ = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (above[j] + 1)
                .min(row[j - 1] + 1)
                .min(above[j - 1] + differ);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row[j] = best;
            least = least.min(best);
        }
        if least > limit {
            return None;
        }
        std::mem::swap(&mut before, &mut above);
        std::mem::swap(&mut above, &mut row);
    }
    Some(above[b.len()]).filter(|d| *d <= limit)
}

/// The known name nearest to `word`, if one is near enough to be what was meant.
///
/// Near enough is a distance of 2, and less than half of a short word, so that `ab` does not suggest `cd`. Among equals
/// the first in order wins.
///
/// ```
/// assert_eq!(ron_config::nearest("heartbaet", ["status", "heartbeat"]), Some("heartbeat"));
/// ```
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 2).clamp(1, 2);
    let mut best: Option<(usize, &str)> = None;
    for name in known {
        if let Some(d) = distance(word, name, limit) {
            if best.map_or(true, |(least, _)| d < least) {
                best = Some((d, name));
            }
        }
    }
    best.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_edits_and_transpositions_as_one() {
        for (a, b, expected) in [
            ("", "", Some(0)),
            ("capacity", "capacity", Some(0)),
            ("capcity", "capacity", Some(1)),
            ("capaciity", "capacity", Some(1)),
            ("capacitx", "capacity", Some(1)),
            ("cpaacity", "capacity", Some(1)),
            ("cpcity", "capacity", Some(2)),
            ("xyz", "capacity", None),
        ] {
            assert_eq!(distance(a, b, 2), expected, "{a} {b}");
        }
    }

    #[test]
    fn nearest_prefers_the_smaller_distance_and_refuses_strangers() {
        assert_eq!(nearest("lvel", ["label", "level"]), Some("level"));
        assert_eq!(nearest("zz", ["level", "label"]), None);
    }
}
