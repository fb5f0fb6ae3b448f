//! Every kind of damage to a plan over several devices is found, with the right reason.

use loadmaster::device::{DeviceId, MemoryId};
use loadmaster::graph::ops::Moe;
use loadmaster::graph::{NodeId, Op, Operand};
use loadmaster::index::IndexVec;
use loadmaster::plan::{
    InputCopy, Plan, Reason, Span, Split, SplitId, Transfer, TransferId, Upload, UploadId, Violation, check,
};
use loadmaster::residency::slice_bytes;
use loadmaster::units::{Bytes, Tokens};

use crate::plan_random::Case;

/// One way to damage a plan, where it has what is damaged, and what the checker must say.
type Damage = (&'static str, fn(&Case, &mut Plan) -> Option<()>, fn(&Violation) -> bool);

const DAMAGES: &[Damage] = &[
    ("another batch", |_, p| set(&mut p.batch.tokens, Tokens(65)), |v| matches!(v, Violation::Batch { .. })),
    ("a node left out", |_, p| Some(_ = longest(p).nodes.pop()), |v| matches!(v, Violation::Runs { times: 0, .. })),
    (
        "a node twice",
        |_, p| push(&mut p.splits[SplitId(0)].nodes, Some(NodeId(0))),
        |v| matches!(v, Violation::Runs { times: 2, .. }),
    ),
    (
        "a split without nodes",
        |_, p| {
            let split = Split { nodes: Vec::new(), ..p.splits[SplitId(0)].clone() };
            Some(_ = p.splits.push(split))
        },
        |v| matches!(v, Violation::Empty { .. }),
    ),
    ("swapped nodes", swap_nodes, |v| matches!(v, Violation::Lost { .. })),
    ("swapped splits", swap_splits, |v| {
        matches!(v, Violation::Lost { .. } | Violation::Elsewhere { .. } | Violation::After { .. })
    }),
    (
        "a node placed elsewhere",
        |c, p| {
            let device = &mut p.placements[NodeId(0)].device;
            set(device, other_device(c, *device)?)
        },
        |v| matches!(v, Violation::Device { .. }),
    ),
    (
        "a split on another device",
        |c, p| {
            let device = &mut p.splits[SplitId(0)].device;
            set(device, other_device(c, *device)?)
        },
        |v| matches!(v, Violation::Device { .. } | Violation::Length { .. } | Violation::Span { .. }),
    ),
    (
        "a reason that is none",
        |_, p| set(&mut p.placements[NodeId(1)].reason, Reason::FollowsUser(NodeId(1))),
        |v| matches!(v, Violation::Reason { .. }),
    ),
    ("a value on its operand", value_on_operand, |v| matches!(v, Violation::Lost { .. })),
    ("a value in its split's scratch", value_in_scratch, |v| {
        matches!(v, Violation::Scratch { .. } | Violation::Lost { .. })
    }),
    ("a value off its alignment", |c, p| unaligned(&mut p.values[c.graph.output()]), is_span),
    ("a value past the arena", value_past_arena, is_span),
    (
        "a value cut short",
        |c, p| set(&mut p.values[c.graph.output()].len, Bytes(4)),
        |v| matches!(v, Violation::Length { .. }),
    ),
    ("a copy where its reader writes", copy_on_reader, |v| {
        matches!(v, Violation::Lost { .. } | Violation::Source { .. })
    }),
    ("a copy off its alignment", |_, p| unaligned(&mut first_copy(p)?.span), is_span),
    ("an input where its reader writes", input_on_reader, |v| matches!(v, Violation::Lost { .. })),
    ("an input off its alignment", |_, p| unaligned(&mut p.inputs.first_mut()?.span), is_span),
    (
        "an input dropped",
        |_, p| p.inputs.pop().map(|_| ()),
        |v| matches!(v, Violation::Elsewhere { operand: Operand::Input(_), .. }),
    ),
    (
        "an input twice",
        |_, p| {
            let first = p.inputs.first().copied();
            push(&mut p.inputs, first)
        },
        |v| matches!(v, Violation::Twice { .. }),
    ),
    ("an input that nobody reads", useless_input, |v| matches!(v, Violation::Useless { .. })),
    ("scratch off its alignment", |_, p| unaligned(first_scratch(p)?), is_span),
    ("scratch cut short", |_, p| set(&mut first_scratch(p)?.len, Bytes(64)), |v| matches!(v, Violation::Length { .. })),
    ("scratch on what its split reads", scratch_on_operand, |v| matches!(v, Violation::Lost { .. })),
    ("a transfer dropped", |_, p| transfers(p, |t| Some(_ = t.pop()?)), |v| matches!(v, Violation::Elsewhere { .. })),
    ("a transfer twice", |_, p| transfers(p, |t| push(t, t.last().copied())), |v| matches!(v, Violation::Twice { .. })),
    ("a transfer too early", early_transfer, |v| matches!(v, Violation::After { .. })),
    ("a transfer too late", late_transfer, |v| matches!(v, Violation::Elsewhere { .. })),
    ("transfers out of order", swap_transfers, |v| matches!(v, Violation::Order { what: "transfer", .. })),
    (
        "a transfer to its own device",
        |_, p| {
            let value = first_copy(p)?.value;
            let made = p.placements[value].device;
            set(&mut first_copy(p)?.to, made)
        },
        |v| matches!(v, Violation::ToItself { .. }),
    ),
    ("a transfer that nobody reads", useless_transfer, |v| matches!(v, Violation::Useless { .. })),
    (
        "an upload dropped",
        |_, p| uploads(p, |u| Some(_ = u.pop()?)),
        |v| matches!(v, Violation::Elsewhere { operand: Operand::Weight(_), .. } | Violation::Ring { .. }),
    ),
    (
        "a slot reused without waiting",
        |_, p| set(&mut reuser(p)?.after, None),
        |v| matches!(v, Violation::Slot { after: None, .. }),
    ),
    ("a slot reused too early", early_reuse, |v| matches!(v, Violation::Slot { after: Some(_), .. })),
    (
        "an upload that waits for its own split",
        |_, p| {
            let upload = reuser(p)?;
            set(&mut upload.after, Some(upload.split))
        },
        |v| matches!(v, Violation::Waits { .. }),
    ),
    ("an upload that waits for another device", waits_elsewhere, |v| matches!(v, Violation::Waits { .. })),
    (
        "an upload to another device",
        |c, p| {
            let to = &mut last(p)?.to;
            set(to, other_device(c, *to)?)
        },
        |v| matches!(v, Violation::Target { .. }),
    ),
    (
        "an upload past the ring",
        |_, p| {
            let to = last(p)?.to;
            let end = p.rings[to];
            set(&mut last(p)?.span.offset, end)
        },
        is_span,
    ),
    ("an upload off its alignment", |_, p| unaligned(&mut last(p)?.span), is_span),
    ("an upload onto another of its split", upload_on_sibling, |v| matches!(v, Violation::Slot { .. })),
    ("uploads out of order", swap_uploads, |v| matches!(v, Violation::Order { what: "upload", .. })),
    ("uploads of each other's weights", swap_slices, |v| {
        matches!(
            v,
            Violation::Length { .. }
                | Violation::NoHome { .. }
                | Violation::Elsewhere { .. }
                | Violation::Chosen { .. }
        )
    }),
    (
        "an upload by what chooses nothing",
        |_, p| set(&mut last(p)?.chosen_by, Some(NodeId(0))),
        |v| matches!(v, Violation::Chosen { .. }),
    ),
    ("an upload by a routing of its own split", late_routing, |v| matches!(v, Violation::Chosen { .. })),
    ("an upload from where nothing is", upload_from_nowhere, |v| matches!(v, Violation::NoHome { .. })),
    ("an upload cut short", |_, p| set(&mut last(p)?.span.len, Bytes(1)), |v| matches!(v, Violation::Length { .. })),
    ("an upload of too few experts", short_range, |v| matches!(v, Violation::Elsewhere { .. })),
    ("an upload that nobody reads", useless_upload, |v| matches!(v, Violation::Useless { .. })),
    ("a ring too small", small_ring, is_span),
    ("a ring without uploads", idle_ring, |v| matches!(v, Violation::Ring { .. })),
    (
        "an arena larger than its spans",
        |c, p| Some(_ = grow_arena(c, p, DeviceId(0), Bytes(64))),
        |v| matches!(v, Violation::Arena { .. }),
    ),
    ("weights understated", |_, p| set(&mut p.memories[MemoryId(0)].weights, Bytes(1)), is_memory),
    ("states overstated", |_, p| more(&mut p.memories[MemoryId(0)].states), is_memory),
    ("arenas overstated", |_, p| more(&mut p.memories[MemoryId(0)].arenas), is_memory),
    ("rings overstated", |_, p| more(&mut p.memories[MemoryId(0)].rings), is_memory),
];

fn is_span(violation: &Violation) -> bool {
    matches!(violation, Violation::Span { .. })
}

fn is_memory(violation: &Violation) -> bool {
    matches!(violation, Violation::Memory { .. })
}

fn set<T: PartialEq>(place: &mut T, value: T) -> Option<()> {
    (*place != value).then(|| *place = value)
}

fn more(place: &mut Bytes) -> Option<()> {
    *place += Bytes(1);
    Some(())
}

/// Appends `item`, where there is one.
fn push<T>(all: &mut Vec<T>, item: Option<T>) -> Option<()> {
    all.push(item?);
    Some(())
}

fn unaligned(span: &mut Span) -> Option<()> {
    (span.len > Bytes::ZERO).then(|| span.offset += Bytes(4))
}

fn other_device(case: &Case, than: DeviceId) -> Option<DeviceId> {
    case.machine.devices.ids().find(|&d| d != than)
}

fn longest(plan: &mut Plan) -> &mut Split {
    let id = plan.splits.ids().max_by_key(|&s| plan.splits[s].nodes.len()).unwrap();
    &mut plan.splits[id]
}

fn scratched(plan: &Plan) -> Option<SplitId> {
    plan.splits.ids().find(|&s| plan.splits[s].scratch.len > Bytes(64))
}

fn first_transfer(plan: &Plan) -> Option<TransferId> {
    plan.transfers.ids().next()
}

fn first_copy(plan: &mut Plan) -> Option<&mut Transfer> {
    let id = first_transfer(plan)?;
    Some(&mut plan.transfers[id])
}

fn first_scratch(plan: &mut Plan) -> Option<&mut Span> {
    let id = scratched(plan)?;
    Some(&mut plan.splits[id].scratch)
}

fn last(plan: &mut Plan) -> Option<&mut Upload> {
    let id = last_upload(plan)?;
    Some(&mut plan.uploads[id])
}

/// The first upload that overwrites another.
fn reuser(plan: &mut Plan) -> Option<&mut Upload> {
    let id = reusing(plan)?.0;
    Some(&mut plan.uploads[id])
}

fn last_upload(plan: &Plan) -> Option<UploadId> {
    plan.uploads.ids().next_back()
}

/// Changes the list of transfers.
fn transfers(plan: &mut Plan, change: impl FnOnce(&mut Vec<Transfer>) -> Option<()>) -> Option<()> {
    let mut all: Vec<Transfer> = plan.transfers.iter().copied().collect();
    change(&mut all)?;
    plan.transfers = all.into_iter().collect();
    Some(())
}

/// Changes the list of uploads.
fn uploads(plan: &mut Plan, change: impl FnOnce(&mut Vec<Upload>) -> Option<()>) -> Option<()> {
    let mut all: Vec<_> = plan.uploads.iter().cloned().collect();
    change(&mut all)?;
    plan.uploads = all.into_iter().collect();
    Some(())
}

/// More room at the end of an arena, stated too; returns where it begins.
fn grow_arena(case: &Case, plan: &mut Plan, device: DeviceId, len: Bytes) -> Bytes {
    let start = plan.arenas[device].bytes;
    let grown = start.align_up(256) + len;
    plan.memories[case.machine.devices[device].memory].arenas += grown - start;
    plan.arenas[device].bytes = grown;
    start.align_up(256)
}

/// A ring of another size, stated too.
fn resize_ring(case: &Case, plan: &mut Plan, device: DeviceId, bytes: Bytes) {
    let stated = &mut plan.memories[case.machine.devices[device].memory].rings;
    *stated = *stated - plan.rings[device] + bytes;
    plan.rings[device] = bytes;
}

/// A node and an operand with bytes that is made on the same device, in the same split or not.
fn with_operand(case: &Case, plan: &Plan, in_split: bool) -> Option<(NodeId, NodeId)> {
    let split_of = |n: NodeId| plan.splits.ids().find(|&s| plan.splits[s].nodes.contains(&n));
    let pairs = case.graph.nodes().flat_map(|(id, node)| node.op.node_operands().into_iter().map(move |o| (id, o)));
    let mut pairs = pairs.filter(|&(id, o)| {
        let bytes = case.graph.value_bytes(o) > Bytes::ZERO && case.graph.value_bytes(id) > Bytes::ZERO;
        bytes && plan.placements[id].device == plan.placements[o].device && (split_of(id) == split_of(o)) == in_split
    });
    pairs.next()
}

fn fits(plan: &Plan, device: DeviceId, span: Span) -> Option<()> {
    (span.end() <= plan.arenas[device].bytes).then_some(())
}

fn swap_nodes(case: &Case, plan: &mut Plan) -> Option<()> {
    let (id, operand) = with_operand(case, plan, true)?;
    let split = plan.splits.ids().find(|&s| plan.splits[s].nodes.contains(&id))?;
    let nodes = &mut plan.splits[split].nodes;
    let (a, b) = (nodes.iter().position(|&n| n == id)?, nodes.iter().position(|&n| n == operand)?);
    nodes.swap(a, b);
    Some(())
}

fn swap_splits(case: &Case, plan: &mut Plan) -> Option<()> {
    let (id, operand) = with_operand(case, plan, false)?;
    let of = |n: NodeId| plan.splits.ids().find(|&s| plan.splits[s].nodes.contains(&n));
    let (a, b) = (of(id)?, of(operand)?);
    let (first, second) = (plan.splits[a].clone(), plan.splits[b].clone());
    plan.splits[a] = second;
    plan.splits[b] = first;
    Some(())
}

fn value_on_operand(case: &Case, plan: &mut Plan) -> Option<()> {
    let (id, operand) = with_operand(case, plan, true)?;
    plan.values[id].offset = plan.values[operand].offset;
    fits(plan, plan.placements[id].device, plan.values[id])
}

fn value_in_scratch(_: &Case, plan: &mut Plan) -> Option<()> {
    let split = scratched(plan)?;
    let node = *plan.splits[split].nodes.iter().find(|&&n| plan.values[n].len > Bytes::ZERO)?;
    plan.values[node].offset = plan.splits[split].scratch.offset;
    fits(plan, plan.splits[split].device, plan.values[node])
}

fn value_past_arena(case: &Case, plan: &mut Plan) -> Option<()> {
    let output = case.graph.output();
    set(&mut plan.values[output].offset, plan.arenas[plan.placements[output].device].bytes.align_up(256))
}

fn copy_on_reader(case: &Case, plan: &mut Plan) -> Option<()> {
    let id = first_transfer(plan)?;
    let Transfer { value, to, .. } = plan.transfers[id];
    let users = case.graph.users(value);
    let reader = *users.iter().find(|&&n| plan.placements[n].device == to && plan.values[n].len > Bytes::ZERO)?;
    plan.transfers[id].span.offset = plan.values[reader].offset;
    fits(plan, to, plan.transfers[id].span)
}

fn input_on_reader(case: &Case, plan: &mut Plan) -> Option<()> {
    let InputCopy { input, device, .. } = *plan.inputs.first()?;
    let reads = |n: &NodeId| case.graph.node(*n).op.operands().contains(&Operand::Input(input));
    let reader = case.graph.node_ids().find(|n| reads(n) && plan.placements[*n].device == device)?;
    plan.inputs[0].span.offset = plan.values[reader].offset;
    fits(plan, device, plan.inputs[0].span)
}

fn scratch_on_operand(case: &Case, plan: &mut Plan) -> Option<()> {
    let (id, operand) = with_operand(case, plan, false)?;
    let split = plan.splits.ids().find(|&s| plan.splits[s].nodes.contains(&id))?;
    plan.splits[split].scratch.offset = plan.values[operand].offset;
    fits(plan, plan.splits[split].device, plan.splits[split].scratch)?;
    (plan.splits[split].scratch.len > Bytes::ZERO).then_some(())
}

fn useless_input(case: &Case, plan: &mut Plan) -> Option<()> {
    let InputCopy { input, span, .. } = *plan.inputs.first()?;
    let device = case.machine.devices.ids().find(|&d| plan.inputs.iter().all(|c| (c.input, c.device) != (input, d)))?;
    let offset = grow_arena(case, plan, device, span.len);
    plan.inputs.push(InputCopy { input, device, span: Span { offset, ..span } });
    Some(())
}

fn early_transfer(_: &Case, plan: &mut Plan) -> Option<()> {
    let splits = plan.splits.clone();
    transfers(plan, |all| {
        let late = all.iter_mut().find(|t| made_in(&splits, t.value) > Some(SplitId(0)))?;
        late.after.0 = made_in(&splits, late.value)?.0 - 1;
        all.sort_by_key(|t| t.after);
        Some(())
    })
}

/// The split that makes a value.
fn made_in(splits: &IndexVec<SplitId, Split>, value: NodeId) -> Option<SplitId> {
    splits.iter_ids().find(|(_, split)| split.nodes.contains(&value)).map(|(id, _)| id)
}

/// Behind the first split that reads the value.
fn late_transfer(case: &Case, plan: &mut Plan) -> Option<()> {
    let (splits, placements) = (plan.splits.clone(), plan.placements.clone());
    transfers(plan, |all| {
        let early = all.first_mut()?;
        let users = case.graph.users(early.value);
        let readers = users.into_iter().filter(|&n| placements[n].device == early.to);
        early.after = readers.filter_map(|n| made_in(&splits, n)).min()?;
        all.sort_by_key(|t| t.after);
        Some(())
    })
}

fn swap_transfers(_: &Case, plan: &mut Plan) -> Option<()> {
    transfers(plan, |all| {
        let last = all.len().checked_sub(1)?;
        all.swap(0, last);
        (all[0].after > all[last].after).then_some(())
    })
}

fn useless_transfer(case: &Case, plan: &mut Plan) -> Option<()> {
    let readers = |t: &Transfer, d: DeviceId| case.graph.users(t.value).iter().any(|&n| plan.placements[n].device == d);
    let free = |t: &Transfer, d: DeviceId| {
        let (from, to) = (case.machine.devices[plan.placements[t.value].device].memory, case.machine.devices[d].memory);
        plan.placements[t.value].device != d && !readers(t, d) && (from == to || case.machine.way(from, to).is_some())
    };
    let all = || plan.transfers.iter().flat_map(|t| case.machine.devices.ids().map(move |d| (*t, d)));
    let (transfer, to) = all().find(|(t, d)| free(t, *d))?;
    let offset = grow_arena(case, plan, to, transfer.span.len);
    transfers(plan, |all| {
        all.push(Transfer { to, span: Span { offset, ..transfer.span }, ..transfer });
        all.sort_by_key(|t| t.after);
        Some(())
    })
}

/// An upload that overwrites another, and the last split that reads what it overwrites.
fn reusing(plan: &Plan) -> Option<(UploadId, SplitId)> {
    let reuses = |(id, upload): (UploadId, &Upload)| {
        let before = plan.uploads.iter_ids().filter(|&(e, u)| e < id && u.to == upload.to);
        let met = before.filter(|(_, u)| u.span.overlaps(upload.span)).map(|(_, u)| u.split).max();
        met.map(|split| (id, split))
    };
    plan.uploads.iter_ids().find_map(reuses)
}

fn early_reuse(_: &Case, plan: &mut Plan) -> Option<()> {
    let all = plan.uploads.ids().collect::<Vec<_>>();
    let (id, earlier) = all.into_iter().find_map(|id| {
        let to = plan.uploads[id].to;
        let before = plan.uploads.iter_ids().filter(|&(e, u)| e < id && u.to == to);
        let met = before.filter(|(_, u)| u.span.overlaps(plan.uploads[id].span)).map(|(_, u)| u.split).max()?;
        let earlier = plan.splits.iter_ids().find(|(s, split)| *s < met && split.device == to)?.0;
        Some((id, earlier))
    })?;
    set(&mut plan.uploads[id].after, Some(earlier))
}

fn waits_elsewhere(_: &Case, plan: &mut Plan) -> Option<()> {
    let id = last_upload(plan)?;
    let (to, split) = (plan.uploads[id].to, plan.uploads[id].split);
    let other = plan.splits.iter_ids().rev().find(|(s, other)| *s < split && other.device != to)?.0;
    set(&mut plan.uploads[id].after, Some(other))
}

fn late_routing(case: &Case, plan: &mut Plan) -> Option<()> {
    let late = plan.uploads.iter_ids().find_map(|(id, upload)| {
        let nodes = &plan.splits[upload.split].nodes;
        let routing = nodes.iter().find_map(|&node| match &case.graph.node(node).op {
            Op::Moe(Moe::Experts(op)) if op.weight == upload.slice.weight => Some(op.routing),
            _ => None,
        })?;
        nodes.contains(&routing).then_some((id, routing))
    });
    let (id, routing) = late?;
    set(&mut plan.uploads[id].chosen_by, Some(routing))
}

fn upload_on_sibling(_: &Case, plan: &mut Plan) -> Option<()> {
    let pairs = plan.uploads.ids().zip(plan.uploads.ids().skip(1));
    let (a, b) = pairs.into_iter().find(|&(a, b)| {
        let (one, two) = (&plan.uploads[a], &plan.uploads[b]);
        one.split == two.split && one.span.offset + two.span.len <= plan.rings[one.to]
    })?;
    let offset = plan.uploads[a].span.offset;
    set(&mut plan.uploads[b].span.offset, offset)
}

fn swap_uploads(_: &Case, plan: &mut Plan) -> Option<()> {
    uploads(plan, |all| {
        let at = (1..all.len()).find(|&i| all[i - 1].split < all[i].split)?;
        all.swap(at - 1, at);
        Some(())
    })
}

fn swap_slices(_: &Case, plan: &mut Plan) -> Option<()> {
    uploads(plan, |all| {
        let at = (1..all.len()).find(|&i| all[i - 1].slice.weight != all[i].slice.weight)?;
        let (one, two) = (all[at - 1].slice.clone(), all[at].slice.clone());
        all[at - 1].slice = two;
        all[at].slice = one;
        (all[at - 1].split != all[at].split).then_some(())
    })
}

fn upload_from_nowhere(case: &Case, plan: &mut Plan) -> Option<()> {
    let id = last_upload(plan)?;
    let weight = plan.uploads[id].slice.weight;
    let holds = |m: MemoryId| case.residency.weights[weight].iter().any(|h| h.memory == m);
    set(&mut plan.uploads[id].from, case.machine.memories.ids().find(|&m| !holds(m))?)
}

fn short_range(case: &Case, plan: &mut Plan) -> Option<()> {
    let (id, upload) = plan.uploads.iter_ids().find(|(_, u)| u.slice.range.len() > 1)?;
    let mut slice = upload.slice.clone();
    slice.range.end -= 1;
    let homes = case.residency.weights[slice.weight].iter();
    let home = homes.into_iter().find(|h| h.memory == upload.from && h.slice.holds(&slice.range))?;
    let bytes = slice_bytes(&case.graph.weights()[slice.weight], &slice.range, home.layout);
    plan.uploads[id].span.len = bytes.align_up(case.machine.devices[plan.uploads[id].to].alignment);
    plan.uploads[id].slice = slice;
    Some(())
}

fn useless_upload(case: &Case, plan: &mut Plan) -> Option<()> {
    let mut more = plan.uploads[last_upload(plan)?].clone();
    more.span.offset = plan.rings[more.to].align_up(256);
    resize_ring(case, plan, more.to, more.span.end());
    plan.uploads.push(more);
    Some(())
}

fn small_ring(case: &Case, plan: &mut Plan) -> Option<()> {
    let device = plan.uploads[last_upload(plan)?].to;
    let end = plan.uploads.iter().filter(|u| u.to == device).map(|u| u.span.end()).max()?;
    resize_ring(case, plan, device, end - Bytes(64));
    Some(())
}

fn idle_ring(case: &Case, plan: &mut Plan) -> Option<()> {
    let device = plan.rings.ids().find(|&d| plan.rings[d] == Bytes::ZERO)?;
    resize_ring(case, plan, device, Bytes(64));
    Some(())
}

/// Plans that stream, of the first seeds that have one.
pub fn streaming(count: usize) -> Vec<(u64, Case, Plan)> {
    let made = (0..).map(|seed| (seed, Case::streaming(seed)));
    let planned = made.filter_map(|(seed, case)| case.plan().ok().map(|plan| (seed, case, plan)));
    planned.take(count).collect()
}

#[test]
fn every_kind_of_damage_over_several_devices_is_found() {
    let (plans, mut wrong) = (streaming(60), Vec::new());
    for (what, damage, expected) in DAMAGES {
        let mut times = 0;
        for (seed, case, whole) in &plans {
            let mut damaged = whole.clone();
            if damage(case, &mut damaged).is_none() {
                continue;
            }
            times += 1;
            match check(&case.graph, &case.residency, &case.machine, &damaged) {
                Ok(()) => wrong.push(format!("seed {seed}: {what}: not found")),
                Err(found) if !expected(&found) => wrong.push(format!("seed {seed}: {what}: {found}")),
                Err(_) => {}
            }
        }
        if times < 5 {
            wrong.push(format!("{what}: done {times} times"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong beside the plan: budgets, links, homes.
#[test]
fn plans_for_other_machines_and_homes_are_refused() {
    let (mut budgets, mut links, mut homes) = (0, 0, 0);
    for (_, mut case, plan) in streaming(20) {
        for memory in case.machine.memories.ids() {
            let need = plan.memories[memory].total();
            let mut short = case.machine.clone();
            let over = short.memories[memory].free - short.budget(memory);
            short.memories[memory].free = need + over;
            check(&case.graph, &case.residency, &short, &plan).unwrap();
            if need > Bytes::ZERO {
                short.memories[memory].free = need + over - Bytes(1);
                let found = check(&case.graph, &case.residency, &short, &plan);
                assert_eq!(
                    found,
                    Err(Violation::Budget {
                        memory: short.memories[memory].name.clone(),
                        need,
                        budget: need - Bytes(1),
                    })
                );
                budgets += 1;
            }
        }
        let mut apart = case.machine.clone();
        apart.links = IndexVec::new();
        if let Err(found) = check(&case.graph, &case.residency, &apart, &plan) {
            assert!(matches!(found, Violation::NoWay { .. }), "{found}");
            links += 1;
        }
        for weight in case.graph.weights().ids() {
            let whole = case.residency.weights[weight].clone();
            case.residency.weights[weight][0].slice.range.end += 1;
            let found = check(&case.graph, &case.residency, &case.machine, &plan).unwrap_err();
            assert!(matches!(found, Violation::Homes { .. }), "{found}");
            case.residency.weights[weight] = whole.iter().chain(&whole).cloned().collect();
            let found = check(&case.graph, &case.residency, &case.machine, &plan).unwrap_err();
            assert!(matches!(found, Violation::Homes { .. }), "{found}");
            case.residency.weights[weight] = whole;
            homes += 1;
        }
    }
    assert!(budgets > 20 && links > 5 && homes > 100, "{budgets} {links} {homes}");
}
