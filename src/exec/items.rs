//! A plan's order as what each lane does: every device has a lane for its splits and the values that cross, and one on
//! which its weights come meanwhile. An item waits for at most one other, which is before it in the order of the plan: so
//! the lanes can be gone along by a thread each, or all by one thread in the order of the plan. Pure.

use super::bucket::{Bucket, Fetch};
use super::chosen::Came;
use crate::define_id;
use crate::device::DeviceId;
use crate::index::{Id, IndexVec};
use crate::plan::{SplitId, TransferId, UploadId};

define_id! {
    /// What one thread does of a step: see [`main`] and [`aside`].
    pub(super) LaneId("l"),
}

/// The lane of a device that computes and takes part in transfers.
pub(super) fn main(device: DeviceId) -> LaneId {
    LaneId(2 * device.0)
}

/// The lane on which a device's weights come while it computes.
pub(super) fn aside(device: DeviceId) -> LaneId {
    LaneId(2 * device.0 + 1)
}

/// The device of a lane.
pub(super) fn device_of(lane: LaneId) -> DeviceId {
    DeviceId(lane.0 / 2)
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Writes an input of the step, by its place among them.
    Input(usize),
    /// Brings a part of a weight.
    Fetch(UploadId),
    /// Hands a split over; its weights are there once the upload named is.
    Run(SplitId, Option<UploadId>),
    /// The value of a transfer may be taken.
    Offer,
    /// Takes in the value of a transfer, which is there once the split named is done.
    Take(TransferId, SplitId),
    /// The value that was offered has been taken.
    Taken,
    /// Reads the logits, which are there once the split named is done.
    Logits(SplitId),
    /// Waits for all that the lane began.
    End,
}

/// An item in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub lane: LaneId,
    pub item: Item,
    /// The lane of which so many items must be done first.
    pub need: Option<(LaneId, u64)>,
    /// The same in a step that brings only the experts that it chose.
    pub need_routed: Option<(LaneId, u64)>,
    /// Whether there is nothing to do, nor to wait for, in a step without outputs.
    pub outputs: bool,
}

/// All items of a step.
#[derive(Default)]
pub(super) struct Items {
    /// In the order of the plan.
    pub all: Vec<Placed>,
    /// Those of each lane, by their places in `all`.
    pub lanes: IndexVec<LaneId, Vec<usize>>,
    /// Whether nothing of a step can be done while something else is.
    pub serial: bool,
}

impl Items {
    /// What `bucket` does on so many devices.
    pub fn of(bucket: &Bucket, devices: usize) -> Items {
        let mut items = Items { lanes: (0..2 * devices).map(|_| Vec::new()).collect(), ..Items::default() };
        for (i, (_, device, _)) in bucket.inputs.iter().enumerate() {
            items.push(main(*device), Item::Input(i), None);
        }
        let (ran, taken) = (IndexVec::new(), IndexVec::new());
        let mut list = List { bucket, items, ran, taken, last: vec![None; devices] };
        list.steps();
        let List { mut items, last, .. } = list;
        let (device, _) = bucket.logits;
        if let Some(split) = last[device.index()] {
            items.push_for(true, main(device), Item::Logits(split), None);
        }
        for lane in items.lanes.ids().filter(|&lane| !items.lanes[lane].is_empty()).collect::<Vec<_>>() {
            items.push(lane, Item::End, None);
        }
        items.serial = is_serial(bucket);
        items
    }

    /// How many items of `lane` there are so far.
    fn done(&self, lane: LaneId) -> (LaneId, u64) {
        (lane, self.lanes[lane].len() as u64)
    }

    fn push(&mut self, lane: LaneId, item: Item, need: Option<(LaneId, u64)>) {
        self.push_for(false, lane, item, need);
    }

    /// As [`Items::push`]; perhaps only for steps with outputs.
    fn push_for(&mut self, outputs: bool, lane: LaneId, item: Item, need: Option<(LaneId, u64)>) {
        self.lanes[lane].push(self.all.len());
        self.all.push(Placed { lane, item, need, need_routed: None, outputs });
    }
}

/// Items while they are listed.
struct List<'a> {
    bucket: &'a Bucket,
    items: Items,
    /// When each split is done.
    ran: IndexVec<SplitId, (LaneId, u64)>,
    /// When each transfer is.
    taken: IndexVec<TransferId, (LaneId, u64)>,
    /// The last split of each device.
    last: Vec<Option<SplitId>>,
}

impl List<'_> {
    fn steps(&mut self) {
        let bucket = self.bucket;
        let (mut fetches, mut sends) = (bucket.fetches.iter_ids().peekable(), bucket.sends.iter_ids().peekable());
        for (id, stage) in bucket.stages.iter_ids() {
            let (device, mut brought) = (stage.device, None);
            while let Some((upload, fetch)) = fetches.next_if(|(_, fetch)| fetch.split == id) {
                self.fetch(stage.outputs, device, (upload, fetch));
                brought = Some(upload);
            }
            let need = brought.map(|_| self.items.done(aside(device)));
            self.items.push_for(stage.outputs, main(device), Item::Run(id, brought), need);
            self.ran.push(self.items.done(main(device)));
            self.last[device.index()] = Some(id);
            while let Some((transfer, send)) = sends.next_if(|(_, send)| send.after == id) {
                let Some(made) = self.last[send.from.index()] else {
                    self.taken.push((main(send.to), 0));
                    continue;
                };
                self.items.push_for(send.outputs, main(send.from), Item::Offer, None);
                let offered = self.items.done(main(send.from));
                self.items.push_for(send.outputs, main(send.to), Item::Take(transfer, made), Some(offered));
                let taken = self.items.done(main(send.to));
                self.taken.push(taken);
                self.items.push_for(send.outputs, main(send.from), Item::Taken, Some(taken));
            }
        }
    }

    /// An upload: both that it may wait for are done by the lane of its device that computes, so the later is all.
    fn fetch(&mut self, outputs: bool, device: DeviceId, (id, fetch): (UploadId, &Fetch)) {
        // The first of a step overwrites what the last one has read.
        let need = fetch.after.map_or((main(device), 0), |after| self.ran[after]);
        self.items.push_for(outputs, aside(device), Item::Fetch(id), Some(need));
        let known = fetch.routed.as_ref().map(|routed| match routed.came {
            Came::Made(split) => self.ran[split],
            Came::Taken(transfer) => self.taken[transfer],
        });
        if let Some(placed) = self.items.all.last_mut() {
            placed.need_routed = known.map(|known| known.max(need));
        }
    }
}

/// Whether every split waits for the one before, and no weights are brought.
fn is_serial(bucket: &Bucket) -> bool {
    let follows = |id: SplitId, device: DeviceId| {
        let before = SplitId(id.0 - 1);
        let same = bucket.stages[before].device == device;
        same || bucket.sends.iter().any(|send| send.after == before && send.to == device)
    };
    bucket.fetches.is_empty() && bucket.stages.iter_ids().skip(1).all(|(id, stage)| follows(id, stage.device))
}
