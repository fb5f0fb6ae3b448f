//! Tasks in queues → when each starts and ends, in virtual time. A task starts when it is first in its queues and what it
//! waits for is done; copies advance at rates that change as others start and end. Knows no plan; never goes back.

use super::flow::Routes;
use super::timeline::{Activity, Event, Lane};
use crate::units::{Bytes, Nanos};

/// What a task does for how long.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// A fixed time.
    Compute(Nanos),
    /// Bytes over a route.
    Copy {
        /// How many.
        bytes: f64,
        /// A route by its number.
        route: usize,
    },
}

/// A task that must be done first, by its position in its step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    /// In the same step.
    InStep(usize),
    /// In the step before, if there is one.
    InStepBefore(usize),
}

/// A thing to do in every step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub what: Activity,
    pub lane: Lane,
    /// The queues that it stands in; the same one twice if there is one.
    pub queues: [usize; 2],
    pub wait: Option<Wait>,
    pub work: Work,
}

/// Runs `steps` times all of `tasks`, in the order of every queue.
pub(super) fn run(tasks: &[Task], routes: &Routes<'_>, queues: usize, steps: u32) -> Vec<Event> {
    let mut run = Run::new(tasks, routes, queues, steps);
    run.start();
    while let Some(now) = run.active.iter().map(|a| a.end()).min() {
        run.advance(now);
        run.start();
    }
    run.events
}

/// A task that is being done.
struct Active {
    step: u32,
    task: usize,
    start: Nanos,
    phase: Phase,
}

enum Phase {
    Computes {
        end: Nanos,
    },
    /// A copy before its first byte.
    Asks {
        end: Nanos,
    },
    /// Copies what is left at a rate, to the end.
    Copies {
        left: f64,
        rate: f64,
        end: Nanos,
    },
}

impl Active {
    /// When something happens to it.
    fn end(&self) -> Nanos {
        match self.phase {
            Phase::Computes { end } | Phase::Asks { end } | Phase::Copies { end, .. } => end,
        }
    }
}

struct Queue {
    tasks: Vec<usize>,
    /// Step and position of the first task that is not done.
    step: u32,
    at: usize,
    busy: bool,
}

struct Run<'a> {
    tasks: &'a [Task],
    routes: &'a Routes<'a>,
    steps: u32,
    queues: Vec<Queue>,
    /// How often each task is done.
    done: Vec<u32>,
    now: Nanos,
    active: Vec<Active>,
    events: Vec<Event>,
}

impl<'a> Run<'a> {
    fn new(tasks: &'a [Task], routes: &'a Routes<'a>, queues: usize, steps: u32) -> Run<'a> {
        let empty = |_| Queue { tasks: Vec::new(), step: 0, at: 0, busy: false };
        let mut queues: Vec<Queue> = (0..queues).map(empty).collect();
        for (i, task) in tasks.iter().enumerate() {
            let [first, second] = task.queues;
            queues[first].tasks.push(i);
            if second != first {
                queues[second].tasks.push(i);
            }
        }
        let (done, events) = (vec![0; tasks.len()], Vec::with_capacity(tasks.len()));
        Run { tasks, routes, steps, queues, done, now: Nanos::ZERO, active: Vec::new(), events }
    }

    /// Starts all that can start now.
    fn start(&mut self) {
        for queue in 0..self.queues.len() {
            let Some((step, task)) = self.first(queue) else { continue };
            let Task { queues, wait, work, .. } = self.tasks[task];
            let is_first = queues.iter().all(|&q| self.first(q) == Some((step, task)));
            if !is_first || !self.is_over(wait, step) {
                continue;
            }
            queues.iter().for_each(|&q| self.queues[q].busy = true);
            let phase = match work {
                Work::Compute(time) => Phase::Computes { end: self.now + time },
                Work::Copy { route, .. } => Phase::Asks { end: self.now + self.routes.get(route).latency },
            };
            self.active.push(Active { step, task, start: self.now, phase });
        }
    }

    /// The first task of a queue that is not at work.
    fn first(&self, queue: usize) -> Option<(u32, usize)> {
        let queue = &self.queues[queue];
        let open = !queue.busy && queue.step < self.steps;
        queue.tasks.get(queue.at).filter(|_| open).map(|&task| (queue.step, task))
    }

    fn is_over(&self, wait: Option<Wait>, step: u32) -> bool {
        match wait {
            None => true,
            Some(Wait::InStep(task)) => self.done[task] > step,
            Some(Wait::InStepBefore(task)) => self.done[task] >= step,
        }
    }

    /// Goes to the next time at which something happens, and lets it happen.
    fn advance(&mut self, now: Nanos) {
        let passed = now.saturating_sub(self.now).seconds();
        self.now = now;
        let mut changed = false;
        for mut active in std::mem::take(&mut self.active) {
            let due = active.end() <= now;
            match &mut active.phase {
                Phase::Computes { .. } if due => self.finish(&active),
                Phase::Computes { .. } => self.active.push(active),
                Phase::Asks { .. } => {
                    if let Work::Copy { bytes, .. } = self.tasks[active.task].work
                        && due
                    {
                        active.phase = Phase::Copies { left: bytes, rate: 0.0, end: now };
                        changed = true;
                    }
                    self.active.push(active);
                }
                Phase::Copies { .. } if due => {
                    self.finish(&active);
                    changed = true;
                }
                Phase::Copies { left, rate, .. } => {
                    *left = (*left - *rate * passed).max(0.0);
                    self.active.push(active);
                }
            }
        }
        if changed {
            self.share();
        }
    }

    fn finish(&mut self, active: &Active) {
        let Task { what, lane, queues, work, .. } = self.tasks[active.task];
        let bytes = match work {
            Work::Compute(_) => Bytes::ZERO,
            Work::Copy { bytes, .. } => Bytes(bytes as u64),
        };
        let [first, second] = queues;
        for queue in [Some(first), (second != first).then_some(second)].into_iter().flatten() {
            let queue = &mut self.queues[queue];
            queue.busy = false;
            queue.at += 1;
            if queue.at == queue.tasks.len() {
                (queue.step, queue.at) = (queue.step + 1, 0);
            }
        }
        self.done[active.task] += 1;
        self.events.push(Event { step: active.step, lane, what, start: active.start, end: self.now, bytes });
    }

    /// Gives every copy its rate, now that there are others.
    fn share(&mut self) {
        let tasks = self.tasks;
        let copies = self.active.iter_mut().filter_map(|active| match (&mut active.phase, tasks[active.task].work) {
            (Phase::Copies { left, rate, end }, Work::Copy { route, .. }) => Some((left, rate, end, route)),
            (Phase::Copies { .. } | Phase::Computes { .. } | Phase::Asks { .. }, _) => None,
        });
        let copies: Vec<_> = copies.collect();
        let flows: Vec<usize> = copies.iter().map(|c| c.3).collect();
        for ((left, rate, end, _), share) in copies.into_iter().zip(self.routes.rates(&flows)) {
            *rate = share;
            *end = self.now + if *left > 0.0 { Nanos::of_seconds(*left / share) } else { Nanos::ZERO };
        }
    }
}
