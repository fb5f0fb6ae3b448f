//! What is known of a node → sentences and tables for people. Says nothing that [`Why`] does not hold.

use super::escape::json_document;
use super::facts::{Awaited, Copied, Over, PartOf, Position, Possible, Read, Streamed, Way, Why};
use super::text::{line, table};
use super::{Planned, by, escape};
use crate::graph::{NodeId, StateId, WeightId};
use crate::plan::{Reason, Rule, Span};
use crate::residency::part_bytes;
use crate::units::{Bytes, Nanos};

/// Why a node is where it is, as a sentence with its quantities.
pub(super) fn in_words(planned: &Planned<'_>, id: NodeId) -> String {
    let here = planned.device(planned.plan.placements[id].device);
    let fewest = "and no other device needs fewer bytes moved";
    match planned.plan.placements[id].reason {
        Reason::WeightHome(w) => format!("its weight {} lives there", weight(planned, id, w)),
        Reason::StateHome(s) => format!("its cache {} lives there", state(planned, s)),
        Reason::Offloaded { weight: w, rule } => {
            let lives = homes(planned, id, w);
            format!("its weight {} lives in {lives}, but {}", weight(planned, id, w), moved(rule, &here))
        }
        Reason::Stays { weight: w, accelerator, rule } => {
            let other = planned.device(accelerator);
            format!("its weight {} lives there, and {}", weight(planned, id, w), kept(rule, &other))
        }
        Reason::Lane(lane) => format!("several devices work on its layer together, and {here} has its lane, {lane}"),
        Reason::FollowsInput(n) => format!("{}, which it reads, is made there, {fewest}", planned.node(n)),
        Reason::FollowsUser(n) => format!("{}, which reads it, runs there, {fewest}", planned.node(n)),
        Reason::FirstDevice => "nothing that it reads or feeds is bound to a device".to_owned(),
    }
}

fn moved(rule: Rule, device: &str) -> String {
    match rule {
        Rule::Never => "the policy moves it".to_owned(),
        Rule::Threshold { .. } => format!("{}: the policy moves it to {device}", by(rule)),
        Rule::Priced(p) => format!("{device} takes {} with the weight's way, the host {}", p.accelerator, p.host),
        Rule::NoKernel => format!("only {device} has a kernel"),
    }
}

fn kept(rule: Rule, other: &str) -> String {
    match rule {
        Rule::Never => format!("the policy moves nothing to {other}"),
        Rule::Threshold { .. } => format!("{}: the policy does not move it to {other}", by(rule)),
        Rule::Priced(p) => {
            format!("{other} would take {} with the weight's way, not less than {} here", p.accelerator, p.host)
        }
        Rule::NoKernel => format!("{other} has no kernel for it"),
    }
}

fn weight(planned: &Planned<'_>, node: NodeId, id: WeightId) -> String {
    let weight = &planned.graph.weights()[id];
    let range = planned.graph.node(node).op.matrices(id, weight.count);
    let bytes = part_bytes(weight, &range);
    part(&escape(&weight.name), weight.dtype.name(), bytes, [range.start, range.end], weight.count)
}

/// `blk.0.ffn_down.weight (q4_k, 9.4 MiB)`, of a stack also which part.
fn part(name: &str, dtype: &str, bytes: Bytes, [first, end]: [u32; 2], of: u32) -> String {
    let part = if end - first == of { String::new() } else { format!(", {first} to {end} of {of}") };
    format!("{name} ({dtype}, {bytes}{part})")
}

fn state(planned: &Planned<'_>, id: StateId) -> String {
    let state = &planned.graph.states()[id];
    format!("{} ({}, {})", escape(&state.name), state.dtype, state.bytes())
}

/// The memories that hold what a node reads of a weight.
fn homes(planned: &Planned<'_>, node: NodeId, id: WeightId) -> String {
    let range = planned.graph.node(node).op.matrices(id, planned.graph.weights()[id].count);
    let holders = planned.homes.weights[id].iter().filter(|h| h.slice.holds(&range));
    holders.map(|h| planned.memory(h.memory)).collect::<Vec<_>>().join(" and ")
}

impl Why {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.head(&mut out);
        line(&mut out, "\npossible:");
        out.push_str(&table(&self.possible.iter().map(Possible::row).collect::<Vec<_>>()));
        line(&mut out, "\nreads:");
        out.push_str(&table(&self.reads.iter().map(Read::row).collect::<Vec<_>>()));
        let nothing = self.read_by.is_empty();
        line(&mut out, if nothing { "\nread by: nothing, it is what the step is for" } else { "\nread by:" });
        let readers = self.read_by.iter().map(|reader| [reader.node.clone(), reader.device.clone()]);
        out.push_str(&table(&readers.collect::<Vec<_>>()));
        self.place(&mut out);
        out
    }

    /// As one JSON document, sizes in bytes and times in nanoseconds.
    pub fn to_json(&self) -> String {
        let document = serde_json::to_value(self).unwrap_or_default();
        json_document(&format!("{document:#}\n"))
    }

    fn head(&self, out: &mut String) {
        let Why { node, id, family, bytes, device, words, .. } = self;
        let layer = self.layer.map_or("outside of layers".to_owned(), |n| format!("layer {n}"));
        let dtype = self.dtype.map_or(String::new(), |t| format!(" {t}"));
        let [rows, cols] = self.shape;
        line(out, &format!("{node} ({id}, {layer})"));
        line(out, &format!("  {family}{dtype}: makes {rows} x {cols} = {bytes}"));
        line(out, &format!("  runs on {device}: {words}"));
    }

    fn place(&self, out: &mut String) {
        let device = &self.device;
        if let Some(Position { id, of, nodes, position, first, last }) = &self.split {
            line(out, &format!("\nsplit: {id} of {of}, on {device}, its node {position} of {nodes}"));
            line(out, &format!("  from {first} to {last}"));
        }
        line(out, &format!("arena: {} of the {} on {device}", span(self.value), self.arena));
    }
}

impl Possible {
    fn row(&self) -> [String; 3] {
        let Possible { device, chosen, compute, upload, refused } = self;
        let price = match (refused, *upload) {
            (Some(why), _) => format!("no: {why}"),
            (None, Some(Nanos::ZERO)) => format!("computes {compute}, its weights are there"),
            (None, Some(upload)) => format!("computes {compute}, its weights take {upload} to get there"),
            (None, None) => format!("computes {compute}, but its weights have no way there"),
        };
        [device.clone(), price, if *chosen { "chosen" } else { "" }.to_owned()]
    }
}

impl PartOf {
    /// `rows 0 to 2048 of 4096 of blk.0.attn_q.weight`, or that it is a copy.
    fn words(&self) -> String {
        let PartOf { tensor, matrices, rows, cols, whole } = self;
        let named = [("matrices", matrices, whole[0]), ("rows", rows, whole[1]), ("columns", cols, whole[2])];
        let cut = named.into_iter().filter(|(_, run, of)| run[1] - run[0] < *of);
        let runs: Vec<String> = cut.map(|(what, run, of)| format!("{what} {} to {} of {of}", run[0], run[1])).collect();
        if runs.is_empty() { format!("a copy of {tensor}") } else { format!("{} of {tensor}", runs.join(", ")) }
    }
}

impl Read {
    /// What is read, and how it gets there.
    fn row(&self) -> [String; 2] {
        match self {
            Read::Value { node, id, bytes, made_on, here, copied } => {
                let made = format!("made on {made_on}");
                let how = match copied {
                    None if *here => made,
                    None => format!("{made}, and only orders the two"),
                    Some(Copied { transfer, after, way }) => {
                        format!("{made}, copied as {transfer} after {after} {}", way.words())
                    }
                };
                [format!("{node} ({id}, {bytes})"), how]
            }
            Read::Weight { name, dtype, bytes, part: part_of, matrices, of, homes, streamed } => {
                let lives = match streamed {
                    None => format!("in {}", homes.join(" and ")),
                    Some(streamed) => streamed.words(),
                };
                let how = part_of.as_ref().map_or(lives.clone(), |part| format!("{lives}, {}", part.words()));
                [part(name, dtype, *bytes, *matrices, *of), how]
            }
            Read::State { name, dtype, bytes, home } => {
                [format!("cache {name} ({dtype}, {bytes})"), format!("in {home}")]
            }
            Read::Input { name, bytes } => [format!("{name} ({bytes})"), "an input of the step".to_owned()],
        }
    }
}

impl Streamed {
    fn words(&self) -> String {
        let Streamed { upload, from, span: at, way, after, chosen } = self;
        let waits = after.map_or(String::new(), |split| format!(", once {split} has left the ring's bytes"));
        let only = chosen.as_ref().map_or(String::new(), |Awaited { by, share }| {
            format!(", only those that {by} chose, {:.1} % as is expected", share * 100.0)
        });
        format!("in {from}, streamed as {upload} into the ring's {} {}{only}{waits}", span(*at), way.words())
    }
}

impl Way {
    /// `over host - cuda:0 at 25.0 GB/s in 3.2 ms`.
    fn words(&self) -> String {
        let Way { from, to, over, rate, time } = self;
        let through = match over {
            Over::Same => return format!("within {from}"),
            Over::Nothing => return format!("with no way from {from} to {to}"),
            Over::Link => "",
            Over::SharedBus => " on a shared bus",
            Over::Host => " through the host",
        };
        let (rate, time) = (rate.unwrap_or_default().0 / 1e9, time.unwrap_or_default());
        format!("over {from} - {to}{through} at {rate:.1} GB/s in {time}")
    }
}

fn span(span: Span) -> String {
    if span.len == Bytes::ZERO {
        return "no bytes".to_owned();
    }
    format!("bytes {} to {} ({})", span.offset.0, span.end().0, span.len)
}
