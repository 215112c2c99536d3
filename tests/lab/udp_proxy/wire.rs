//! The wire inside the proxy: what happens to each packet, and when it arrives.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A rate-limited wire holds at most so much; what comes then is lost, as in a router.
const QUEUE: Duration = Duration::from_millis(100);

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From source to target.
    Forth,
    /// From target to source.
    Back,
}

/// A packet and where it goes.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) to: SocketAddr,
    pub(super) data: Vec<u8>,
}

/// What the wire does to packets.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) delay: Duration,
    pub(super) loss: u64,
    pub(super) duplicates: u64,
    pub(super) rate: Option<u64>,
    pub(super) cut: bool,
    /// Only these pass no more.
    pub(super) lost: Option<Direction>,
    pub(super) cut_after: Option<u64>,
    free_at: [Option<Instant>; 2],
    dice: u64,
}

#[derive(Debug, Default)]
struct Queue {
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    packets: std::collections::HashMap<u64, Packet>,
    next: u64,
}

/// Both directions of the wire.
#[derive(Debug, Default)]
pub(super) struct Wire {
    settings: Mutex<Settings>,
    bytes: [AtomicU64; 2],
    stopped: AtomicBool,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Wire {
    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bytes(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize].load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Lets a packet in at one end.
    pub(super) fn put(&self, direction: Direction, packet: Packet) {
        let Some((due, copies)) = self.fate(direction, packet.data.len() as u64) else { return };
        for _ in 0..copies {
            match due {
                // A send that fails is a lost packet.
                None => drop(packet.socket.send_to(&packet.data, packet.to)),
                Some(due) => self.enqueue(due, packet.clone()),
            }
        }
    }

    /// When the packet arrives (now if `None`) and how many times; nothing if it is lost.
    fn fate(&self, direction: Direction, length: u64) -> Option<(Option<Instant>, u32)> {
        let mut settings = self.settings();
        if settings.cut || settings.lost == Some(direction) {
            return None;
        }
        let counter = &self.bytes[direction as usize];
        let passed = counter.load(Ordering::Relaxed) + length;
        if matches!(direction, Direction::Forth) && settings.cut_after.is_some_and(|limit| passed > limit) {
            settings.cut = true;
            return None;
        }
        if settings.roll() < settings.loss {
            return None;
        }
        let mut due = None;
        let now = Instant::now();
        if let Some(rate) = settings.rate {
            let begin = settings.free_at[direction as usize].map_or(now, |free| free.max(now));
            if begin.duration_since(now) > QUEUE {
                return None;
            }
            let end = begin + Duration::from_nanos(length * 1_000_000_000 / rate.max(1));
            settings.free_at[direction as usize] = Some(end);
            due = Some(end);
        }
        if !settings.delay.is_zero() {
            due = Some(due.unwrap_or(now) + settings.delay);
        }
        counter.store(passed, Ordering::Relaxed);
        let copies = if settings.roll() < settings.duplicates { 2 } else { 1 };
        Some((due, copies))
    }

    fn enqueue(&self, due: Instant, packet: Packet) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let number = queue.next;
        queue.next += 1;
        queue.due.push(Reverse((due, number)));
        queue.packets.insert(number, packet);
        self.changed.notify_one();
    }

    /// The delivering thread: sends what is due.
    pub(super) fn deliver(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_stopped() {
            let now = Instant::now();
            match queue.due.peek().map(|Reverse((due, _))| *due) {
                Some(due) if due <= now => {
                    let number = queue.due.pop().map(|Reverse((_, number))| number);
                    if let Some(packet) = number.and_then(|number| queue.packets.remove(&number)) {
                        // A send that fails is a lost packet.
                        let _ = packet.socket.send_to(&packet.data, packet.to);
                    }
                }
                other => {
                    let pause = other.map_or(super::TICK, |due| due.duration_since(now).min(super::TICK));
                    let waited = self.changed.wait_timeout(queue, pause);
                    queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

impl Settings {
    /// A number below 1000, from a fixed sequence so that runs resemble each other.
    fn roll(&mut self) -> u64 {
        // Knuth's 64-bit linear congruential generator.
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % 1000
    }
}
