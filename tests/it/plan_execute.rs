//! Plans executed without computing, as an oracle for planner and checker: every byte of arenas and rings has an owner,
//! devices and upload queues run at any pace that the contract of [`Plan`] allows, and every read must find its owner.

use std::collections::VecDeque;

use loadmaster::device::DeviceId;
use loadmaster::graph::{InputId, NodeId, Operand, Weight};
use loadmaster::index::{Id, IndexVec};
use loadmaster::plan::{Plan, Span, Split, SplitId, Transfer, TransferId, UploadId, View, check};
use proptest::prelude::*;

use crate::plan_random::{Case, Random};

/// Whose bytes these are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Owner {
    Nobody,
    Input(InputId),
    Value(NodeId),
    Upload(UploadId),
}

/// Bytes that have one owner: the least alignment of a device.
const GRAIN: u64 = 64;

/// An arena or a ring, by grains.
struct Buffer(Vec<Owner>);

impl Buffer {
    fn new(bytes: u64) -> Buffer {
        Buffer(vec![Owner::Nobody; bytes.div_ceil(GRAIN) as usize])
    }

    fn grains(span: Span) -> std::ops::Range<usize> {
        assert!(span.len.0 == 0 || span.offset.0.is_multiple_of(GRAIN), "{span:?}");
        (span.offset.0 / GRAIN) as usize..span.end().0.div_ceil(GRAIN) as usize
    }

    fn write(&mut self, span: Span, owner: Owner) {
        if span.len.0 > 0 {
            self.0[Buffer::grains(span)].fill(owner);
        }
    }

    fn read(&self, span: Span, owner: Owner) -> Result<(), String> {
        let grains = Buffer::grains(span);
        match self.0[grains].iter().find(|&&found| found != owner) {
            Some(found) if span.len.0 > 0 => Err(format!("{owner:?} at {span:?} is overwritten by {found:?}")),
            Some(_) | None if span.len.0 == 0 => Err(format!("{owner:?} is nowhere")),
            Some(_) | None => Ok(()),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Split(SplitId),
    Transfer(TransferId),
}

#[derive(Clone, Copy, PartialEq)]
enum Upload {
    Waits,
    Comes,
    Done,
}

/// The next thing that may happen.
#[derive(Clone, Copy)]
enum Event {
    /// The device starts its next split, or copies a value.
    Start(DeviceId),
    /// It runs the next node of its split, or ends it.
    Step(DeviceId),
    Begin(UploadId),
    Finish(UploadId),
}

struct Execution<'a> {
    case: &'a Case,
    plan: &'a Plan,
    random: Random,
    /// Whether uploads keep their order; the ring must hold without it.
    in_order: bool,
    /// How often a device's compute queue, and its upload queue, gets a turn.
    pace: Vec<[usize; 2]>,
    views: Vec<View>,
    queues: Vec<VecDeque<Action>>,
    /// The split that a device runs, and how many of its nodes are done.
    running: Vec<Option<(SplitId, usize)>>,
    arenas: Vec<Buffer>,
    rings: Vec<Buffer>,
    uploads: IndexVec<UploadId, Upload>,
    done: IndexVec<SplitId, bool>,
    taken: IndexVec<TransferId, bool>,
    /// Whether uploads wait for the routings that they name.
    few_rows: bool,
}

/// Executes a plan in an order drawn from `seed`.
///
/// # Errors
/// What was read, and what was found instead; or that nothing can go on.
pub fn execute(case: &Case, plan: &Plan, seed: u64) -> Result<(), String> {
    let mut execution = Execution::new(case, plan, Random(seed));
    while execution.queues.iter().any(|q| !q.is_empty()) || execution.running.iter().any(Option::is_some) {
        let events = execution.events();
        let Some(event) = execution.choose(&events) else { return Err("nothing can go on".into()) };
        execution.happen(event)?;
    }
    let output = case.graph.output();
    let at = plan.placements[output].device.index();
    execution.arenas[at].read(plan.values[output], Owner::Value(output))
}

impl<'a> Execution<'a> {
    fn new(case: &'a Case, plan: &'a Plan, mut random: Random) -> Execution<'a> {
        let devices: Vec<DeviceId> = case.machine.devices.ids().collect();
        let inputs = case.graph.inputs().len();
        let mut queues = vec![VecDeque::new(); devices.len()];
        for (id, split) in plan.splits.iter_ids() {
            queues[split.device.index()].push_back(Action::Split(id));
            let mut behind: Vec<TransferId> =
                plan.transfers.iter_ids().filter(|(_, t)| t.after == id).map(|(t, _)| t).collect();
            while !behind.is_empty() {
                let transfer = behind.swap_remove(random.below(behind.len()));
                let from = plan.placements[plan.transfers[transfer].value].device;
                queues[from.index()].push_back(Action::Transfer(transfer));
                queues[plan.transfers[transfer].to.index()].push_back(Action::Transfer(transfer));
            }
        }
        let mut arenas: Vec<Buffer> = plan.arenas.iter().map(|a| Buffer::new(a.bytes.0)).collect();
        for copy in &plan.inputs {
            arenas[copy.device.index()].write(copy.span, Owner::Input(copy.input));
        }
        Execution {
            case,
            plan,
            in_order: random.once_in(2),
            few_rows: random.once_in(2),
            taken: plan.transfers.iter().map(|_| false).collect(),
            pace: devices.iter().map(|_| [random.of(&[1, 4, 1000]), random.of(&[1, 4, 1000])]).collect(),
            random,
            views: devices.iter().map(|&d| plan.view(d, inputs)).collect(),
            queues,
            running: vec![None; devices.len()],
            arenas,
            rings: plan.rings.iter().map(|bytes| Buffer::new(bytes.0)).collect(),
            uploads: plan.uploads.iter().map(|_| Upload::Waits).collect(),
            done: plan.splits.iter().map(|_| false).collect(),
        }
    }

    /// All that may happen now, with how often it gets a turn.
    fn events(&self) -> Vec<(Event, usize)> {
        let mut events = Vec::new();
        for device in self.case.machine.devices.ids() {
            let [compute, copy] = self.pace[device.index()];
            match (self.running[device.index()], self.queues[device.index()].front()) {
                (Some(_), _) => events.push((Event::Step(device), compute)),
                (None, Some(&action)) if self.ready(action) => events.push((Event::Start(device), compute)),
                (None, Some(_) | None) => {}
            }
            let mut waits = false;
            for (id, upload) in self.plan.uploads.iter_ids().filter(|(_, u)| u.to == device) {
                let known = upload.chosen_by.is_none_or(|routing| !self.few_rows || self.is_there(device, routing));
                let freed = upload.after.is_none_or(|split| self.done[split]) && known;
                match self.uploads[id] {
                    Upload::Waits if freed && !(self.in_order && waits) => events.push((Event::Begin(id), copy)),
                    Upload::Comes => events.push((Event::Finish(id), copy)),
                    Upload::Waits | Upload::Done => {}
                }
                waits |= self.uploads[id] != Upload::Done;
            }
        }
        events
    }

    /// Whether a value was made or brought.
    fn is_there(&self, device: DeviceId, value: NodeId) -> bool {
        let made =
            |(id, split): (SplitId, &Split)| self.done[id] && split.device == device && split.nodes.contains(&value);
        let brought = |(id, t): (TransferId, &Transfer)| self.taken[id] && t.to == device && t.value == value;
        self.plan.splits.iter_ids().any(made) || self.plan.transfers.iter_ids().any(brought)
    }

    fn ready(&self, action: Action) -> bool {
        match action {
            Action::Split(split) => {
                self.plan.uploads.iter_ids().all(|(id, u)| u.split != split || self.uploads[id] == Upload::Done)
            }
            Action::Transfer(id) => {
                let transfer = &self.plan.transfers[id];
                let ends = [self.plan.placements[transfer.value].device, transfer.to].map(Id::index);
                ends.iter().all(|&d| self.queues[d].front() == Some(&action) && self.running[d].is_none())
            }
        }
    }

    fn choose(&mut self, events: &[(Event, usize)]) -> Option<Event> {
        let total: usize = events.iter().map(|e| e.1).sum();
        let mut left = if total > 0 { self.random.below(total) } else { return None };
        let turn = |&&(_, pace): &&(Event, usize)| {
            let found = left < pace;
            left = left.saturating_sub(pace);
            found
        };
        events.iter().find(turn).map(|e| e.0)
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Start(device) => self.start(device),
            Event::Step(device) => self.step(device),
            Event::Begin(id) => {
                let upload = &self.plan.uploads[id];
                self.rings[upload.to.index()].write(upload.span, Owner::Nobody);
                self.uploads[id] = Upload::Comes;
                let routing = upload.chosen_by.filter(|_| self.few_rows);
                routing.map_or(Ok(()), |routing| self.value(upload.to, routing))
            }
            Event::Finish(id) => {
                let upload = &self.plan.uploads[id];
                let homes = self.case.residency.weights[upload.slice.weight].iter();
                let mut sources = homes.filter(|h| h.memory == upload.from && h.slice.holds(&upload.slice.range));
                sources.next().ok_or_else(|| format!("{id} has no source"))?;
                self.rings[upload.to.index()].write(upload.span, Owner::Upload(id));
                self.uploads[id] = Upload::Done;
                Ok(())
            }
        }
    }

    fn start(&mut self, device: DeviceId) -> Result<(), String> {
        let Some(action) = self.queues[device.index()].pop_front() else { return Ok(()) };
        match action {
            Action::Split(split) => {
                self.running[device.index()] = Some((split, 0));
                Ok(())
            }
            Action::Transfer(id) => {
                let transfer = self.plan.transfers[id];
                let from = self.plan.placements[transfer.value].device;
                let other = if device == from { transfer.to } else { from };
                self.queues[other.index()].pop_front();
                let owner = Owner::Value(transfer.value);
                self.arenas[from.index()].read(self.plan.values[transfer.value], owner)?;
                self.arenas[transfer.to.index()].write(transfer.span, owner);
                self.taken[id] = true;
                Ok(())
            }
        }
    }

    fn step(&mut self, device: DeviceId) -> Result<(), String> {
        let at = device.index();
        let Some((split, next)) = self.running[at] else { return Ok(()) };
        let scratch = self.plan.splits[split].scratch;
        let Some(&node) = self.plan.splits[split].nodes.get(next) else {
            self.done[split] = true;
            self.running[at] = None;
            return Ok(());
        };
        // A kernel may use scratch before, while and after it reads operands and writes its value.
        self.arenas[at].write(scratch, Owner::Nobody);
        self.operands(device, split, node)?;
        self.arenas[at].write(self.plan.values[node], Owner::Value(node));
        self.arenas[at].write(scratch, Owner::Nobody);
        self.operands(device, split, node)?;
        self.value(device, node)?;
        self.running[at] = Some((split, next + 1));
        Ok(())
    }

    fn operands(&self, device: DeviceId, split: SplitId, node: NodeId) -> Result<(), String> {
        let memory = self.case.machine.devices[device].memory;
        for operand in self.case.graph.node(node).op.operands() {
            let found = match operand {
                Operand::Node(n) => self.value(device, n),
                Operand::Input(i) => {
                    self.arenas[device.index()].read(self.views[device.index()].inputs[i], Owner::Input(i))
                }
                Operand::State(s) if self.case.residency.states[s] == memory => Ok(()),
                Operand::State(s) => Err(format!("{s} lives elsewhere")),
                Operand::Weight(w) => {
                    let range = self.case.graph.node(node).op.matrices(w, self.case.graph.weights()[w].count);
                    let homes = &self.case.residency.weights[w];
                    let brought = self
                        .plan
                        .uploads
                        .iter_ids()
                        .find(|(_, u)| u.split == split && u.slice.weight == w && u.slice.holds(&range));
                    match brought {
                        _ if homes.iter().any(|h| h.memory == memory && h.slice.holds(&range)) => Ok(()),
                        Some((id, upload)) => self.rings[device.index()].read(upload.span, Owner::Upload(id)),
                        None => Err(format!("{w} is not there")),
                    }
                }
            };
            found.map_err(|why| format!("{node} in {split} reads {operand:?}: {why}"))?;
        }
        Ok(())
    }

    /// Reads a value as the backend finds it; one without bytes must have been made.
    fn value(&self, device: DeviceId, value: NodeId) -> Result<(), String> {
        let graph = &self.case.graph;
        if graph.value_bytes(value).0 > 0 {
            return self.arenas[device.index()].read(self.views[device.index()].values[value], Owner::Value(value));
        }
        let made = self.plan.splits.iter_ids().any(|(id, split)| {
            let at = split.nodes.iter().position(|&n| n == value);
            let here = |at| self.running[device.index()].is_some_and(|(now, next)| now == id && at <= next);
            at.is_some_and(|at| self.done[id] || here(at)) && split.device == device
        });
        if made { Ok(()) } else { Err(format!("{value} is not ordered before")) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(500)))]
    #[test]
    fn plans_execute_at_any_pace(seed in any::<u64>(), steps in 1usize..40, tokens in 1u32..40, streams in any::<bool>()) {
        let case = if streams { Case::streaming(seed) } else { Case::random(seed, steps, tokens, 1) };
        if let Ok(made) = case.plan() {
            check(&case.graph, &case.residency, &case.machine, &made).unwrap();
            for order in 0..3 {
                execute(&case, &made, seed ^ order).unwrap();
            }
        }
    }

    #[test]
    fn plans_of_layers_cut_over_devices_execute_at_any_pace(seed in any::<u64>(), steps in 1usize..40, tokens in 1u32..40) {
        let case = Case::together(seed, steps, tokens);
        match case.plan() {
            Ok(made) => {
                check(&case.graph, &case.residency, &case.machine, &made).unwrap();
                execute(&case, &made, seed).unwrap();
            }
            Err(error) => prop_assert!(case.allows(&error), "{}", error),
        }
    }

    #[test]
    fn plans_of_random_cases_pass_the_checker(
        seed in any::<u64>(), steps in 1usize..60, tokens in 1u32..600, outputs in 1u32..600,
    ) {
        let case = Case::random(seed, steps, tokens, outputs.min(tokens));
        match case.plan() {
            Ok(made) => {
                check(&case.graph, &case.residency, &case.machine, &made).unwrap();
                let again = case.plan().unwrap();
                prop_assert_eq!(serde_json::to_vec(&made).unwrap(), serde_json::to_vec(&again).unwrap());
            }
            Err(error) => prop_assert!(case.allows(&error), "{}", error),
        }
    }
}

/// Were all cases refused or without copies, the properties above would say nothing.
#[test]
fn random_cases_cross_and_stream() {
    let (mut plans, mut transfers, mut uploads, mut reused) = (0, 0, 0, 0);
    for seed in 0..200 {
        if let Ok(plan) = Case::random(seed, 30, 16, 4).plan() {
            plans += 1;
            transfers += plan.transfers.len().min(1);
            uploads += plan.uploads.len().min(1);
            reused += usize::from(plan.uploads.iter().any(|u| u.after.is_some()));
        }
    }
    let (mut cut, mut parts) = (0, 0);
    for seed in 0..200 {
        let case = Case::together(seed, 30, 16);
        cut += usize::from(case.graph.nodes().any(|(_, node)| node.lane.is_some()) && case.plan().is_ok());
        let is_part = |w: &&Weight| w.part.as_ref().is_some_and(|part| part.whole != [w.count, w.rows, w.cols]);
        parts += usize::from(case.graph.weights().iter().any(|w| is_part(&w)));
    }
    assert!(cut > 60 && parts > 20, "{cut} {parts}");
    assert!(plans > 120 && transfers > 60 && uploads > 60 && reused > 20, "{plans} {transfers} {uploads} {reused}");
}
