//! What a device reports outside of any call. A loss is for good; every other error is told once, to the next who asks.

use std::sync::Mutex;

use super::gpu::locked;

/// What was reported and not told yet, and whether there still is a device.
#[derive(Default)]
pub struct Faults(Mutex<Known>);

#[derive(Default)]
struct Known {
    lost: Option<String>,
    error: Option<String>,
}

impl Faults {
    /// The device is gone.
    pub fn lose(&self, why: &str) {
        let why = if why.is_empty() { "it was given up" } else { why };
        locked(&self.0).lost.get_or_insert_with(|| format!("the device was lost: {why}"));
    }

    /// Something failed; of several errors the first is told.
    pub fn note(&self, why: String) {
        locked(&self.0).error.get_or_insert(why);
    }

    /// Whether the device is gone.
    pub fn is_lost(&self) -> bool {
        locked(&self.0).lost.is_some()
    }

    /// Fails if something was reported that nobody was told of, or the device is gone.
    pub fn told(&self) -> Result<(), String> {
        let mut known = locked(&self.0);
        let error = known.error.take();
        known.lost.clone().or(error).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::Faults;

    #[test]
    fn an_error_is_told_once_and_a_loss_for_ever() {
        let faults = Faults::default();
        assert_eq!(faults.told(), Ok(()));
        ["first", "second"].into_iter().for_each(|why| faults.note(why.into()));
        assert_eq!(faults.told(), Err("first".into()));
        assert_eq!(faults.told(), Ok(()));
        faults.lose("");
        faults.note("because of that".into());
        faults.lose("another cause");
        for _ in 0..2 {
            assert_eq!(faults.told(), Err("the device was lost: it was given up".into()));
        }
    }
}
