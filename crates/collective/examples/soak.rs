//! Collectives without end: random calls, sizes, elements and delays over links of every kind, every result checked
//! against a plain computation.
//!
//! `cargo run --release -p collective --example soak [collectives] [seed]`
//!
//! The ranks draw the same calls from the same seed. It ends with an error that says which call failed, and its seed.

use std::{
    env,
    net::{TcpListener, TcpStream},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use base::RankId;
use collective::{Element, Group, Mesh, World};
use half::{bf16, f16};
use transport::{
    Link, MemoryControl, MemoryLink, TcpLink,
    shm::{self, TOKEN_BYTES},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
type Links = Vec<(RankId, Box<dyn Link>)>;

const N_COLLECTIVES: u64 = 10_000_000;
/// Collectives of one world; then the next one, of another size, is made.
const N_OF_A_WORLD: u64 = 20_000;
const N_RANKS: Range<u64> = 2..6;
/// Most numbers of a part; small ones are by far the most frequent.
const MAX_LEN: u64 = 20_000;
/// Longest delay of a memory link, in microseconds.
const MAX_DELAY_US: u64 = 300;
const DEADLINE: Duration = Duration::from_secs(60);
/// More ranks than cores.
const SPIN: Duration = Duration::from_micros(5);

fn main() -> Result<()> {
    let mut args = env::args().skip(1).map(|arg| arg.parse());
    let n_collectives: u64 = args.next().transpose()?.unwrap_or(N_COLLECTIVES);
    let seed: u64 = args.next().transpose()?.unwrap_or(1);
    let (start, mut said, mut n_done) = (Instant::now(), Instant::now(), 0);
    while n_done < n_collectives {
        let n = N_OF_A_WORLD.min(n_collectives - n_done);
        soak_world(seed.wrapping_add(n_done), n)?;
        n_done += n;
        if said.elapsed() > Duration::from_secs(10) || n_done == n_collectives {
            println!("{n_done} collectives, every result right, {:.0} s", start.elapsed().as_secs_f64());
            said = Instant::now();
        }
    }
    Ok(())
}

/// One world, each rank on a thread.
fn soak_world(seed: u64, n: u64) -> Result<()> {
    let (links, controls) = link_up(Dice(seed).of(N_RANKS) as usize)?;
    thread::scope(|s| {
        let ranks = links.into_iter().zip(&controls).enumerate();
        let ranks: Vec<_> = ranks
            .map(|(me, (links, controls))| s.spawn(move || soak_rank(me, links, controls, seed, n)))
            .collect();
        ranks.into_iter().try_for_each(|rank| rank.join().map_err(|_| "a rank panicked")?)
    })
}

fn soak_rank(me: usize, links: Links, controls: &[MemoryControl], seed: u64, n: u64) -> Result<()> {
    let mut world = World::new(RankId(me as u32), links, DEADLINE)?.with_incarnation(seed as u32);
    world.set_spin(SPIN);
    let mut group = Mesh::whole(world.shared())?;
    let (mut dice, mut own_dice) = (Dice(seed), Dice(seed ^ ((me as u64 + 1) << 40)));
    group.set_slices_from_bytes(dice.of(0..100_000) as usize);
    for i in 0..n {
        let delay_us = match own_dice.of(0..256) {
            0 => Some(own_dice.of(0..MAX_DELAY_US)),
            1..16 => Some(0),
            _ => None,
        };
        if let Some(us) = delay_us {
            controls.iter().for_each(|control| control.delay(Duration::from_micros(us)));
        }
        let call = Call::drawn(&mut dice, group.size());
        let done = match dice.of(0..3) {
            0 => call.check::<f32>(&mut group, |x| x),
            1 => call.check(&mut group, f16::from_f32),
            _ => call.check(&mut group, bf16::from_f32),
        };
        done.map_err(|why| format!("seed {seed}, collective {i} ({call:?}) on rank {me}: {why}"))?;
    }
    Ok(group.barrier()?)
}

/// What all ranks do next.
#[derive(Debug)]
struct Call {
    op: u64,
    root: usize,
    lens: Vec<usize>,
    salt: u64,
}

impl Call {
    fn drawn(dice: &mut Dice, n_ranks: usize) -> Call {
        let (op, root, salt) = (dice.of(0..7), dice.of(0..n_ranks as u64) as usize, dice.next());
        let max = if dice.of(0..50) == 0 { MAX_LEN } else { 60 };
        Call { op, root, lens: (0..n_ranks).map(|_| dice.of(0..max) as usize).collect(), salt }
    }

    /// Rank `rank`'s `i`-th number: small whole ones, whose sums every element holds exactly.
    fn number(&self, rank: usize, i: usize) -> f32 {
        let x = (self.salt ^ ((rank as u64) << 32)).wrapping_add(i as u64);
        (x.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as f32 - 8.0
    }

    fn check<T: Element + PartialEq>(&self, group: &mut Mesh, of: fn(f32) -> T) -> Result<()> {
        let (me, n, all) = (group.rank(), self.lens.len(), self.lens.iter().sum());
        let (root, other) = (self.root, (self.root + 1) % n);
        let (start, own) = (self.lens[..me].iter().sum(), self.lens[me]);
        let numbers = |rank, len| -> Vec<T> { (0..len).map(|i| of(self.number(rank, i))).collect() };
        let gathered = || (0..n).flat_map(|rank| numbers(rank, self.lens[rank])).collect();
        let sum = |i| of((0..n).map(|rank| self.number(rank, i)).sum());
        let (mut whole, mut part) = (numbers(me, all), numbers(me, own));
        let expected: Vec<T> = match self.op {
            0 | 1 => {
                group.all_reduce((&mut whole[..]).into())?;
                (0..all).map(sum).collect()
            }
            2 => {
                group.all_gather((&part[..]).into(), &self.lens, (&mut whole[..]).into())?;
                gathered()
            }
            3 => {
                group.reduce_scatter((&whole[..]).into(), &self.lens, (&mut part[..]).into())?;
                whole = part;
                (start..start + own).map(sum).collect()
            }
            4 => {
                group.gather(root, (&part[..]).into(), &self.lens, (&mut whole[..]).into())?;
                if me == root { gathered() } else { numbers(me, all) }
            }
            5 => {
                group.broadcast(root, (&mut whole[..]).into())?;
                numbers(root, all)
            }
            _ if me == other => {
                group.recv(root, (&mut whole[..]).into())?;
                numbers(root, all)
            }
            _ if me == root => {
                group.send(other, (&whole[..]).into())?;
                numbers(me, all)
            }
            _ => return Ok(()),
        };
        match whole == expected {
            true => Ok(()),
            false => Err("the result is not what a plain computation gives".into()),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn of(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }
}

/// Every pair of ranks linked, over the three kinds in turn, and each rank's hands on its memory links.
fn link_up(n_ranks: usize) -> Result<(Vec<Links>, Vec<Vec<MemoryControl>>)> {
    let mut links: Vec<Links> = (0..n_ranks).map(|_| Vec::new()).collect();
    let mut controls: Vec<Vec<_>> = (0..n_ranks).map(|_| Vec::new()).collect();
    for (a, b) in (0..n_ranks).flat_map(|a| (a + 1..n_ranks).map(move |b| (a, b))) {
        let (to_b, to_a): (Box<dyn Link>, Box<dyn Link>) = match (a + b) % 3 {
            1 => {
                let (to_b, to_a) = MemoryLink::pair();
                controls[a].push(to_b.control());
                controls[b].push(to_a.control());
                (Box::new(to_b), Box::new(to_a))
            }
            kind => {
                let listener = TcpListener::bind(("127.0.0.1", 0))?;
                let mut to_b = TcpLink::new(TcpStream::connect(listener.local_addr()?)?, "tcp peer")?;
                let mut to_a = TcpLink::new(listener.accept()?.0, "tcp peer")?;
                if kind == 0 {
                    (Box::new(to_b), Box::new(to_a))
                } else {
                    let guest = thread::spawn(move || shm::accept(&mut to_a, DEADLINE));
                    let maker = shm::offer(&mut to_b, [1; TOKEN_BYTES], &env::temp_dir(), DEADLINE)?;
                    (Box::new(maker), Box::new(guest.join().map_err(|_| "the guest panicked")??))
                }
            }
        };
        links[a].push((RankId(b as u32), to_b));
        links[b].push((RankId(a as u32), to_a));
    }
    Ok((links, controls))
}
