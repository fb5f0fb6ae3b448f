//! A name that nothing has → the names that are most like it.

/// Names that are offered.
const OFFERED: usize = 3;

/// Characters of a name that are compared: a longer one is nobody's slip.
const COMPARED: usize = 128;

/// The names nearest to `asked`, best first: those that contain it, then by single letters to change (Levenshtein).
pub fn nearest<'a>(asked: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let asked: Vec<char> = asked.to_lowercase().chars().take(COMPARED).collect();
    let whole: String = asked.iter().collect();
    let far = |name: &str| {
        let lower = name.to_lowercase();
        let other: Vec<char> = lower.chars().take(COMPARED).collect();
        (!lower.contains(&whole), distance(&asked, &other))
    };
    let mut ranked: Vec<_> = names.map(|name| (far(name), name)).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(OFFERED).map(|(_, name)| name).collect()
}

fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
