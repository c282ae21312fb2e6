//! Which known name a strange one was probably meant to be.

/// How many edits a slip of the finger may take.
const SLIPS: usize = 2;

/// The first of the known names that are nearest to `word`, if that takes at most two insertions, deletions or
/// replacements, and fewer than half of the word's characters.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .filter_map(|name| Some((edits(word.as_bytes(), name.as_bytes())?, name)))
        .filter(|(edits, _)| 2 * edits < word.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, name)| name)
}

/// Levenshtein's distance in bytes, which are characters in every known name; `None` above [`SLIPS`].
fn edits(a: &[u8], b: &[u8]) -> Option<usize> {
    if a.len().abs_diff(b.len()) > SLIPS {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().filter(|edits| *edits <= SLIPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_a_stranger_is_not() {
        let known = ["level", "label", "deadline"];
        for (word, expected) in [
            ("level", Some("level")),
            ("levle", Some("level")),
            ("lavel", Some("level")),
            ("labe", Some("label")),
            ("dedline", Some("deadline")),
            ("deadlines", Some("deadline")),
            ("dadlne", Some("deadline")),
            ("dadln", None),
            ("lev", None),
            ("capacity", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
