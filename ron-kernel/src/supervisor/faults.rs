//! Which faults are in force, and what they do to the next incarnation. Time is an argument.

use std::sync::Arc;
use std::time::Duration;

/// A fault in force on one child. Its id is 0 for the one that `chaos.fault` sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Campaign {
    pub(crate) id: u64,
    pub(crate) name: &'static str,
    /// `None` where the fault is none of a child's.
    pub(crate) child: Option<Arc<str>>,
    /// What it raises on an incarnation; 0 where it does nothing there.
    pub(crate) flag: u8,
    /// How long each poll is put off, for `latency`.
    pub(crate) delay: Duration,
    pub(crate) since: Duration,
    /// Ends by then; `None` for the configuration's.
    pub(crate) until: Option<Duration>,
    /// How often it may still strike; `None` for any number.
    pub(crate) left: Option<u32>,
    pub(crate) count: Option<u32>,
    /// How often it has struck.
    pub(crate) injected: u64,
    /// Who asked for it.
    pub(crate) by: Arc<str>,
}

/// All faults in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    campaigns: Vec<Campaign>,
    #[cfg(feature = "control")]
    last_id: u64,
}

/// Faults in force at a time, the configuration's included.
#[cfg(feature = "control")]
pub(crate) const CAMPAIGNS_MAX: usize = 64;
/// The id of the fault that the configuration sets.
pub(crate) const STANDING: u64 = 0;

impl Faults {
    #[cfg(feature = "control")]
    pub(crate) fn all(&self) -> &[Campaign] {
        &self.campaigns
    }

    #[cfg(feature = "control")]
    pub(crate) fn get(&mut self, id: u64) -> Option<&mut Campaign> {
        self.campaigns.iter_mut().find(|one| one.id == id)
    }

    /// Adds one and gives it its id; `None` when there are too many.
    #[cfg(feature = "control")]
    pub(crate) fn add(&mut self, mut campaign: Campaign) -> Option<u64> {
        if self.campaigns.len() >= CAMPAIGNS_MAX {
            return None;
        }
        self.last_id += 1;
        campaign.id = self.last_id;
        self.campaigns.push(campaign);
        Some(self.last_id)
    }

    /// Puts the configuration's in place of the one before; returns whether it is another, and the one before.
    pub(crate) fn set_standing(&mut self, standing: Option<Campaign>) -> (bool, Option<Campaign>) {
        let at = self.campaigns.iter().position(|one| one.id == STANDING);
        let before = at.map(|at| self.campaigns.remove(at));
        let key = |one: &Campaign| (one.name, one.child.clone());
        let changed = before.as_ref().map(key) != standing.as_ref().map(key);
        if let Some(mut standing) = standing {
            standing.id = STANDING;
            if let Some(before) = before.as_ref().filter(|_| !changed) {
                standing.injected = before.injected;
                standing.since = before.since;
            }
            self.campaigns.insert(0, standing);
        }
        (changed, before)
    }

    /// The flags that those in force raise on a child.
    pub(crate) fn raised_on(&self, child: &str) -> u8 {
        let on = |one: &&Campaign| one.child.as_deref() == Some(child) && one.left != Some(0);
        self.campaigns
            .iter()
            .filter(on)
            .fold(0, |flags, one| flags | one.flag)
    }

    /// None but the configuration's strikes from now on; whoever began them ends them.
    pub(crate) fn disarm(&mut self, now: Duration) {
        for one in &mut self.campaigns {
            one.until = one.until.map(|until| until.min(now));
        }
    }

    /// Takes one out.
    #[cfg(feature = "control")]
    pub(crate) fn remove(&mut self, id: u64) -> Option<Campaign> {
        let at = self.campaigns.iter().position(|one| one.id == id)?;
        Some(self.campaigns.remove(at))
    }

    /// The fault an incarnation of `child` suffers that starts or is struck now; counts it. The first in force wins.
    pub(crate) fn strike(&mut self, child: &str, now: Duration) -> Option<(u8, &'static str)> {
        let one = self.campaigns.iter_mut().find(|one| {
            one.flag != 0
                && one.child.as_deref() == Some(child)
                && one.until.map_or(true, |until| now < until)
                && one.left != Some(0)
        })?;
        if let Some(left) = &mut one.left {
            *left -= 1;
        }
        one.injected += 1;
        Some((one.flag, one.name))
    }

    /// How long polls of `child` are put off now.
    pub(crate) fn delay(&self, child: &str, now: Duration) -> Option<Duration> {
        let of = |one: &&Campaign| {
            one.child.as_deref() == Some(child)
                && !one.delay.is_zero()
                && one.until.map_or(true, |until| now < until)
        };
        self.campaigns.iter().find(of).map(|one| one.delay)
    }
}

#[cfg(all(test, feature = "control"))]
mod tests {
    use super::*;

    fn campaign(child: &str, left: Option<u32>, until: Option<u64>) -> Campaign {
        Campaign {
            id: 0,
            name: "panic",
            child: Some(Arc::from(child)),
            flag: 4,
            delay: Duration::ZERO,
            since: Duration::ZERO,
            until: until.map(Duration::from_secs),
            left,
            count: left,
            injected: 0,
            by: Arc::from("uid 0"),
        }
    }

    #[test]
    fn a_campaign_strikes_its_child_as_often_as_it_may_and_until_its_end() {
        let mut faults = Faults::default();
        faults.add(campaign("feed", Some(2), Some(10)));
        let at = Duration::from_secs;
        assert_eq!(faults.strike("other", at(1)), None);
        assert_eq!(faults.strike("feed", at(1)), Some((4, "panic")));
        assert_eq!(faults.strike("feed", at(2)), Some((4, "panic")));
        assert_eq!(faults.strike("feed", at(3)), None);
        assert_eq!(faults.all()[0].injected, 2);
        faults.add(campaign("late", None, Some(10)));
        assert_eq!(faults.strike("late", at(10)), None);
    }

    #[test]
    fn the_configurations_fault_is_replaced_and_never_doubled() {
        let mut faults = Faults::default();
        assert!(!faults.set_standing(None).0);
        assert!(faults.set_standing(Some(campaign("feed", None, None))).0);
        assert_eq!(faults.strike("feed", Duration::ZERO), Some((4, "panic")));
        assert!(!faults.set_standing(Some(campaign("feed", None, None))).0);
        assert_eq!((faults.all().len(), faults.all()[0].injected), (1, 1));
        assert!(faults.set_standing(Some(campaign("other", None, None))).0);
        let (changed, before) = faults.set_standing(None);
        assert!(changed && before.unwrap().child.as_deref() == Some("other"));
        assert!(faults.all().is_empty());
    }

    #[test]
    fn ids_are_never_reused_and_their_number_is_bounded() {
        let mut faults = Faults::default();
        let first = faults.add(campaign("a", None, None)).unwrap();
        assert!(faults.remove(first).is_some());
        assert!(faults.remove(first).is_none());
        assert_eq!(faults.add(campaign("a", None, None)), Some(first + 1));
        while faults.add(campaign("a", None, None)).is_some() {}
        assert_eq!(faults.all().len(), CAMPAIGNS_MAX);
    }
}
