/// Why the store refused or could not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The id is taken.
    #[error("there is a run `{0}` already; choose another name with --name")]
    RunExists(String),
    /// No run of this id.
    #[error("there is no run `{0}`; `influence runs` lists those there are")]
    NoSuchRun(String),
    /// No episode and no training job of this id in the run.
    #[error("run `{run}` has no work `{work}`")]
    NoSuchWork {
        /// The run.
        run: String,
        /// The work.
        work: String,
    },
    /// A later attempt holds the work.
    #[error("attempt {attempt} of `{work}` is fenced off: attempt {current} is the current one")]
    Fenced {
        /// The work.
        work: String,
        /// The caller's attempt.
        attempt: u32,
        /// The current attempt.
        current: u32,
    },
    /// The work is complete: no attempt is needed.
    #[error("`{work}` is finished already")]
    AlreadyFinished {
        /// The work.
        work: String,
    },
    /// The work was given up after too many attempts: no result is wanted.
    #[error("`{work}` was given up")]
    GivenUp {
        /// The work.
        work: String,
    },
    /// The call contradicts what is stored.
    #[error("{what} contradicts what is stored: {problem}")]
    Conflict {
        /// What the call was about.
        what: String,
        /// How it differs.
        problem: String,
    },
    /// The disk or the quota is full.
    #[error(
        "the disk is full: {store} cannot be written ({detail}); free some space and give the same command again: nothing acknowledged is lost"
    )]
    Full {
        /// The store's file or address.
        store: String,
        /// Its words.
        detail: String,
    },
    /// Another process holds the store for too long.
    #[error("{store} is locked by another process ({detail}); end that process, or wait for it")]
    Busy {
        /// The store's file or address.
        store: String,
        /// Its words.
        detail: String,
    },
    /// Another process leads the run.
    #[error(
        "run `{run}` is already being carried on by {leader}; wait for it or end it, or start a run of your own with --name NAME"
    )]
    Led {
        /// The run.
        run: String,
        /// Who leads it.
        leader: String,
    },
    /// This handle does not lead the run, or no longer.
    #[error("run `{run}` is not led from here (any more): {leader} leads it")]
    NotLeader {
        /// The run.
        run: String,
        /// Who leads it, or `nobody`.
        leader: String,
    },
    /// The store's server does not answer, or cannot write.
    #[error(
        "the store {store} does not answer: {detail}; nothing acknowledged is lost, and work goes on once it is back"
    )]
    Away {
        /// The store's file or address.
        store: String,
        /// Its words.
        detail: String,
    },
    /// Reading or writing failed.
    #[error("{store} cannot be read or written: {detail}; check the disk and the file's permissions")]
    Io {
        /// The store's file or address.
        store: String,
        /// Its words.
        detail: String,
    },
    /// A later release wrote the file.
    #[error(
        "{store} has schema version {found}, but this release knows only up to {known}; use the release that wrote it, or another --data folder"
    )]
    Newer {
        /// The store's file or address.
        store: String,
        /// Its version.
        found: u32,
        /// The highest version that this release knows.
        known: u32,
    },
    /// The file holds something else, or is damaged.
    #[error("{store} is not a readable store: {detail}; move it away, or use another --data folder")]
    Unreadable {
        /// The store's file or address.
        store: String,
        /// What is wrong.
        detail: String,
    },
    /// The store's own thread has ended.
    #[error("the store {store} is closed")]
    Closed {
        /// The store's file or address.
        store: String,
    },
}

impl StoreError {
    /// Whether the call says nothing about its work: the store is away, or another process leads the
    /// run and decides.
    pub const fn is_no_answer(&self) -> bool {
        self.retryable() || matches!(self, Self::NotLeader { .. })
    }

    /// Whether the same call may succeed later, with nothing changed but the world around.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Busy { .. } | Self::Io { .. } | Self::Away { .. })
    }
}
