//! Whose submit a GPU gets next. Pure: what happens is told to it with the time at which it does, and it answers who may
//! begin.
//!
//! Each client, which is a replica, has a virtual time: the time of the GPU that it had, divided by its weight. The one
//! with the least goes next, and who comes back after a rest begins near to where the others are ([`CREDIT`]), so that nobody
//! saves time up. The time is measured: from a submit to its end, and what several devices have at the GPU at the same time they share in
//! equal parts, as drivers do it. So a client can't get more by submitting more, or by having more devices, or by
//! saying that its work is small. Nobody waits for ever: each submit moves its client back, if only by [`LEAST`].
//!
//! A GPU that has something to do is never kept idle for fairness, and a client that is alone is held back only so far that
//! one that comes does not find a long queue before it ([`AHEAD`]).

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Clients that have something at the GPU at the same time: one whose work takes long does not hold up everybody.
const LANES: usize = 2;
/// Submits that a client may have there in any case, so that the GPU need not wait for the next one.
const PIPELINED: u64 = 2;
/// How much work a client may have there if its submits are short.
const AHEAD: Duration = Duration::from_millis(20);
/// By how much a client may be further than the others that want something: less than this is not worth waiting for.
const SLACK: Duration = Duration::from_millis(10);
/// How much a client keeps of what it was due while it wanted nothing: one that waits for each submit before it asks for the
/// next wants nothing again and again.
const CREDIT: Duration = Duration::from_millis(100);
/// What each submit counts at least.
const LEAST: Duration = Duration::from_micros(1);
/// Virtual time goes in parts of nanoseconds, so that division by a weight loses nothing that counts.
const PARTS: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client(u64);

/// One submit, from when it is asked for until it is done. They count up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

#[derive(Debug, Default)]
pub(crate) struct Fair {
    clients: BTreeMap<Client, Account>,
    /// Up to when time was shared out.
    now: Duration,
    /// Of those that wanted something, the least virtual time there was. It never goes back.
    floor: u64,
    tickets: u64,
    names: u64,
}

#[derive(Debug)]
struct Account {
    weight: u64,
    virtual_time: u64,
    used: Duration,
    waiting: VecDeque<Ticket>,
    /// Submits that may begin, or did, and are not done.
    begun: u64,
    /// Devices that have something at the GPU.
    devices: u32,
    /// What one submit took lately, if any is done, and what was used when the last one was.
    typical: Option<Duration>,
    used_before: Duration,
}

impl Account {
    fn wants(&self) -> bool {
        self.begun > 0 || !self.waiting.is_empty()
    }

    fn charge(&mut self, time: Duration) {
        self.virtual_time = self.virtual_time.saturating_add(parts(time) / self.weight);
    }

    /// Whether the GPU has enough of it.
    fn is_ahead(&self) -> bool {
        let next = u32::try_from(self.begun.saturating_add(1)).unwrap_or(u32::MAX);
        self.begun >= PIPELINED && self.typical.is_none_or(|typical| typical.saturating_mul(next) > AHEAD)
    }
}

impl Fair {
    /// Weights are compared with each other: of twice the weight is twice the time.
    pub(crate) fn join(&mut self, weight: u32) -> Client {
        self.names += 1;
        let client = Client(self.names);
        let account = Account {
            weight: u64::from(weight.max(1)),
            virtual_time: self.floor,
            used: Duration::ZERO,
            waiting: VecDeque::new(),
            begun: 0,
            devices: 0,
            typical: None,
            used_before: Duration::ZERO,
        };
        self.clients.insert(client, account);
        client
    }

    pub(crate) fn leave(&mut self, client: Client, now: Duration) {
        self.advance(now);
        self.clients.remove(&client);
    }

    /// The client wants to submit something. [`Fair::next`] says when it may.
    pub(crate) fn ask(&mut self, client: Client, now: Duration) -> Ticket {
        self.advance(now);
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        if let Some(account) = self.clients.get_mut(&client) {
            let credit = parts(CREDIT) / account.weight;
            account.virtual_time = account.virtual_time.max(self.floor.saturating_sub(credit));
            account.waiting.push_back(ticket);
        }
        ticket
    }

    /// It does not want it any more, and did not begin.
    pub(crate) fn cancel(&mut self, client: Client, ticket: Ticket, now: Duration) {
        self.advance(now);
        if let Some(account) = self.clients.get_mut(&client) {
            account.waiting.retain(|waiting| *waiting != ticket);
        }
    }

    /// Who may begin now. To be asked until nobody may, after each event, and again after a while as long as somebody waits.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Ticket> {
        self.advance(now);
        let lanes = self.clients.values().filter(|account| account.begun > 0).count();
        let least =
            self.clients.values().filter(|account| account.wants()).map(|account| account.virtual_time).min()?;
        let mut waiting: Vec<(u64, Ticket, Client)> = Vec::new();
        for (client, account) in &self.clients {
            let first = account.waiting.front();
            waiting.extend(first.map(|ticket| (account.virtual_time, *ticket, *client)));
        }
        waiting.sort_unstable();
        for (virtual_time, ticket, client) in waiting {
            let account = self.clients.get_mut(&client)?;
            // Nobody overtakes one that waits for a lane, or lanes would never be free for it.
            if virtual_time > least.saturating_add(parts(SLACK) / account.weight)
                || (account.begun == 0 && lanes >= LANES)
            {
                return None;
            }
            if account.is_ahead() {
                continue;
            }
            account.waiting.pop_front();
            account.begun += 1;
            account.charge(LEAST);
            return Some(ticket);
        }
        None
    }

    /// A device of the client has something at the GPU, which had nothing there before.
    pub(crate) fn busy(&mut self, client: Client, now: Duration) {
        self.advance(now);
        if let Some(account) = self.clients.get_mut(&client) {
            account.devices += 1;
        }
    }

    /// It has nothing there any more.
    pub(crate) fn idle(&mut self, client: Client, now: Duration) {
        self.advance(now);
        if let Some(account) = self.clients.get_mut(&client) {
            account.devices = account.devices.saturating_sub(1);
        }
    }

    /// One submit that began is done, or will never be.
    pub(crate) fn done(&mut self, client: Client, now: Duration) {
        self.advance(now);
        if let Some(account) = self.clients.get_mut(&client) {
            account.begun = account.begun.saturating_sub(1);
            let took = account.used.saturating_sub(account.used_before);
            account.used_before = account.used;
            account.typical = Some(account.typical.map_or(took, |typical| (typical * 3 + took) / 4));
        }
    }

    /// Whether another client wants something.
    pub(crate) fn is_contended(&self, client: Client) -> bool {
        self.clients.iter().any(|(other, account)| *other != client && account.wants())
    }

    /// The GPU's time that the client had.
    pub(crate) fn used(&mut self, client: Client, now: Duration) -> Duration {
        self.advance(now);
        self.clients.get(&client).map(|account| account.used).unwrap_or_default()
    }

    /// Shares out the time since the last event. Times never go back.
    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        let devices: u32 = self.clients.values().map(|account| account.devices).sum();
        if devices > 0 {
            for account in self.clients.values_mut().filter(|account| account.devices > 0) {
                let share = passed / devices * account.devices;
                account.used += share;
                account.charge(share);
            }
        }
        let wanting = self.clients.values().filter(|account| account.wants());
        if let Some(least) = wanting.map(|account| account.virtual_time).min() {
            self.floor = self.floor.max(least);
        }
    }
}

/// Of a client of the weight 1.
fn parts(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// What a client does: its weight, its devices, how long one submit takes the GPU alone in ms, and how many it has asked
    /// for at a time.
    #[derive(Debug, Clone)]
    struct Load {
        weight: u32,
        devices: u32,
        takes: u64,
        asks: usize,
        /// Of the GPU's milliseconds, from when and until when it wants something.
        from: u64,
        until: u64,
    }

    const ALWAYS: Load = Load { weight: 1, devices: 1, takes: 5, asks: 4, from: 0, until: u64::MAX };

    #[derive(Default)]
    struct Device {
        /// What is left of each submit, in microseconds.
        queue: VecDeque<u64>,
    }

    /// A GPU that works on the first submit of each device by turns, for some milliseconds. Answers how long each client
    /// had it in truth, and the longest time for which each waited for a submit to begin.
    fn run(loads: &[Load], for_ms: u64) -> Vec<(u64, u64)> {
        let mut fair = Fair::default();
        let clients: Vec<_> = loads.iter().map(|load| fair.join(load.weight)).collect();
        let mut devices: Vec<Vec<Device>> =
            loads.iter().map(|load| (0..load.devices).map(|_| Device::default()).collect()).collect();
        let mut asked: Vec<BTreeMap<Ticket, u64>> = vec![BTreeMap::new(); loads.len()];
        let mut had = vec![(0, 0); loads.len()];
        for at in 0..for_ms {
            let now = ms(at);
            for (i, load) in loads.iter().enumerate() {
                while (load.from..load.until).contains(&at) && asked[i].len() < load.asks {
                    asked[i].insert(fair.ask(clients[i], now), at);
                }
            }
            while let Some(ticket) = fair.next(now) {
                let i = asked.iter().position(|asked| asked.contains_key(&ticket)).expect("it was asked for");
                let since = asked[i].remove(&ticket).unwrap();
                had[i].1 = at.saturating_sub(since).max(had[i].1);
                let device = devices[i].iter_mut().min_by_key(|device| device.queue.len()).unwrap();
                if device.queue.is_empty() {
                    fair.busy(clients[i], now);
                }
                device.queue.push_back(loads[i].takes * 1000);
            }
            let busy: Vec<_> = devices.iter().flatten().filter(|device| !device.queue.is_empty()).collect();
            let mut left = 1000;
            let mut running = busy.len() as u64;
            assert!(running > 0 || asked.iter().all(BTreeMap::is_empty), "the GPU is idle at {at} and somebody waits");
            for (i, of_client) in devices.iter_mut().enumerate() {
                for device in of_client.iter_mut().filter(|device| !device.queue.is_empty()) {
                    let share = left / running;
                    (left, running) = (left - share, running - 1);
                    had[i].0 += share;
                    device.queue[0] = device.queue[0].saturating_sub(share);
                    if device.queue[0] == 0 {
                        device.queue.pop_front();
                        let then = ms(at + 1);
                        if device.queue.is_empty() {
                            fair.idle(clients[i], then);
                        }
                        fair.done(clients[i], then);
                    }
                }
            }
        }
        for (i, client) in clients.iter().enumerate() {
            let measured = fair.used(*client, ms(for_ms)).as_micros() as i64;
            assert!((measured - had[i].0 as i64).abs() < 20_000, "{measured} are measured of {:?}", had[i]);
        }
        had
    }

    /// Of the time, in percent.
    fn shares(loads: &[Load]) -> Vec<u64> {
        let had = run(loads, 20_000);
        let all: u64 = had.iter().map(|(time, _)| time).sum();
        had.iter().map(|(time, _)| (time * 100 + all / 2) / all).collect()
    }

    #[test]
    fn time_is_shared_by_weight_whatever_is_submitted() {
        assert_eq!(shares(&[ALWAYS, ALWAYS]), [50, 50]);
        let near = |loads: &[Load], expected: &[u64]| {
            let shares = shares(loads);
            let is_near = shares.iter().zip(expected).all(|(share, expected)| share.abs_diff(*expected) <= 2);
            assert!(is_near, "{shares:?} is not {expected:?} for {loads:?}");
        };
        near(&[ALWAYS, Load { devices: 4, asks: 64, ..ALWAYS }], &[50, 50]);
        near(&[ALWAYS, Load { takes: 200, ..ALWAYS }], &[50, 50]);
        near(&[ALWAYS, Load { weight: 3, ..ALWAYS }], &[25, 75]);
        near(
            &[ALWAYS, Load { weight: 3, ..ALWAYS }, Load { devices: 4, takes: 50, asks: 64, ..ALWAYS }],
            &[20, 60, 20],
        );
        near(&vec![ALWAYS; 10], &[10; 10]);
    }

    #[test]
    fn who_is_alone_has_all_of_it_and_nobody_saves_up() {
        let rests = Load { from: 10_000, ..ALWAYS };
        let had = run(&[Load { asks: 64, ..ALWAYS }, rests], 20_000);
        assert!((14_500_000..15_500_000).contains(&had[0].0), "all of the first half, and half of the second: {had:?}");
        assert!(had[1].1 < 100, "it did not find a queue before it: {had:?}");
    }

    #[test]
    fn what_never_ends_does_not_hold_up_the_others() {
        let endless = Load { takes: 1_000_000, ..ALWAYS };
        let had = run(&[endless.clone(), ALWAYS, ALWAYS], 20_000);
        assert!(had[1].0 > 4_000_000 && had[2].0 > 4_000_000, "{had:?}");
        assert!(had[1].1 < 200 && had[2].1 < 200, "{had:?}");
    }

    #[test]
    fn what_is_not_wanted_any_more_takes_no_turn() {
        let mut fair = Fair::default();
        let (one, other) = (fair.join(1), fair.join(1));
        let first = fair.ask(one, ms(0));
        let second = fair.ask(other, ms(0));
        fair.cancel(one, first, ms(0));
        assert_eq!((fair.next(ms(0)), fair.next(ms(0))), (Some(second), None));
        assert!(fair.is_contended(one) && !fair.is_contended(other));
        fair.leave(other, ms(1));
        assert!(!fair.is_contended(one));
        // What comes after its client left is nothing.
        fair.busy(other, ms(1));
        fair.done(other, ms(2));
        let late = fair.ask(other, ms(2));
        fair.cancel(other, late, ms(2));
        assert_eq!((fair.next(ms(3)), fair.used(other, ms(3))), (None, Duration::ZERO));
    }

    fn loads() -> impl Strategy<Value = Load> {
        (1_u32..8, 1_u32..5, 1_u64..40, 1_usize..20).prop_map(|(weight, devices, takes, asks)| Load {
            weight,
            devices,
            takes,
            asks: asks.max(devices as usize * 2),
            ..ALWAYS
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whoever_asks_gets_its_share_and_nobody_waits_for_ever(loads in proptest::collection::vec(loads(), 1..7)) {
            let had = run(&loads, 12_000);
            let weights: u64 = loads.iter().map(|load| u64::from(load.weight)).sum();
            for ((time, waited), load) in had.iter().zip(&loads) {
                let due = 12_000_000 * u64::from(load.weight) / weights;
                // Some of what it is due may be under way: a submit can't be taken back.
                let rest = 400_000 + due / 10;
                prop_assert!(time.abs_diff(due) <= rest, "{time} of {due} in {had:?} for {loads:?}");
                prop_assert!(*waited < 12_000 && *time > 0, "{had:?}");
            }
        }
    }
}
