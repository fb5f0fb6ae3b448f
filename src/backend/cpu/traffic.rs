//! Who may touch which memory of a device at a time: copies of ranges that do not meet overlap each other, a running
//! split overlaps nothing. Copies and splits from any threads are sound because each holds its part here.
//! Never allocates once its table has room for the most copies that were ever under way together.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::memory::Raw;

/// What is under way on one device.
#[derive(Default)]
pub struct Traffic {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    /// Whether a split runs.
    running: bool,
    /// Splits that wait; new copies let them pass, so that a stream of copies cannot hold one up.
    splits_waiting: usize,
    /// All that wait.
    waiting: usize,
    copies: Vec<Copy>,
    tickets: u64,
}

struct Copy {
    ticket: u64,
    reads: Option<Raw>,
    writes: Option<Raw>,
}

impl Copy {
    /// Whether the two may be under way together: neither writes what the other touches.
    fn passes(&self, reads: Option<&Raw>, writes: Option<&Raw>) -> bool {
        let meet = |a: Option<&Raw>, b: Option<&Raw>| a.zip(b).is_some_and(|(a, b)| a.meets(b));
        let own = self.writes.as_ref();
        !meet(own, writes) && !meet(own, reads) && !meet(self.reads.as_ref(), writes)
    }
}

/// A copy under way; it ends when this is dropped.
pub struct Copying<'a> {
    traffic: &'a Traffic,
    ticket: u64,
}

/// A split that runs; it ends when this is dropped.
pub struct Running<'a> {
    traffic: &'a Traffic,
}

impl Traffic {
    /// Waits until nothing that is under way stands against reading `reads` and writing `writes`, then begins that.
    pub fn copy(&self, reads: Option<&Raw>, writes: Option<&Raw>) -> Copying<'_> {
        let mut table = self.table();
        while table.running || table.splits_waiting > 0 || !table.copies.iter().all(|c| c.passes(reads, writes)) {
            table = self.wait(table);
        }
        table.tickets += 1;
        let ticket = table.tickets;
        table.copies.push(Copy { ticket, reads: reads.cloned(), writes: writes.cloned() });
        Copying { traffic: self, ticket }
    }

    /// Waits until nothing is under way, then begins a split.
    pub fn run(&self) -> Running<'_> {
        let mut table = self.table();
        table.splits_waiting += 1;
        while table.running || !table.copies.is_empty() {
            table = self.wait(table);
        }
        table.splits_waiting -= 1;
        table.running = true;
        Running { traffic: self }
    }

    fn wait<'a>(&self, mut table: MutexGuard<'a, Table>) -> MutexGuard<'a, Table> {
        table.waiting += 1;
        let mut table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        table.waiting -= 1;
        table
    }

    /// Changes the table and wakes those who wait for that; nobody is woken where nobody waits.
    fn end(&self, change: impl FnOnce(&mut Table)) {
        let mut table = self.table();
        change(&mut table);
        if table.waiting > 0 {
            self.changed.notify_all();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.traffic.end(|table| table.copies.retain(|c| c.ticket != self.ticket));
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.traffic.end(|table| table.running = false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::memory::{Buffer, Raw};
    use super::Traffic;
    use crate::plan::Span;
    use crate::units::Bytes;

    fn range(buffer: &Arc<Buffer>, offset: u64, len: u64) -> Raw {
        buffer.raw(Span { offset: Bytes(offset), len: Bytes(len) }).unwrap()
    }

    /// Runs `begin` on another thread while `held` lives; it must wait for exactly as long.
    fn waits<H>(traffic: &Traffic, held: H, begin: impl FnOnce() + Send) {
        let begun = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begin();
                begun.store(true, Ordering::SeqCst);
            });
            while traffic.table().waiting == 0 {
                std::thread::yield_now();
            }
            assert!(!begun.load(Ordering::SeqCst), "began beside what it must wait for");
            drop(held);
        });
        assert!(begun.load(Ordering::SeqCst));
    }

    #[test]
    fn what_would_race_waits_and_what_would_not_does_not() {
        let buffer = Arc::new(Buffer::zeroed(Bytes(100)).unwrap());
        let (low, high, across) = (range(&buffer, 0, 50), range(&buffer, 50, 50), range(&buffer, 49, 2));
        let traffic = Traffic::default();
        // Two writes of disjoint ranges, and any number of reads, go on together.
        let together = (traffic.copy(None, Some(&low)), traffic.copy(None, Some(&high)));
        drop(together);
        let together = (traffic.copy(Some(&low), None), traffic.copy(Some(&across), None));
        waits(&traffic, together, || drop(traffic.copy(None, Some(&across))));
        waits(&traffic, traffic.copy(Some(&high), Some(&low)), || drop(traffic.copy(Some(&across), None)));
        waits(&traffic, traffic.copy(Some(&low), None), || drop(traffic.run()));
        waits(&traffic, traffic.run(), || drop(traffic.copy(Some(&low), None)));
        waits(&traffic, traffic.run(), || drop(traffic.run()));
        assert!(traffic.table().copies.is_empty() && !traffic.table().running);
    }

    #[test]
    fn a_split_that_waits_goes_before_copies_that_come_later() {
        let buffer = Arc::new(Buffer::zeroed(Bytes(100)).unwrap());
        let (low, high) = (range(&buffer, 0, 50), range(&buffer, 50, 50));
        let (traffic, ran) = (Traffic::default(), AtomicBool::new(false));
        let first = traffic.copy(Some(&low), None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _running = traffic.run();
                ran.store(true, Ordering::SeqCst);
            });
            while traffic.table().splits_waiting == 0 {
                std::thread::yield_now();
            }
            scope.spawn(|| {
                let _later = traffic.copy(None, Some(&high));
                assert!(ran.load(Ordering::SeqCst), "passed the split");
            });
            while traffic.table().waiting < 2 {
                std::thread::yield_now();
            }
            drop(first);
        });
    }
}
