//! Stretches of time, and lists of them: sorted, disjoint, and searched by halving, so that a window costs the same however long the
//! history is.

use hydrometer_schemas::time::Second;

/// `[from, to)`; `to` is [`FOREVER`](hydrometer_schemas::time::FOREVER) while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub from: Second,
    pub to: Second,
}

impl Span {
    pub fn intersect(self, other: Span) -> Option<Span> {
        let (from, to) = (self.from.max(other.from), self.to.min(other.to));
        (from < to).then_some(Span { from, to })
    }

    pub fn seconds(self) -> i64 {
        self.to - self.from
    }

    pub fn holds(self, second: Second) -> bool {
        self.from <= second && second < self.to
    }
}

/// Something that is true from one second to another.
pub trait Dated {
    fn span(&self) -> Span;
}

impl Dated for Span {
    fn span(&self) -> Span {
        *self
    }
}

impl<T> Dated for (Span, T) {
    fn span(&self) -> Span {
        self.0
    }
}

/// The members of a sorted, disjoint list that reach into `window`, each with the part that does.
pub fn within<T: Dated>(list: &[T], window: Span) -> impl Iterator<Item = (Span, &T)> {
    let first = list.partition_point(|it| it.span().to <= window.from);
    let rest = list.get(first..).unwrap_or_default();
    rest.iter()
        .take_while(move |it| it.span().from < window.to)
        .filter_map(move |it| it.span().intersect(window).map(|part| (part, it)))
}

/// Cuts `window` by a sorted, disjoint list; where it has nothing, `None`. The parts cover `window` without gap or overlap.
pub fn cut<T: Dated>(list: &[T], window: Span) -> Vec<(Span, Option<&T>)> {
    let mut parts = Vec::new();
    let mut at = window.from;
    for (part, it) in within(list, window) {
        if at < part.from {
            parts.push((Span { from: at, to: part.from }, None));
        }
        parts.push((part, Some(it)));
        at = part.to;
    }
    if at < window.to {
        parts.push((Span { from: at, to: window.to }, None));
    }
    parts
}

/// Any spans to sorted, disjoint ones that cover the same seconds; where they overlap, the greatest value wins.
pub fn greatest<V: Ord + Copy>(spans: impl IntoIterator<Item = (Span, V)>) -> Vec<(Span, V)> {
    let mut spans: Vec<(Span, V)> = spans.into_iter().filter(|(span, _)| span.from < span.to).collect();
    if spans.len() < 2 {
        return spans;
    }
    let mut edges: Vec<Second> = spans.iter().flat_map(|(span, _)| [span.from, span.to]).collect();
    edges.sort_unstable();
    edges.dedup();
    spans.sort_unstable_by_key(|(span, _)| span.from);
    let mut waiting = spans.into_iter().peekable();
    // By value, and within it by end: the one on top holds until it ends.
    let mut active: std::collections::BinaryHeap<(V, Second)> = std::collections::BinaryHeap::new();
    let mut result: Vec<(Span, V)> = Vec::new();
    for pair in edges.windows(2) {
        let &[from, to] = pair else { continue };
        while let Some((span, value)) = waiting.next_if(|(span, _)| span.from <= from) {
            active.push((value, span.to));
        }
        while active.peek().is_some_and(|(_, end)| *end <= from) {
            active.pop();
        }
        let Some(&(value, _)) = active.peek() else { continue };
        match result.last_mut() {
            Some((last, known)) if last.to == from && *known == value => last.to = to,
            _ => result.push((Span { from, to }, value)),
        }
    }
    result
}

/// Any spans to sorted, disjoint ones that cover the same seconds.
pub fn union(spans: impl IntoIterator<Item = Span>) -> Vec<Span> {
    greatest(spans.into_iter().map(|span| (span, ()))).into_iter().map(|(span, ())| span).collect()
}

/// A sorted, disjoint list without the seconds of another.
pub fn without<V: Copy>(list: &[(Span, V)], taken: &[Span]) -> Vec<(Span, V)> {
    let left = list.iter().flat_map(|&(span, value)| {
        let free = cut(taken, span).into_iter().filter(|(_, taken)| taken.is_none());
        free.map(move |(part, _)| (part, value))
    });
    left.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spans() -> impl Strategy<Value = Vec<(Span, u8)>> {
        prop::collection::vec((0i64..60, 0i64..20, 0u8..3), 0..8)
            .prop_map(|all| all.into_iter().map(|(from, s, v)| (Span { from, to: from + s }, v)).collect())
    }

    proptest! {
        #[test]
        fn lists_of_spans_say_the_same_second_by_second(all in spans(), taken in spans(), from in 0i64..60, length in 1i64..40) {
            let flat = greatest(all.clone());
            prop_assert!(flat.windows(2).all(|pair| pair[0].0.to <= pair[1].0.from));
            let taken = union(taken.into_iter().map(|(span, _)| span));
            let left = without(&flat, &taken);
            let window = Span { from, to: from + length };
            let parts = cut(&flat, window);
            for second in 0..90 {
                let expected = all.iter().filter(|(span, _)| span.holds(second)).map(|(_, v)| *v).max();
                let at = |list: &[(Span, u8)]| list.iter().find(|(span, _)| span.holds(second)).map(|(_, v)| *v);
                prop_assert_eq!(at(&flat), expected);
                let is_taken = taken.iter().any(|span| span.holds(second));
                prop_assert_eq!(at(&left), expected.filter(|_| !is_taken));
                let part: Vec<_> = parts.iter().filter(|(span, _)| span.holds(second)).collect();
                prop_assert_eq!(part.len(), usize::from(window.holds(second)));
                if let [(_, found)] = part[..] {
                    prop_assert_eq!(found.map(|it| it.1), expected);
                }
            }
        }
    }
}
