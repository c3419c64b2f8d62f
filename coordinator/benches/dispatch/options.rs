//! What is measured.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Episodes of one initial state, and environments: an iteration's episodes are a multiple of their product.
pub(crate) const SIBLINGS: u32 = 10;
pub(crate) const ENVIRONMENTS: u32 = 10;

const USAGE: &str = "options: --workers N --slots N --episodes N --iterations N --turns N --bytes N --rate EPISODES_PER_S \
                     --store sqlite|redis|redis-everysec --seconds LIMIT --folder FOLDER --json";

/// How much of what, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) workers: u32,
    /// Episodes that a worker rolls out at once.
    pub(crate) slots: u32,
    /// In all.
    pub(crate) episodes: u32,
    pub(crate) iterations: u32,
    /// Of each episode.
    pub(crate) turns: u32,
    /// Of each turn, as it is encoded on the wire.
    pub(crate) bytes: usize,
    /// Episodes per second that the workers would finish if the coordinator took no time: their slots and turns
    /// give the time that a turn takes.
    pub(crate) rate: f64,
    pub(crate) store: StoreKind,
    /// Ends the measurement when it has not ended by itself.
    pub(crate) seconds: u64,
    /// A temporary folder for everything is made in it.
    pub(crate) folder: PathBuf,
    #[serde(skip)]
    pub(crate) json: bool,
}

/// Where the coordinator remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoreKind {
    /// One file, `synchronous=FULL`.
    Sqlite,
    /// A `redis-server` of its own, with `appendonly yes` and `appendfsync always`.
    Redis,
    /// The same with `appendfsync everysec`, which may lose a second of acknowledged work.
    RedisEverysec,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self {
            workers: 1000,
            slots: 16,
            episodes: 100_000,
            iterations: 1,
            turns: 5,
            bytes: 4096,
            rate: 550.0,
            store: StoreKind::Sqlite,
            seconds: 900,
            folder: env!("CARGO_TARGET_TMPDIR").into(),
            json: false,
        };
        let mut args = args.iter();
        while let Some(name) = args.next() {
            if name == "--json" {
                options.json = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} needs a value; {USAGE}"))?;
            options.set(name, value)?;
        }
        let unit = SIBLINGS * ENVIRONMENTS * options.iterations;
        options.episodes = options.episodes.div_ceil(unit) * unit;
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = || value.parse().ok().filter(|n| *n > 0);
        let number = || number().ok_or_else(|| format!("{name} needs a number above 0, but is `{value}`"));
        match name {
            "--workers" => self.workers = number()?,
            "--slots" => self.slots = number()?,
            "--episodes" => self.episodes = number()?,
            "--iterations" => self.iterations = number()?,
            "--turns" => self.turns = number()?,
            "--bytes" => self.bytes = number()? as usize,
            "--rate" => self.rate = f64::from(number()?),
            "--seconds" => self.seconds = number()?.into(),
            "--folder" => self.folder = value.into(),
            "--store" => {
                self.store = match value {
                    "sqlite" => StoreKind::Sqlite,
                    "redis" => StoreKind::Redis,
                    "redis-everysec" => StoreKind::RedisEverysec,
                    _ => return Err(format!("there is no store `{value}`; {USAGE}")),
                }
            }
            _ => return Err(format!("there is no option {name}; {USAGE}")),
        }
        Ok(())
    }

    /// Mean time that a simulated worker takes for a turn, in seconds: the rate's closed loop.
    pub(crate) fn turn_seconds(&self) -> f64 {
        f64::from(self.workers * self.slots) / (self.rate * f64::from(self.turns))
    }

    pub(crate) const fn per_iteration(&self) -> u32 {
        self.episodes / self.iterations
    }
}
