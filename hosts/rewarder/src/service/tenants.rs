//! How often each tenant asks: the time at which its allowance would be full again, which is all that has to be known (GCRA).

use std::collections::HashMap;
use std::time::Duration;

use crate::quarantine::Moment;
use crate::Name;

/// Tenants that are known at a time; those whose allowance is full need not be.
const TENANTS_MAX: usize = 65_536;
const SECOND: Duration = Duration::from_secs(1);

/// Allowances of a second's requests.
#[derive(Debug, Default)]
pub(super) struct Tenants(HashMap<Name, Moment>);

impl Tenants {
    /// One request more, or after which time there may be one.
    pub(super) fn take(&mut self, tenant: &Name, rps: u32, now: Moment) -> Result<(), Duration> {
        let each = SECOND / rps.max(1);
        let full = self.0.get(tenant).copied().unwrap_or(now).max(now);
        let wait = (full + each).saturating_sub(now + SECOND);
        if !wait.is_zero() {
            return Err(wait);
        }
        if self.0.len() >= TENANTS_MAX && !self.0.contains_key(tenant) {
            self.0.retain(|_, full| *full > now);
            if self.0.len() >= TENANTS_MAX {
                return Err(SECOND);
            }
        }
        self.0.insert(tenant.clone(), full + each);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_has_a_seconds_requests_and_then_one_at_a_time() {
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut tenants = Tenants::default();
        let ms = Duration::from_millis;
        for _ in 0..4 {
            assert_eq!(tenants.take(&a, 4, ms(10)), Ok(()));
        }
        assert_eq!(tenants.take(&a, 4, ms(10)), Err(ms(250)));
        assert_eq!(tenants.take(&b, 4, ms(10)), Ok(()));
        assert_eq!(tenants.take(&a, 4, ms(259)), Err(ms(1)));
        assert_eq!(tenants.take(&a, 4, ms(260)), Ok(()));
        assert_eq!(tenants.take(&a, 4, ms(260)), Err(ms(250)));
    }

    #[test]
    fn only_tenants_that_ask_are_known() {
        let mut tenants = Tenants::default();
        for at in 0..TENANTS_MAX {
            let tenant = format!("t{at}").parse().unwrap();
            assert_eq!(tenants.take(&tenant, 1, Duration::ZERO), Ok(()));
        }
        let more = "more".parse().unwrap();
        assert!(tenants.take(&more, 1, Duration::from_millis(1)).is_err());
        assert_eq!(tenants.take(&more, 1, 2 * SECOND), Ok(()));
        assert_eq!(tenants.0.len(), 1);
    }
}
