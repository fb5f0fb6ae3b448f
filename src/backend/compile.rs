//! Compiling what a split needs on as many threads as there are cores, and as the system gives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

/// Does `compile` for each source, several at a time.
///
/// # Errors
/// The first that was met.
pub fn all<T: Sync, E: From<String> + Send>(
    sources: &[T],
    compile: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            compile(source)?;
        }
        Ok(())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let others = (1..cores.min(sources.len())).map_while(|_| Builder::new().spawn_scoped(scope, work).ok());
        let others: Vec<_> = others.collect();
        let own = work();
        let ended = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|_| Err("a compiler panicked".to_owned().into())));
        ended.fold(own, Result::and)
    })
}
