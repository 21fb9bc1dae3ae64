//! Where servers are at home, and since when. Only the owner of a server's home writes its minutes and rates its leases.
//!
//! A home is dated: a server that lives elsewhere by now is moved from an hour's edge on, so what it was charged for before stays
//! where it was rated, and no window has two homes.

use std::collections::BTreeMap;

use hydrometer_rating::history::Span;
use hydrometer_schemas::time::Second;

use crate::source::TopicPartition;

/// The homes of all servers that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Homes {
    /// Of each server: since when, and where; in order of time.
    servers: BTreeMap<String, Vec<(Second, TopicPartition)>>,
}

impl Homes {
    /// A server is at home in a partition from a second on.
    pub fn add(&mut self, server: &str, since: Second, home: TopicPartition) {
        let dated = self.servers.entry(server.to_owned()).or_default();
        let at = dated.partition_point(|(other, _)| *other < since);
        match dated.get_mut(at) {
            Some(same) if same.0 == since => same.1 = home,
            _ => dated.insert(at, (since, home)),
        }
    }

    pub fn knows(&self, server: &str) -> bool {
        self.servers.contains_key(server)
    }

    /// Whether a server has ever had more than one home.
    pub fn has_moved(&self, server: &str) -> bool {
        self.servers.get(server).is_some_and(|dated| dated.len() > 1)
    }

    /// A server's home at a second. What was before its first home belongs to that one too.
    pub fn at(&self, server: &str, second: Second) -> Option<&TopicPartition> {
        let dated = self.servers.get(server)?;
        let next = dated.partition_point(|(since, _)| *since <= second);
        dated.get(next.saturating_sub(1)).map(|(_, home)| home)
    }

    /// A server's homes, one after another, over all time.
    pub fn spans<'a>(&'a self, server: &str) -> impl Iterator<Item = (Span, &'a TopicPartition)> + use<'a> {
        let dated = self.servers.get(server).map_or(&[][..], Vec::as_slice);
        dated.iter().enumerate().map(|(i, (since, home))| {
            let from = if i == 0 { Second::MIN } else { *since };
            (Span { from, to: dated.get(i + 1).map_or(Second::MAX, |next| next.0) }, home)
        })
    }

    /// The servers whose latest home is this one, and since when it is.
    pub fn latest_in<'a>(&'a self, home: &'a TopicPartition) -> impl Iterator<Item = (&'a str, Second)> {
        let latest = self.servers.iter().filter_map(|(server, dated)| Some((server.as_str(), dated.last()?)));
        latest.filter(move |(_, (_, at))| at == home).map(|(server, (since, _))| (server, *since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(partition: i32) -> TopicPartition {
        TopicPartition { topic: "t".into(), partition }
    }

    #[test]
    fn a_home_is_dated() {
        let mut homes = Homes::default();
        homes.add("s", 7_200, partition(2));
        homes.add("s", 0, partition(1));
        homes.add("other", 0, partition(2));
        assert_eq!(homes.at("s", -5), Some(&partition(1)));
        assert_eq!(homes.at("s", 7_199), Some(&partition(1)));
        assert_eq!(homes.at("s", 7_200), Some(&partition(2)));
        assert_eq!(homes.at("nobody", 0), None);
        assert!(homes.has_moved("s") && !homes.has_moved("other") && !homes.has_moved("nobody"));
        assert_eq!(homes.latest_in(&partition(2)).collect::<Vec<_>>(), [("other", 0), ("s", 7_200)]);
        assert_eq!(homes.latest_in(&partition(1)).count(), 0);
    }

    #[test]
    fn the_homes_of_a_server_cover_all_time_once() {
        let mut homes = Homes::default();
        for (since, at) in [(0, 1), (3_600, 2), (10_800, 1)] {
            homes.add("s", since, partition(at));
        }
        let spans: Vec<(Second, Second, i32)> =
            homes.spans("s").map(|(span, home)| (span.from, span.to, home.partition)).collect();
        assert_eq!(spans, [(Second::MIN, 3_600, 1), (3_600, 10_800, 2), (10_800, Second::MAX, 1)]);
        assert_eq!(homes.spans("nobody").count(), 0);
        homes.add("s", 3_600, partition(3));
        assert_eq!(homes.at("s", 3_600), Some(&partition(3)));
    }
}
