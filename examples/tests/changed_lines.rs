//! Counts what moving the axum service into a kernel takes, as `diff` would: the README states the number.

/// The lines that matter: no blank ones, no comments.
fn code(source: &str) -> Vec<&str> {
    let lines = source.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .collect()
}

/// Length of the longest common subsequence: the lines that both programs have, in the same order.
fn kept(before: &[&str], after: &[&str]) -> usize {
    let mut longest = vec![0; after.len() + 1];
    for old in before {
        let mut diagonal = 0;
        for (i, new) in after.iter().enumerate() {
            let above = longest[i + 1];
            longest[i + 1] = if old == new {
                diagonal + 1
            } else {
                above.max(longest[i])
            };
            diagonal = above;
        }
    }
    longest[after.len()]
}

#[test]
fn moving_the_axum_service_in_removes_and_adds_as_many_lines_as_the_readme_says() {
    let before = code(include_str!("../inside_axum/before.rs"));
    let after = code(include_str!("../inside_axum/after.rs"));
    let kept = kept(&before, &after);
    let (removed, added) = (before.len() - kept, after.len() - kept);
    assert_eq!(
        (before.len(), removed, added),
        (54, 6, 40),
        "before, removed, added"
    );

    let stated = format!(
        "{removed} of its {} lines of code removed, {added} added",
        before.len()
    );
    assert!(
        include_str!("../README.md").contains(&stated),
        "the README does not say: {stated}"
    );
}

#[test]
fn lines_are_counted_as_diff_counts_them() {
    assert_eq!(kept(&["a", "b", "c", "d"], &["a", "x", "c", "y", "d"]), 3);
    assert_eq!(kept(&["a", "b"], &["b", "a"]), 1);
    assert_eq!(kept(&[], &["a"]), 0);
}
