//! How much of each node is given away, and which nodes are equally full.

use crate::{gpus::Gpus, nodes::Place};
use lattice::{
    record::{Capacity, Session},
    spec::{WorkloadSpec, empty_bytes},
};

/// How full a node is counts in steps of an eighth, so that small differences do not decide.
const STEPS: u64 = 8;
/// More than full: two replicas of one slot during a handover, say.
const LEVELS: usize = STEPS as usize + 2;

/// What the nodes hold. A walk over vacancies works on a copy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    loads: Vec<Load>,
    /// The living nodes by how full they are, in no order.
    levels: [Vec<Seat>; LEVELS],
    /// Apart from all else: few nodes have some, and few workloads ask for one.
    pub(crate) gpus: Gpus,
}

/// What one replica takes of its node, beside a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub(crate) memory: u64,
    /// Bytes that its empty volumes may have.
    pub(crate) disk: u64,
    /// Thousandths of processors.
    pub(crate) cpu: u64,
}

impl Need {
    pub(crate) fn of(spec: &WorkloadSpec) -> Self {
        Self { memory: spec.memory_reserved(), disk: empty_bytes(&spec.volumes), cpu: spec.reserve.cpu.0 }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// Of each the larger one.
    pub(crate) fn or_more(self, other: Self) -> Self {
        self.with(other, u64::max)
    }

    /// Whether this is enough for that. What has no volumes does not ask for room on the disk, nor what reserves no processor
    /// for one, however little is left.
    pub(crate) fn covers(self, needed: Self) -> bool {
        let has = |needed: u64, left: u64| needed == 0 || needed <= left;
        needed.memory <= self.memory && has(needed.disk, self.disk) && has(needed.cpu, self.cpu)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    fn with(self, other: Self, of_both: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            memory: of_both(self.memory, other.memory),
            disk: of_both(self.disk, other.disk),
            cpu: of_both(self.cpu, other.cpu),
        }
    }
}

/// What one node holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Of the node in rendezvous hashing.
    pub(crate) weight: u64,
    pub(crate) slots: u32,
    pub(crate) reserved: Need,
    /// Nothing, while the node is dead.
    pub(crate) capacity: Option<Room>,
    level: u8,
    /// In its level.
    seat: u32,
}

/// What a node declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) slots: u32,
    pub(crate) most: Need,
}

impl Room {
    pub(crate) fn of(session: &Session) -> Self {
        let Capacity { memory, slots, millicores } = session.capacity;
        Self { slots, most: Need { memory, disk: session.volumes.bytes, cpu: millicores } }
    }

    /// Whether there is room for one more beside so many that reserve so much.
    pub(crate) fn fits(&self, slots: u32, reserved: Need, needed: Need) -> bool {
        let has_memory = reserved.memory.saturating_add(needed.memory) <= self.most.memory;
        slots < self.slots && has_memory && self.most.minus(reserved).covers(Need { memory: 0, ..needed })
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    pub(crate) weight: u64,
    pub(crate) place: Place,
}

impl Load {
    pub(crate) fn has_room(&self, needed: Need) -> bool {
        self.capacity.is_some_and(|room| room.fits(self.slots, self.reserved, needed))
    }

    /// What may still be reserved.
    pub(crate) fn headroom(&self) -> Need {
        self.capacity.map_or(Need::default(), |room| room.most.minus(self.reserved))
    }

    /// In eighths of slots, memory or processors, whichever it has least of. Of a dead node it says nothing.
    pub(crate) fn fullness(&self) -> u8 {
        self.level
    }

    fn level_now(&self) -> u8 {
        let step = |used: u64, capacity: u64| match capacity {
            0 => STEPS,
            _ => used.saturating_mul(STEPS) / capacity,
        };
        let Some(Room { slots, most }) = self.capacity else { return 0 };
        // A node that offers no processors is not full of what nobody asks for.
        let cpu = if self.reserved.cpu == 0 { 0 } else { step(self.reserved.cpu, most.cpu) };
        let fullest = step(self.slots.into(), slots.into()).max(step(self.reserved.memory, most.memory)).max(cpu);
        u8::try_from(fullest).unwrap_or(u8::MAX).min(LEVELS as u8 - 1)
    }
}

impl Ledger {
    pub(crate) fn load(&self, place: Place) -> Load {
        self.loads.get(place).copied().unwrap_or_default()
    }

    pub(crate) fn has_room(&self, place: Place, needed: Need) -> bool {
        self.loads.get(place).is_some_and(|load| load.has_room(needed))
    }

    /// Living nodes that are equally full, the least full first.
    pub(crate) fn levels(&self) -> impl Iterator<Item = &[Seat]> {
        self.levels.iter().map(Vec::as_slice)
    }

    /// A node came, went, or declared something else.
    pub(crate) fn declare(&mut self, place: Place, weight: u64, capacity: Option<Room>) {
        if self.loads.len() <= place {
            self.loads.resize(place + 1, Load::default());
        }
        self.stand_up(place);
        if let Some(load) = self.loads.get_mut(place) {
            (load.capacity, load.weight) = (capacity, weight);
        }
        self.sit_down(place);
    }

    /// Nothing more fits here.
    pub(crate) fn close(&mut self, place: Place) {
        self.declare(place, self.load(place).weight, Some(Room { slots: 0, most: Need::default() }));
    }

    pub(crate) fn book(&mut self, place: Place, needed: Need) {
        self.change(place, |load| {
            load.slots = load.slots.saturating_add(1);
            load.reserved = load.reserved.plus(needed);
        });
    }

    pub(crate) fn unbook(&mut self, place: Place, needed: Need) {
        self.change(place, |load| {
            load.slots = load.slots.saturating_sub(1);
            load.reserved = load.reserved.minus(needed);
        });
    }

    fn change(&mut self, place: Place, change: impl FnOnce(&mut Load)) {
        let Some(load) = self.loads.get_mut(place) else { return };
        change(load);
        if load.capacity.is_some() && load.level_now() != load.level {
            self.stand_up(place);
            self.sit_down(place);
        }
    }

    /// Leave the level that the node sits in, if it does.
    fn stand_up(&mut self, place: Place) {
        let Some(load) = self.loads.get(place).copied().filter(|load| load.capacity.is_some()) else { return };
        let Some(level) = self.levels.get_mut(usize::from(load.level)) else { return };
        let seat = load.seat as usize;
        if seat >= level.len() {
            return;
        }
        level.swap_remove(seat);
        if let Some(moved) = level.get(seat).and_then(|moved| self.loads.get_mut(moved.place)) {
            moved.seat = load.seat;
        }
    }

    fn sit_down(&mut self, place: Place) {
        let Some(load) = self.loads.get_mut(place).filter(|load| load.capacity.is_some()) else { return };
        load.level = load.level_now();
        let Some(level) = self.levels.get_mut(usize::from(load.level)) else { return };
        load.seat = u32::try_from(level.len()).unwrap_or(u32::MAX);
        level.push(Seat { weight: load.weight, place });
    }
}
